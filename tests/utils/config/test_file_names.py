"""utils/config/file_names.py: names that every system takes."""

import pytest

from utils.config.file_names import is_portable_name

SAFE = ["pt_1", "HN 042", "ünï", "a.b", "患者", "CONTOUR", "console", "com10", "nullify", "lpt", "LPT_1", "a.nul"]
UNSAFE = ["", ".", "..", ".a", " ", "a ", "a.", "a/b", "a\\b", "a:b", "a?", "a*", "a|b", 'a"b', "<a>", "a\tb"]
DEVICES = ["con", "CON", "Nul", "aux", "prn", "COM1", "lpt9", "COM\u00b9", "nul.txt", "com1.nii.gz", "con .a"]


@pytest.mark.parametrize("name", SAFE)
def test_usual_names_are_portable(name):
    assert is_portable_name(name)


@pytest.mark.parametrize("name", [*UNSAFE, *DEVICES])
def test_what_windows_refuses_is_not(name):
    assert not is_portable_name(name)

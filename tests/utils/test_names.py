"""utils/names.py: names that become paths."""

import pytest

from utils.names import require_safe_name


@pytest.mark.parametrize("name", ["pt_1", "HN 042", "ünï", "a.b", "0522c0001"])
def test_names_of_cases_are_taken_as_they_are(name):
    assert require_safe_name(name, "splits.json") == name


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/a", "a/../b", "a\\..\\b", "a\x00b", "a\nb", ".a", None, 3])
def test_what_could_lead_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="splits.json: .* is no name of a case"):
        require_safe_name(name, "splits.json")

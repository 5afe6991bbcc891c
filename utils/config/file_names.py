"""Names that can name a file on every system."""

import re

FORBIDDEN = re.compile(r'[\x00-\x1f/\\<>:"|?*]|^\.|[. ]$')
DEVICE = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, also with a suffix:
learn.microsoft.com/windows/win32/fileio/naming-a-file."""


def is_portable_name(name: str) -> bool:
    """Whether a name can name a file or a folder on Linux, macOS and Windows, and leads to no other folder."""
    return bool(name) and not FORBIDDEN.search(name) and not DEVICE.fullmatch(name)

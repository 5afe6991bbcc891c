"""What some tests need of the operating system, and Windows does not have."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="Windows cannot kill by signal or limit the size of files")
ANY_NAME = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this system's names of files are Unicode")
NOT_UTF8 = os.fsdecode(b"M\xfcller")
"""A name in Latin-1, as older disks and archives have them; printed as M%FCller."""
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def limited_file_size(num_bytes: int) -> Iterator[None]:
    """Make the system refuse to write more than so many bytes into a file, as a full disk does."""
    import resource  # Windows has none

    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)

"""What some tests need of the operating system, and Windows does not have."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="Windows cannot kill by signal or limit the size of files")
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

"""What some tests need of the operating system, and Windows does not have."""

import errno
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from utils.io import files

POSIX_ONLY = pytest.mark.skipif(os.name == "nt", reason="Windows cannot kill by signal or limit the size of files")


FORK_ONLY = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="workers are new processes, without what a test has replaced"
)


def can_link() -> bool:
    """Whether this user may make links; on Windows, only administrators and developers may."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            (Path(folder) / "link").symlink_to(folder, target_is_directory=True)
        except OSError:
            return False
    return True


LINKS_ONLY = pytest.mark.skipif(not can_link(), reason="this user may not make links")
MAKE_ONLY = pytest.mark.skipif(shutil.which("make") is None, reason="this system has no make")
BASH_ONLY = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="this system has no bash")
ANY_NAME = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="this system's names of files are Unicode")
NOT_UTF8 = b"M\xfcller".decode("utf-8", "surrogateescape")
"""A name in Latin-1, as older disks and archives have them; printed as M%FCller."""
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@contextmanager
def held_by_another_program(held: Collection[Path], num_attempts: int = 1000) -> Iterator[None]:
    """Refuse so often to rename, replace or delete some files, as Windows does while a program has them open."""
    left = [num_attempts]

    def refuse(*paths: object) -> None:
        if left[0] and not {Path(path) for path in paths}.isdisjoint(held):
            left[0] -= 1
            raise PermissionError(errno.EACCES, "Access is denied", *map(str, paths))

    def replace(source: object, target: object) -> None:
        refuse(source, target)
        usual[0](source, target)

    def unlink(path: object, **options: object) -> None:
        refuse(path)
        usual[1](path, **options)

    usual = os.replace, os.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr(os, "unlink", unlink)
        patch.setattr(files, "WAITS_S", (0.001, 0.001))
        yield


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

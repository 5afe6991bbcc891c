"""Which files a command may replace: its own, and no others.

A command leaves a record among its files: a JSON file, written before the files that it stands for. A file that exists
without a record of the command, or that was changed since, is somebody else's.
"""

import hashlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from utils.errors import UserError, shorten
from utils.io.files import read_json


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path, keys: Collection[str]) -> dict[str, Any] | None:
    """The record at `path`; None if there is no file, or one that lacks some of `keys`: it is of another program."""
    try:
        content = read_json(path)
    except UserError:
        return None
    return content if content.keys() >= set(keys) else None


def files_at(path: Path) -> list[Path]:
    """The file at a path, all files below it if it is a folder, or none."""
    if path.is_dir() and not path.is_symlink():
        return sorted(found for found in path.rglob("*") if found.is_symlink() or not found.is_dir())
    return [path] if os.path.lexists(path) else []


def require_own(paths: Iterable[Path], own: Collection[Path] = ()) -> None:
    """Check that a command can write to some paths without replacing somebody else's file.

    Args:
        paths: of files and folders to write.
        own: files that the command wrote earlier, by its record.

    Raises:
        UserError: another file is there; the message names the first ones.
    """
    foreign = [file for path in paths for file in files_at(path) if file not in own]
    if foreign:
        raise UserError(
            f"{shorten(foreign)}: not written by this command, or changed since, so nothing is replaced; move "
            f"{'it' if len(foreign) == 1 else 'them'} away or choose another output"
        )

"""Files and folders that appear complete or not at all."""

import codecs
import errno
import json
import logging
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.config.file_names import is_portable_name
from utils.errors import UserError

WAITS_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Between attempts to rename or delete a file that another program has open: virus scanners and indexers of Windows
open new files, but soon close them."""

logger = logging.getLogger(__name__)


@contextmanager
def atomic_write(path: Path, suffix: str | None = None, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path, at which the caller creates a file or a folder: renamed on success, removed on failure.

    Args:
        path: the final path; its folder is created. An existing file is replaced, a folder with files is not.
        suffix: of the temporary name, for writers that choose the format by it.
        durable: wait until the file's content is on the disk before renaming it, so that it survives a power cut.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{suffix or ''}")
    try:
        yield partial
        if durable:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        _replace(partial, path, str(path))
    except OSError as error:  # a failed write does not name its file, and others name the temporary one
        if error.errno is not None:
            error.filename = str(error.filename or path).replace(str(partial), str(path))
        raise
    finally:
        _clean_up(partial)


class FileInUseError(UserError):
    """The system refuses for seconds to replace or delete a file."""


def replace_file(source: Path, target: Path) -> None:
    """Rename a file or a folder; an existing target is replaced, unless it is a folder with files.

    Raises:
        FileInUseError: another program has one of them open, on Windows. Nothing has changed.
    """
    _replace(source, target, f"{target}, {source.name}" if target.exists() else str(source))


def move_all(moves: Iterable[tuple[Path, Path]]) -> None:
    """Rename files, each from its first path to its second one: all of them, or none if one cannot be renamed.

    Raises:
        FileInUseError: as `replace_file`.
    """
    done: list[tuple[Path, Path]] = []
    try:
        for source, target in moves:
            replace_file(source, target)
            done.append((source, target))
    except (OSError, FileInUseError):
        for source, target in reversed(done):
            source.parent.mkdir(exist_ok=True)  # it may have been an empty folder that another one replaced
            replace_file(target, source)
        raise


def remove_file(path: Path) -> None:
    """Delete a file that may be missing, or a folder with all of its files.

    Raises:
        FileInUseError: another program has it open, on Windows.
    """
    _retry((lambda: shutil.rmtree(path)) if path.is_dir() else (lambda: path.unlink(missing_ok=True)), str(path))


def _replace(source: Path, target: Path, where: str) -> None:
    if source.is_dir() and target.is_dir():
        target.rmdir()  # Windows renames no folder onto an empty one
    elif target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))  # Windows: permission denied
    _retry(lambda: os.replace(source, target), where)


def _retry(action: Callable[[], None], where: str) -> None:
    for wait_s in WAITS_S:
        try:
            return action()
        except PermissionError:
            time.sleep(wait_s)
    try:
        return action()
    except PermissionError as error:
        raise FileInUseError(
            f"{where}: cannot be replaced or deleted ({error.strerror}): another program has it open, or it is "
            "write-protected; close that program or change the permissions, then run again"
        ) from error


@contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`. The caller moves files out of it when all are complete."""
    make_folder(path.parent)
    folder = path.with_name(f".{path.name}.{os.getpid()}.partial")
    folder.mkdir()
    try:
        yield folder
    finally:
        _clean_up(folder)


def remove_partials(path: Path) -> None:
    """Remove the temporary files and folders of `path` that killed processes left; no process may be writing it."""
    of_path = re.compile(rf"\.{re.escape(path.name)}\.\d+\.partial(\..+)?")
    for partial in path.parent.glob(".*.partial*"):
        if of_path.fullmatch(partial.name):
            _clean_up(partial)


def remove_all_partials(folder: Path) -> None:
    """Remove the temporary files of a folder that killed processes left; no process may be writing in it."""
    for partial in folder.glob(".*.partial*"):
        if partial.is_file():
            _clean_up(partial)


def folders_below(folder: Path) -> list[Path]:
    """A folder and every folder below it that is not hidden, sorted; linked folders too, but none of them twice."""
    waiting, links, found = deque([folder]), deque(), {}
    while waiting or links:  # links last: a folder keeps its own name
        path = (waiting or links).popleft()
        if found.setdefault(path.resolve(), path) is path:
            for inner in visible_folders(path):
                (links if inner.is_symlink() else waiting).append(inner)
    return sorted(found.values())


def visible_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden; none, with a warning, if the folder may not be read."""
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except PermissionError:
        logger.warning("%s: permission denied; what lies in it is left out", folder)
        return []


def files_below(folder: Path) -> list[Path]:
    """The files in a folder and in those of `folders_below` that are not hidden, sorted; also links to missing ones."""
    entries = (entry for path in folders_below(folder) if os.access(path, os.R_OK) for entry in path.iterdir())
    visible = (entry for entry in entries if not entry.name.startswith("."))
    return sorted(entry for entry in visible if entry.is_file() or is_broken_link(entry))


def is_broken_link(path: Path) -> bool:
    """Whether a path is a link to something that does not exist."""
    return path.is_symlink() and not path.exists()


def _clean_up(partial: Path) -> None:
    """Remove a temporary file or folder; if that fails, it is no reason to fail: a later run removes it."""
    try:
        remove_file(partial)
    except FileInUseError as error:
        logger.warning("%s", error)


def check_folder(folder: Path) -> None:
    """Check that a folder exists or can be created.

    Raises:
        UserError: there is a file of that name, or one of its parents is a file.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{existing}: expected a folder, but a file is in its place; choose another folder")


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, where they do not exist.

    Raises:
        UserError: there is a file of that name, or one of its parents is a file.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)


def fsync_dir(folder: Path) -> None:
    """Wait until a folder's renamed files are on the disk under their new names; Windows cannot wait for that."""
    with suppress(PermissionError):  # Windows opens no folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def printable(name: str) -> str:
    """A path or name as text that every file and screen can hold: a byte that is not UTF-8 becomes %FC, for example.

    Names on older disks and from archives of other systems are not UTF-8. Python represents their bytes by surrogates.
    """
    return re.sub("[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", name)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8 and with the line ends of `text`: the same bytes on all systems."""
    with atomic_write(path) as partial:
        partial.write_text(printable(text), encoding="utf-8", newline="")


def read_text(path: Path) -> str:
    """Read a text file: UTF-8 with or without a byte order mark, or UTF-16, in which Windows PowerShell writes.

    Other bytes become surrogates, as in names of files, so that a list can name any file.

    Raises:
        UserError: the file holds no text.
    """
    content = path.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16", "replace") if is_utf16 else content.decode("utf-8-sig", "surrogateescape")
    if "\0" in text:
        raise UserError(f"{path}: expected a text file, got another format; save it as UTF-8 text")
    return text


def write_json(path: Path, content: object) -> None:
    """Write indented JSON atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        UserError: the file is missing or not a JSON object.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); write it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(content).__name__}; write it again")
    return content


def is_safe_name(name: str) -> bool:
    """Whether a name can name a file on a system with POSIX's rules, leads to no other folder and breaks no line."""
    return bool(name.strip()) and not name.startswith(".") and not re.search(r"[\x00-\x1f/\\]", name)


IS_ALLOWED = is_portable_name if os.name == "nt" else is_safe_name
"""Names of files and folders on this system are taken as they are, also if another system would refuse them."""


def validate_file_name(name: object, where: object) -> str:
    """Return the name of a case or an organ if it can name a file that does not lie outside of its folder.

    Args:
        name: from an untrusted file, folder or list.
        where: begins the message: the file that holds the name, and the case or organ.

    Raises:
        UserError: it is not text, blank, hidden, or holds a slash, a backslash or a control character; on Windows, also
            if it holds one of <>:"|?*, ends with a dot or a blank, or is a device, for example NUL.
    """
    if not isinstance(name, str) or not IS_ALLOWED(name):
        also = ', <>:"|?*, a dot or a blank at its end; and no device such as NUL' if os.name == "nt" else ""
        raise UserError(
            f"{where}: {name!r} cannot name a file; rename it to text without slashes, control characters or a leading "
            f"dot{also}"
        )
    return name

"""Tells errors that the user can fix from bugs."""

import errno
import math
import os
import traceback
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

FREE_SPACE = "free some space or choose another disk"
PERMIT = "change its permissions or choose another folder"
RECONNECT = "check the disk and the connection to it"
SYSTEM_ERRORS = {
    "ENOSPC": FREE_SPACE,
    "EDQUOT": FREE_SPACE,
    "EFBIG": FREE_SPACE,
    "EACCES": PERMIT,
    "EPERM": PERMIT,
    "EROFS": PERMIT,
    "EIO": RECONNECT,
    "ESTALE": RECONNECT,
    "ENAMETOOLONG": "choose a shorter name",
    "EMFILE": "allow more open files (ulimit -n) or use fewer --workers",
    "EPIPE": "keep the program running that reads the output",
}
"""Errors of the operating system that are no bugs, and what to do about them."""
REMEDIES = {getattr(errno, name): remedy for name, remedy in SYSTEM_ERRORS.items() if hasattr(errno, name)}
MAX_PATH_LENGTH = 260 if os.name == "nt" else math.inf
"""Characters from which on Windows finds no file, unless long paths are enabled."""
SHORTER_PATH = "choose a folder with a shorter path, or enable long paths in Windows (docs/inference.md)"
OUT_OF_MEMORY = "out of memory; close other programs or use a machine with more memory"
MAX_NAMES = 4
"""Shown of many in a message."""
ALLOCATION_FAILED = ("can't allocate memory", "Failed to allocate memory")
"""In RuntimeErrors of torch on a CPU and of ITK."""


class UserError(ValueError):
    """The user's input cannot be used. The message names the problem, the file, expected and found, and the remedy.

    A script prints it as one line and ends with status 2. Every other exception is a bug and shows its traceback.

    Args:
        reason: what is wrong and what to do.
        where: the file or series of a case that is wrong. It ends the message, because its path can be long and the
            case's id stands before the reason. Messages about options, settings and folders begin with their name.
    """

    def __init__(self, reason: str, where: object = None) -> None:
        super().__init__(reason if where is None else f"{reason}: {where}")


def shorten(items: Iterable[object], separator: str = ", ") -> str:
    """Join the first `MAX_NAMES` of many items for a message."""
    texts = [str(item) for item in items]
    return separator.join(texts[:MAX_NAMES] + ["..."] * (len(texts) > MAX_NAMES))


def shorten_cases(case_ids: Collection[str]) -> str:
    """The first cases in order and, if there are more, their number: "a, b, c, d, ... (7 cases)"."""
    count = f" ({len(case_ids)} cases)" if len(case_ids) > MAX_NAMES else ""
    return shorten(sorted(case_ids)) + count


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, torch or ITK ran out of memory, on a CPU or a GPU."""
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in ALLOCATION_FAILED)
    return isinstance(error, MemoryError)


def user_message(error: BaseException) -> str | None:
    """The message for an error that the user can fix, or None for a bug.

    The user can fix a `UserError`, a system error of `SYSTEM_ERRORS`, and lack of memory.
    """
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, FileNotFoundError) and len(os.path.abspath(str(error.filename or ""))) >= MAX_PATH_LENGTH:
        return f"{error.filename}: the path is too long for Windows; {SHORTER_PATH}"
    if isinstance(error, OSError) and error.errno in REMEDIES:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; {REMEDIES[error.errno]}"
    return None


@dataclass(frozen=True)
class CaseFailure:
    """Why a case of a cohort failed."""

    reason: str
    """One line."""
    traceback: str | None = None
    """Of a bug; None for an error that the user can fix."""

    @classmethod
    def of(cls, error: BaseException, out_of_memory: str = OUT_OF_MEMORY) -> "CaseFailure":
        """Describe an exception, and lack of memory by `out_of_memory`; text can be sent between processes."""
        message = out_of_memory if is_out_of_memory(error) else user_message(error)
        if message is not None:
            return cls(message)
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        return cls(f"bug: {type(error).__name__}: {first_line}", "".join(traceback.format_exception(error)).rstrip())

    def __str__(self) -> str:
        return self.reason

"""Takes from a Python process and its children what Windows lacks, as far as the program asks for it.

Python runs this file at its start if its folder is on PYTHONPATH. Libraries keep what they need of this system.
"""

import builtins
import ctypes
import errno
import io
import multiprocessing
import multiprocessing.context
import os
import re
import signal
import stat
import sys
import time
import warnings
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2]) + os.sep
PROGRAM = "|".join(
    ["__main__", "__mp_main__", *(path.stem for path in Path(ROOT).iterdir() if path.stem.isidentifier())]
)
FOR_THEIR_CALLER = {"genericpath", "os", "pathlib", "posixpath", "shutil"}
"""Modules of the standard library that act for the module that calls them."""
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {
    os: "O_DIRECTORY O_NOFOLLOW chown fchmod fchown fork forkpty getegid geteuid getgid getloadavg getpgid getpgrp "
    "getuid killpg mkfifo mknod nice posix_fallocate pread pwrite sched_getaffinity seteuid setpgid setsid setuid "
    "statvfs sync uname wait4",
    signal: "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pause pthread_sigmask sigwait",
    time: "clock_gettime tzset",
    multiprocessing.context: "ForkContext ForkProcess ForkServerContext ForkServerProcess",
}
FORBIDDEN = re.compile(r"""[<>:"|?*\x01-\x1f]|[. ]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)""", re.IGNORECASE)
"""In names of files. Windows takes the part after a colon for a stream of the file, and drops a dot or a blank at the
end; here, all of them are refused."""


def of_program(depth: int = 2) -> bool:
    """Whether the caller of a function of this file is the program, directly or by the standard library's files."""
    frame = sys._getframe(depth)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in FOR_THEIR_CALLER:
        frame = frame.f_back
    file = frame.f_code.co_filename if frame else ""
    return file.startswith(ROOT) and "site-packages" not in file and file != __file__


def remove_names(module: object, names: list[str]) -> None:
    """Make a module's names absent for the program."""
    usual = {name: vars(module).pop(name) for name in names if hasattr(module, name)}

    def find(name: str) -> object:
        if name in usual and not of_program():
            return usual[name]
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = find


def refuse_import(name: str, globals: dict | None = None, *more: object, **named: object) -> object:
    """Import a module, unless the program asks for one that Windows lacks."""
    if name in MODULES and of_program():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return usual_import(name, globals, *more, **named)


def is_open(path: object) -> bool:
    """Whether this process has a regular file open or memory-mapped, or one in a folder."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        return False
    name, used = os.path.realpath(path), []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            used.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:  # the one of the listing itself
            continue
    with usual_open_stream("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        used += ["/" + line.rstrip("\n").partition(" /")[2] for line in maps]
    return any(other == name or other.startswith(name + os.sep) for other in used)


def require_name(path: object) -> None:
    """Refuse a name that Windows forbids."""
    if not isinstance(path, int) and FORBIDDEN.search(os.path.basename(usual_fsdecode(path))):
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", path)


def denied(path: object) -> PermissionError:
    """The error of Windows for a file that is open."""
    return PermissionError(errno.EACCES, "Permission denied", os.fspath(path))


def replace(source: object, target: object, **options: object) -> None:
    """os.replace, for files that are not open."""
    require_name(target)
    for path in (source, target):
        if is_open(path):
            raise denied(path)
    usual_replace(source, target, **options)


def rename(source: object, target: object, **options: object) -> None:
    """os.rename, which replaces no file."""
    if of_program() and os.path.exists(target) and not os.path.samefile(source, target):
        raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", source, None, target)
    replace(source, target, **options)


def make_folder(path: object, *arguments: object, **options: object) -> None:
    """os.mkdir, for a name that Windows allows."""
    if of_program():
        require_name(path)
    usual_mkdir(path, *arguments, **options)


def open_stream(
    path: object,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    *more: object,
    **options: object,
) -> object:
    """open, which writes the line ends of Windows into a text file and knows no encoding that is not named."""
    is_text = "b" not in mode
    if of_program():
        require_name(path)
        if is_text and encoding is None:
            raise EncodingWarning("'encoding' argument not specified")
        if is_text and newline is None and mode != "r":
            newline = "\r\n"
    elif is_text and encoding is None:
        encoding = "locale"  # a library's, which would be warned of as if it were this file's
    return usual_open_stream(path, mode, buffering, encoding, errors, newline, *more, **options)


def fsdecode(name: object) -> str:
    """os.fsdecode, which knows UTF-8 and lone surrogates in it, but no other bytes."""
    name = os.fspath(name)
    if isinstance(name, bytes) and of_program():
        return name.decode("utf-8", "surrogatepass")
    return usual_fsdecode(name)


def unlink(path: object, **options: object) -> None:
    """os.unlink, for files that are not open; tempfile's, which are, vanish on Windows when they are closed."""
    if of_program() and is_open(path):
        raise denied(path)
    usual_unlink(path, **options)


def open_file(path: object, *arguments: object, **options: object) -> int:
    """os.open, which opens no folder."""
    if of_program():
        require_name(path)
        if os.path.isdir(path):
            raise denied(path)
    return usual_open(path, *arguments, **options)


def find(path: object, **options: object) -> os.stat_result:
    """os.stat, which does not know Linux's folders about the system."""
    if not isinstance(path, int) and usual_fsdecode(path).startswith(("/proc/", "/sys/", "/dev/shm")) and of_program():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
    return usual_stat(path, **options)


def symlink(source: object, target: object, *arguments: object, **options: object) -> None:
    """os.symlink of a user without the right to make links."""
    raise OSError(errno.EPERM, "A required privilege is not held by the client", os.fspath(target))


class Library(ctypes.CDLL):
    """ctypes.CDLL, which needs a name."""

    def __init__(self, name: str | None, *arguments: object, **options: object) -> None:
        if name is None and of_program():
            raise TypeError("LoadLibrary() argument 1 must be str, not None")
        super().__init__(name, *arguments, **options)


usual_import, usual_open, usual_stat, usual_open_stream = builtins.__import__, os.open, os.stat, open
usual_replace, usual_unlink, usual_mkdir, usual_fsdecode = os.replace, os.unlink, os.mkdir, os.fsdecode
builtins.__import__ = refuse_import
os.open, os.stat, os.symlink, os.fsdecode = open_file, find, symlink, fsdecode
os.replace, os.rename, os.mkdir = replace, rename, make_folder
builtins.open = io.open = open_stream
os.unlink = os.remove = unlink
ctypes.CDLL = Library
for owner, words in NAMES.items():
    remove_names(owner, words.split())
warnings.filterwarnings("error", category=EncodingWarning, module=rf"({PROGRAM})(\.|$)")
multiprocessing.set_start_method("spawn")

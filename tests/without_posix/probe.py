"""Prints what the program finds of a system, in this process and in a worker process."""

import json
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from ctypes import CDLL
from importlib.util import find_spec
from pathlib import Path


def outcome(action):
    try:
        action()
    except (ImportError, OSError, TypeError, UnicodeError, EncodingWarning) as error:
        return type(error).__name__
    return "works"


def import_resource():
    import resource  # noqa: F401


def replace_open_file(folder):
    path, new = Path(folder) / "a", Path(folder) / "b"
    path.write_text("", encoding="utf-8")
    new.write_text("", encoding="utf-8")
    with path.open(encoding="utf-8"):
        os.replace(new, path)


def rename_onto_a_file(folder):
    for name in ("c", "d"):
        (Path(folder) / name).write_text("", encoding="utf-8")
    (Path(folder) / "c").rename(Path(folder) / "d")


def rename_folder_in_use(folder):
    (Path(folder) / "e").mkdir()
    with (Path(folder) / "e" / "f").open("wb"):
        (Path(folder) / "e").rename(Path(folder) / "g")


def line_end(folder):
    (Path(folder) / "h").write_text("\n", encoding="utf-8")
    return (Path(folder) / "h").read_bytes().decode()


def look_around(_item=None):
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "import resource": outcome(import_resource),
            "open a folder": outcome(lambda: os.close(os.open(folder, os.O_RDONLY))),
            "link": outcome(lambda: (Path(folder) / "link").symlink_to(folder)),
            "load the C library": outcome(lambda: CDLL(None)),
            "replace an open file": outcome(lambda: replace_open_file(folder)),
            "rename onto a file": outcome(lambda: rename_onto_a_file(folder)),
            "rename a folder in use": outcome(lambda: rename_folder_in_use(folder)),
            "write a:b": outcome(lambda: (Path(folder) / "a:b").touch()),
            "make the folder a.": outcome(lambda: (Path(folder) / "a.").mkdir()),
            "line end": line_end(folder),
            "name in Latin-1": outcome(lambda: os.fsdecode(b"M\xfcller")),
            "text without encoding": outcome(lambda: (Path(folder) / "a").read_text()),
            "print": outcome(lambda: print("\u60a3", file=sys.stdout)),
        }
    names = {"os": ("fork", "sched_getaffinity", "statvfs"), "signal": ("SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1")}
    names["context"] = ("ForkServerContext",)
    modules = {"os": os, "signal": signal, "context": multiprocessing.context}
    found["names"] = [name for module, own in names.items() for name in own if hasattr(modules[module], name)]
    found["/proc"] = Path("/proc/self/status").is_file()
    return found | {"start method": multiprocessing.get_start_method(), "torch": find_spec("torch") is not None}


if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        worker = next(iter(pool.map(look_around, [0])))
    Path(sys.argv[1]).write_text(json.dumps([look_around(), worker]), encoding="utf-8")

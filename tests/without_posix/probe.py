"""Prints what the program finds of a system, in this process and in a worker process."""

import json
import multiprocessing
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


def look_around(_item=None):
    with tempfile.TemporaryDirectory() as folder:
        found = {
            "import resource": outcome(import_resource),
            "open a folder": outcome(lambda: os.close(os.open(folder, os.O_RDONLY))),
            "link": outcome(lambda: (Path(folder) / "link").symlink_to(folder)),
            "load the C library": outcome(lambda: CDLL(None)),
            "replace an open file": outcome(lambda: replace_open_file(folder)),
            "text without encoding": outcome(lambda: (Path(folder) / "a").read_text()),
            "print": outcome(lambda: print("\u60a3", file=sys.stdout)),
        }
    names = {"os": ("fork", "sched_getaffinity"), "signal": ("SIGCHLD", "SIGHUP", "SIGKILL", "SIGUSR1")}
    modules = {"os": os, "signal": signal}
    found["names"] = [name for module, own in names.items() for name in own if hasattr(modules[module], name)]
    found["/proc"] = Path("/proc/self/status").is_file()
    return found | {"start method": multiprocessing.get_start_method(), "torch": find_spec("torch") is not None}


if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        worker = next(iter(pool.map(look_around, [0])))
    Path(sys.argv[1]).write_text(json.dumps([look_around(), worker]), encoding="utf-8")

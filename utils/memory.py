"""How much memory the process took at most."""

import re
import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
"""What Linux says of the process."""
BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of `ru_maxrss`."""


def peak_memory_gib() -> dict[str, float]:
    """The process's largest resident memory so far, and the largest allocation on a GPU if it uses one, in GiB."""
    peaks = {"ram": peak_ram_gib()}
    if torch.cuda.is_initialized():
        peaks["gpu"] = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**30
    return {name: round(value, 2) for name, value in peaks.items()}


def peak_ram_gib() -> float:
    """The process's largest resident memory so far.

    `ru_maxrss` of a new process begins with what its parent had; Linux also knows the process's own.
    """
    own = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8")) if STATUS.is_file() else None
    if own is not None:
        return int(own[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / 2**30

"""How much memory the process took at most."""

import ctypes
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


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Numbers of glibc's malloc.h."""

DEFAULT_MMAP_MAX = 65536
"""glibc's own."""

TRAINING_LIMIT_MIB = 64
"""A training on a CPU gives larger tensors back: a quarter less memory for a tenth more time, docs/performance.md."""


def keep_freed_memory(*, limit_mib: int | None = None) -> bool:
    """Have the C library hand out freed memory again instead of returning it to the system.

    Networks on a CPU allocate and free feature maps of a hundred megabytes for each layer. By default each of them is
    mapped anew and cleared page by page, which takes as long as computing it: see docs/performance.md. What is kept
    has gaps, which the largest tensors leave the largest.

    Args:
        limit_mib: blocks of this size or more are given back all the same; None keeps all.

    Returns:
        Whether it was done; only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    if limit_mib is None:
        settings = {M_MMAP_MAX: 0}
    else:
        settings = {M_MMAP_MAX: DEFAULT_MMAP_MAX, M_MMAP_THRESHOLD: limit_mib * 2**20}
    settings[M_TRIM_THRESHOLD] = 2**31 - 1
    return all([mallopt(name, value) for name, value in settings.items()])

"""Measures the peak memory of the process, and tunes the C library's allocator for large tensors."""

import ctypes
import re
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None

STATUS = Path("/proc/self/status")
"""Linux only."""
BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of `ru_maxrss`."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""From glibc's malloc.h."""
DEFAULT_MMAP_MAX = 65536
TRAINING_LIMIT_MIB = 64
"""Training on a CPU returns larger tensors to the system: 25 % less memory for 10 % more time, docs/performance.md."""


def peak_memory_gib() -> dict[str, float]:
    """Peak memory so far in GiB: resident ("ram", not on Windows), and allocated on a GPU ("gpu") if one is in use."""
    peaks = {} if (ram := peak_ram_gib()) is None else {"ram": ram}
    if torch.cuda.is_initialized():
        peaks["gpu"] = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**30
    return {name: round(value, 2) for name, value in peaks.items()}


def peak_ram_gib() -> float | None:
    """Peak resident memory of the process so far in GiB; None on Windows.

    `ru_maxrss` of a new process starts at its parent's value. Linux also reports the process's own peak.
    """
    own = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text(encoding="utf-8")) if STATUS.is_file() else None
    if own is not None:
        return int(own[1]) / 2**20
    return resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / 2**30


def keep_freed_memory(*, limit_mib: int | None = None) -> bool:
    """Make the C library reuse freed memory instead of returning it to the system.

    Networks on a CPU allocate and free feature maps of a hundred MiB in each layer. By default the system maps and
    clears each of them page by page, which takes as long as computing it: see docs/performance.md. Reused memory
    becomes fragmented, most by the largest tensors: blocks of `limit_mib` and more are returned, if it is given.

    Returns:
        Whether the C library supports it; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {M_TRIM_THRESHOLD: 2**31 - 1, M_MMAP_MAX: 0 if limit_mib is None else DEFAULT_MMAP_MAX}
    if limit_mib is not None:
        settings[M_MMAP_THRESHOLD] = limit_mib * 2**20
    return all([mallopt(name, value) for name, value in settings.items()])

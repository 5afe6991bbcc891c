"""How much memory the process took at most."""

import resource
import sys

import torch

BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024
"""Of `ru_maxrss`."""


def peak_memory_gib() -> dict[str, float]:
    """The process's largest resident memory so far, and the largest allocation on a GPU if it uses one, in GiB."""
    peaks = {"ram": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_UNIT / 2**30}
    if torch.cuda.is_initialized():
        peaks["gpu"] = max(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))) / 2**30
    return {name: round(value, 2) for name, value in peaks.items()}

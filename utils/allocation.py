"""Memory that is used again instead of given back to the system."""

import ctypes

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

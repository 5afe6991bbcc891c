"""Memory that is used again instead of given back to the system."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of glibc's malloc.h."""


def keep_freed_memory() -> bool:
    """Have the C library hand out freed memory again instead of returning it to the system.

    Networks on a CPU allocate and free feature maps of a hundred megabytes for each layer. By default each of them is
    mapped anew and cleared page by page, which takes as long as computing it: see docs/performance.md.

    Returns:
        Whether it was done; only glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

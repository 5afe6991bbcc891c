"""allocation.py: freed memory is used again."""

import platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from utils.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_the_second_allocation_touches_no_new_page():
    def faults(way):
        return int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, way], capture_output=True, check=True).stdout)

    assert faults("keep") < 100
    assert faults("default") > 100  # a page fault for each page, or for each huge page, of 1.25 GiB

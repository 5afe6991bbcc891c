"""utils/runtime/memory.py: peak memory, and freed memory that is reused."""

import multiprocessing
import platform
import subprocess
import sys

import numpy as np
import pytest

from tests.posix import POSIX_ONLY
from utils.runtime.memory import peak_ram_gib

PRINT_PEAKS = """
import numpy as np
from utils.runtime.memory import peak_memory_gib
before = peak_memory_gib()["ram"]
block = np.ones(2**29, dtype=np.uint8)
during = peak_memory_gib()["ram"]
del block
print(before, during, peak_memory_gib()["ram"])
"""


@pytest.mark.slow
@POSIX_ONLY
def test_half_a_gibibyte_raises_the_peak_and_stays_in_it():
    run = subprocess.run([sys.executable, "-c", PRINT_PEAKS], capture_output=True, check=True)
    before, during, after = map(float, run.stdout.split())
    assert during - before == pytest.approx(0.5, abs=0.05)
    assert after >= during


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the two apart")
def test_the_peak_of_a_new_process_is_not_that_of_its_parent():
    block = np.ones(2**30, dtype=np.uint8)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(peak_ram_gib) < 0.9 < peak_ram_gib()
    del block


COUNT_FAULTS = """
import resource, sys
import numpy as np
from utils.runtime.memory import keep_freed_memory
if sys.argv[1] != "default":
    keep_freed_memory()  # as every script begins
    assert keep_freed_memory(limit_mib=int(sys.argv[1]) if sys.argv[1] != "keep" else None)
np.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
@pytest.mark.parametrize(
    ("mode", "touches_new_pages"), [("default", True), ("keep", False), ("129", False), ("128", True)]
)
def test_reused_memory_of_128_mib_touches_no_new_page(mode, touches_new_pages):
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, check=True)
    assert (int(run.stdout) > 100) == touches_new_pages  # one for each page, or for each huge page, of 1.25 GiB

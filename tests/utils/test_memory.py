"""Tests of utils/memory.py."""

import multiprocessing
import sys

import numpy as np
import pytest

from utils.memory import peak_memory_gib, peak_ram_gib


def test_memory_in_use_counts():
    before = peak_memory_gib()["ram"]
    block = np.ones(2**28, dtype=np.uint8)
    assert peak_memory_gib()["ram"] >= max(0.25, before)
    del block
    assert peak_memory_gib()["ram"] >= 0.25


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the two apart")
def test_a_new_process_does_not_begin_with_the_peak_of_its_parent():
    block = np.ones(2**30, dtype=np.uint8)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(peak_ram_gib) < 0.9 < peak_ram_gib()
    del block

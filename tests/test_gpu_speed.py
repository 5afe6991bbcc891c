"""On a CUDA GPU: the benchmark's results are within the bounds that a Hopper GPU should keep."""

import json

import pytest
import torch

from benchmarks import bench
from data_preprocess import prepare
from utils.runtime.command_line import run_main

BOUNDS = {
    "forward": ("focusnet_s", 0.008),
    "step/backbone": ("focusnet_s", 0.035),
    "whole CT": ("focusnet_s", 3.0),
    "loading": ("focusnet_waiting_fraction", 0.02),
}
"""Task to result and its highest value: S-Net of the paper's width on one crop of 40 x 192 x 192, a step of it, a CT of
512 x 512 x 145 from file to file, and the fraction of a training that waits for data."""
NUM_CASES = 4


def test_the_bounds_are_of_results_of_the_benchmark():
    assert set(BOUNDS) <= set(bench.NAMES)
    assert {name for name, _ in BOUNDS.values()} <= set(bench.COLUMNS)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of the benchmark, by task."""
    folder = tmp_path_factory.mktemp("speed")
    words = ["--source", "phantom", "--preset", "pddca", "--limit", str(NUM_CASES), "--output", str(folder / "cases")]
    assert run_main(prepare.main, words) == 0
    words = ["--cases", str(folder / "cases"), "--output", str(folder / "bench.json"), "--device", "cuda"]
    assert run_main(bench.main, ["--tasks", *BOUNDS, *words]) == 0
    rows = json.loads((folder / "bench.json").read_text(encoding="utf-8"))["tasks"]
    return {row["task"]: row for row in rows}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
@pytest.mark.parametrize("task", BOUNDS)
def test_the_result_is_within_its_bound(task, results):
    name, bound = BOUNDS[task]
    assert results[task][name] <= bound

"""Timing of variants of a task: they run alternately, each in its own process."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from utils.runtime.memory import peak_ram_gib


class Task(NamedTuple):
    """A task to time."""

    run: Callable[[], object]
    """A float that it returns is reported besides the time."""
    warm_up: Callable[[], object] | None = None
    """Called once before, not timed."""


class Measurement(NamedTuple):
    """Time and memory of one variant."""

    seconds: float
    """Median."""
    peak_gib: float
    """Largest resident size of the process, or the largest allocation on a GPU."""
    gflop: float
    """Operations of the warm-up, where a multiply-add counts two; 0 without a warm-up."""
    extra: float | None
    """Float that the last run returned."""


def time_alternately(build: Callable[..., Task], variants: dict[str, dict], repeats: int) -> dict[str, Measurement]:
    """Run the variants of a task alternately, so that other load on the machine affects all of them alike.

    Args:
        build: makes the task in its process; it must be picklable.
        variants: name to the keyword arguments of `build`.
        repeats: number of timed runs of each variant.

    Raises:
        BrokenProcessPool: a process was killed. Errors of a task are raised as they are.
    """
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        workers = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in variants}
        gflop = {name: workers[name].submit(_set_up, build, variants[name]).result() for name in variants}
        runs = [{name: worker.submit(_run).result() for name, worker in workers.items()} for _ in range(repeats)]
        return {
            name: Measurement(
                seconds=median(run[name][0] for run in runs),
                peak_gib=worker.submit(_peak_gib).result(),
                gflop=gflop[name],
                extra=runs[-1][name][1],
            )
            for name, worker in workers.items()
        }


def _set_up(build: Callable[..., Task], arguments: dict) -> float:
    """Build and warm up the task of a worker process; returns the operations of the warm-up in GFLOP."""
    global _task
    _task = build(**arguments)
    with FlopCounterMode(display=False) as counter:
        if _task.warm_up is not None:
            _task.warm_up()
    return counter.get_total_flops() / 1e9


def _run() -> tuple[float, float | None]:
    started = time.perf_counter()
    result = _task.run()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result if isinstance(result, float) else None


def _peak_gib() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_initialized() else peak_ram_gib()


def matmul_gflops(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """Speed of a large matrix product, as the measured peak of the machine."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    tensors = {"left": left, "right": right, "result": torch.empty_like(left)}
    timer = Timer("torch.mm(left, right, out=result)", globals=tensors, num_threads=torch.get_num_threads())
    return 2 * size**3 / min(timer.timeit(1).mean for _ in range(3)) / 1e9

"""Timing of variants of a task: they run alternately, each in its own process."""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from utils.runtime.memory import peak_ram_gib


class Task(NamedTuple):
    """A task to time."""

    run: Callable[[], object]
    """Returns a number to report besides the time, or None."""
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
    """Return value of the last run."""


def time_alternately(build: Callable[..., Task], variants: dict[str, dict], repeats: int) -> dict[str, Measurement]:
    """Run the variants of a task alternately, so that other load on the machine affects all of them alike.

    Args:
        build: makes the task in its process; it must be picklable.
        variants: name to the keyword arguments of `build`.
        repeats: number of timed runs of each variant.

    Raises:
        RuntimeError: a process ended too early.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    try:
        for name, arguments in variants.items():
            pipes[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, build, arguments)))
            processes[-1].start()
            theirs.close()
            _receive(pipes[name])  # ready: the variants are set up one after the other
        for _ in range(repeats):
            for name, pipe in pipes.items():
                seconds[name].append(_ask(pipe, "run"))
        return {name: Measurement(median(seconds[name]), *_ask(pipe, "end")) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()  # ends a process that still waits
        for process in processes:
            process.join()


def _ask(pipe: Connection, request: str) -> Any:
    pipe.send(request)
    return _receive(pipe)


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise RuntimeError("the process of a task ended; see its traceback above") from error


def _serve(pipe: Connection, build: Callable[..., Task], arguments: dict) -> None:
    """Build the task, run it on request and in the end send memory, operations and the return value."""
    task = build(**arguments)
    gflop, extra = 0.0, None
    if task.warm_up is not None:
        with FlopCounterMode(display=False) as counter:
            task.warm_up()
        gflop = counter.get_total_flops() / 1e9
    pipe.send("ready")
    for _ in _requests(pipe):
        started = time.perf_counter()
        extra = task.run()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        pipe.send(time.perf_counter() - started)
    on_gpu = torch.cuda.is_initialized()
    peak_gib = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else peak_ram_gib()
    pipe.send((peak_gib, gflop, extra))


def _requests(pipe: Connection) -> Iterator[str]:
    """Requests until "end", or until the other process is gone."""
    try:
        yield from iter(pipe.recv, "end")
    except EOFError:
        sys.exit(1)


def matmul_gflops(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """Speed of a large matrix product, as the measured peak of the machine."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(left)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        torch.mm(left, right, out=result)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times) / 1e9

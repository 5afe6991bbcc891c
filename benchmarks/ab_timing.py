"""Two ways of doing the same, timed in turns, each in a process of its own."""

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
    """Something to time."""

    run: Callable[[], object]
    """Returns a number where there is one to report besides the time, else None."""
    warm_up: Callable[[], object] | None = None
    """Done once before, untimed; None does nothing."""


class Measured(NamedTuple):
    """One way of doing a task."""

    seconds: float
    """Median."""
    peak_gib: float
    """Largest resident size of the process; on a GPU the largest allocation there."""
    gflop: float
    """Of the warm-up, multiply and add counted apart; 0 where nothing was counted."""
    extra: float | None
    """What the last run returned."""


def alternate(build: Callable[..., Task], ways: dict[str, dict], repeats: int) -> dict[str, Measured]:
    """Run several ways of a task in turns, so that a noisy machine disturbs all of them alike.

    Args:
        build: makes the task in its process; a function of a module.
        ways: name to the keyword arguments of `build`.
        repeats: timed runs of each way.

    Raises:
        ValueError: a process ended before it was asked to.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for name, arguments in ways.items():
            pipes[name], theirs = context.Pipe()
            processes.append(context.Process(target=_serve, args=(theirs, build, arguments)))
            processes[-1].start()
            theirs.close()
            _answer(pipes[name])  # ready: the ways set up one after the other
        for _ in range(repeats):
            for name, pipe in pipes.items():
                seconds[name].append(_ask(pipe, "run"))
        return {name: Measured(median(seconds[name]), *_ask(pipe, "end")) for name, pipe in pipes.items()}
    finally:
        for pipe in pipes.values():
            pipe.close()  # a process that still waits ends by it
        for process in processes:
            process.join()


def _ask(pipe: Connection, request: str) -> Any:
    pipe.send(request)
    return _answer(pipe)


def _answer(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise ValueError("the process of a task ended; what it said stands above") from error


def _serve(pipe: Connection, build: Callable[..., Task], arguments: dict) -> None:
    """Set the task up, run it whenever asked, and say in the end what it took besides time."""
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
    """What is asked for until the end, or until nobody asks any more."""
    try:
        yield from iter(pipe.recv, "end")
    except EOFError:
        sys.exit(1)


def matmul_gflops(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """What a large matrix product reaches: the measured peak of the machine."""
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

"""Runs a task on many cases in worker processes; a case that fails does not stop the others."""

import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from utils.errors import CaseFailure
from utils.runtime.command_line import INTERRUPTED
from utils.runtime.console import show_progress
from utils.runtime.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

FEWER_WORKERS = "run again with fewer --workers"
MAX_POOL_WORKERS = 61 if os.name == "nt" else math.inf
"""Windows cannot wait for more processes at once."""
WORKER_KILLED = f"not done: a worker process was killed, most likely for lack of memory; {FEWER_WORKERS}"


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Result]):
    """Results and failures by case id; every case is in one of them, in the order of the items."""

    results: dict[str, Result]
    failures: dict[str, CaseFailure]


def run_cases(
    task: Callable[[Item], Result], items: Mapping[str, Item], num_workers: int, description: str | None = None
) -> Outcome[Result]:
    """Run a task on every case, and show the progress.

    Args:
        task: called once per item; it must be picklable if there are several workers.
        items: by case id.
        num_workers: processes; 1 works in this one.
        description: shown beside the progress.
    """
    attempt = partial(_attempt, task)
    if num_workers == 1:
        finished = ((case_id, attempt(item)) for case_id, item in items.items())
    else:
        finished = _run_in_pool(attempt, items, num_workers)
    done = dict(show_progress(finished, len(items), "case", description))
    outcome = Outcome(results={}, failures={})
    for case_id in items:
        made = done[case_id]
        (outcome.failures if isinstance(made, CaseFailure) else outcome.results)[case_id] = made
    return outcome


def _run_in_pool(
    attempt: Callable[[Item], Result | CaseFailure], items: Mapping[str, Item], num_workers: int
) -> Iterator[tuple[str, Result | CaseFailure]]:
    with ProcessPoolExecutor(min(num_workers, MAX_POOL_WORKERS), initializer=_start_worker) as pool:
        try:
            futures = {pool.submit(_in_worker, attempt, item): case_id for case_id, item in items.items()}
            for future in as_completed(futures):
                try:
                    made = future.result()
                except BrokenProcessPool:
                    made = CaseFailure(WORKER_KILLED)
                except Exception as error:  # an item or a result cannot be pickled
                    made = CaseFailure.of(error)
                yield futures[future], made
        finally:  # after Ctrl-C, do not begin with the cases that wait
            pool.shutdown(cancel_futures=True)  # not to wait would race with Python's own end of the pool


def _start_worker() -> None:
    keep_freed_memory()
    _on_end_signals(_end_task)


def _end_task(*_: object) -> None:
    """Let the task remove its temporary files, whatever comes after the first signal.

    Ctrl-C reaches all workers. When one of them has ended, the pool sends SIGTERM to those that still clean up.
    """
    _on_end_signals(lambda *_: None)
    sys.exit(INTERRUPTED)  # Python would print a traceback for Ctrl-C


def _on_end_signals(handler: Callable[..., None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def _in_worker(attempt: Callable[[Item], Result], item: Item) -> Result:
    """End the process after Ctrl-C, when the task has removed its temporary files; the pool would give it more work."""
    try:
        return attempt(item)
    except SystemExit:
        os._exit(INTERRUPTED)


def _attempt(task: Callable[[Item], Result], item: Item) -> Result | CaseFailure:
    """Describe a failure in the worker, since a traceback cannot be sent to another process."""
    try:
        return task(item)
    except Exception as error:  # a bug in one case does not stop the others
        return CaseFailure.of(error, f"out of memory; {FEWER_WORKERS}")

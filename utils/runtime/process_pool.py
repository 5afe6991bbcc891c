"""Runs a task on many cases in worker processes; a case that fails does not stop the others."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from tqdm import tqdm

from utils.errors import CaseFailure
from utils.runtime.memory import keep_freed_memory

Item = TypeVar("Item")
Result = TypeVar("Result")

FEWER_WORKERS = "run again with fewer --workers"
WORKER_KILLED = f"not done: a worker process was killed, most likely for lack of memory; {FEWER_WORKERS}"


@dataclass(frozen=True, kw_only=True)
class Outcome(Generic[Result]):
    """Results and failures by case id; every case is in one of them, in the order of the items."""

    results: dict[str, Result]
    failures: dict[str, CaseFailure]


def run_cases(
    task: Callable[[Item], Result], items: Mapping[str, Item], num_workers: int, description: str | None = None
) -> Outcome[Result]:
    """Run a task on every case, with a progress bar.

    Args:
        task: called once per item; it must be picklable if there are several workers.
        items: case id to what the task is given.
        num_workers: processes; 1 works in this one.
        description: shown beside the progress bar.

    Returns:
        What the task returned, and why cases failed. A bug keeps the traceback of its worker.
    """
    finished = _run_here(task, items) if num_workers == 1 else _run_in_pool(task, items, num_workers)
    done = dict(tqdm(finished, total=len(items), unit="case", desc=description, disable=None))
    ordered = {case_id: done[case_id] for case_id in items}
    return Outcome(
        results={case_id: made for case_id, made in ordered.items() if not isinstance(made, CaseFailure)},
        failures={case_id: made for case_id, made in ordered.items() if isinstance(made, CaseFailure)},
    )


def _run_here(task: Callable[[Item], Result], items: Mapping[str, Item]) -> Iterator[tuple[str, Result | CaseFailure]]:
    for case_id, item in items.items():
        yield case_id, _attempt(task, item)


def _run_in_pool(
    task: Callable[[Item], Result], items: Mapping[str, Item], num_workers: int
) -> Iterator[tuple[str, Result | CaseFailure]]:
    with ProcessPoolExecutor(num_workers, initializer=keep_freed_memory) as pool:
        attempt = partial(_attempt, task)
        futures = {pool.submit(attempt, item): case_id for case_id, item in items.items()}
        for future in as_completed(futures):
            yield futures[future], _result(future)


def _result(future: Future) -> object:
    try:
        return future.result()
    except BrokenProcessPool:
        return CaseFailure(WORKER_KILLED)
    except Exception as error:  # an item or a result cannot be pickled
        return CaseFailure.of(error)


def _attempt(task: Callable[[Item], Result], item: Item) -> Result | CaseFailure:
    """Describe a failure in the worker, since a traceback cannot be sent to another process."""
    try:
        return task(item)
    except Exception as error:  # a bug in one case does not stop the others
        return CaseFailure.of(error, f"out of memory; {FEWER_WORKERS}")

"""Prepares the next item in a background thread while the current one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, pairwise
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Future[Result]]]:
    """Apply a function to every item in a background thread, one item ahead of the consumer.

    Args:
        items: in order.
        work: called once per item; an exception is raised by the future's `result()`.

    Yields:
        Each item and the future of its result. At most two results exist at a time.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        submitted = ((item, pool.submit(work, item)) for item in items)
        for current, _following in pairwise(chain(submitted, [None])):
            yield current

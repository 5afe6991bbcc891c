"""Do the next piece of work while the current one is used."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(items: Iterable[Item], work: Callable[[Item], Result]) -> Iterator[tuple[Item, Future[Result]]]:
    """Apply a function to every item in a thread of its own, one item ahead of whoever takes the results.

    Args:
        items: in order.
        work: called once per item; what it raises is raised by the future's `result()`.

    Yields:
        Each item and the future of its result. At most two results exist at a time.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as pool:
        waiting: tuple[Item, Future[Result]] | None = None
        for item in items:
            following = (item, pool.submit(work, item))
            if waiting is not None:
                yield waiting
            waiting = following
        if waiting is not None:
            yield waiting

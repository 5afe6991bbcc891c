"""utils/runtime/prefetch.py: one item ahead, and errors that belong to their item."""

import threading
import time

from utils.runtime.prefetch import prefetch


def test_the_next_item_is_read_while_the_current_one_is_used():
    reading = [threading.Event() for _ in range(4)]
    results = prefetch(range(4), lambda item: reading[item].set() or item * item)
    for item, future in results:
        assert future.result() == item * item
        if item + 1 < 4:
            assert reading[item + 1].wait(timeout=10)
        if item + 2 < 4:
            time.sleep(0.01)
            assert not reading[item + 2].is_set()


def test_an_error_in_reading_belongs_to_its_item():
    def work(item):
        if item == 1:
            raise ValueError("bad scan")
        return item

    seen = []
    for item, future in prefetch(range(3), work):
        try:
            seen.append((item, future.result()))
        except ValueError as error:
            seen.append((item, str(error)))
    assert seen == [(0, 0), (1, "bad scan"), (2, 2)]
    assert list(prefetch([], work)) == []

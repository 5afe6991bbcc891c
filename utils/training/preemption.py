"""Stopping a training by a signal or after a given time, at a point where nothing is lost."""

import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class StopTraining(BaseException):  # noqa: N818  # it is not an error: no `except Exception` may catch it
    """The run has saved its state and stops."""


class StopRequest:
    """Whether the run is to stop after the current step, and the reason.

    SIGTERM and SIGINT request it, and so does the end of `max_minutes`; a second signal ends the process at once. It is
    a context manager, which restores the previous signal handlers at its end.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.deadline = time.monotonic() + (math.inf if max_minutes is None else 60 * max_minutes)
        self.reason: str | None = None
        self.is_immediate = False
        self.previous: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self.previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def requested(self) -> bool:
        """Whether this rank received a signal or its time is over."""
        if self.reason is None and time.monotonic() > self.deadline:
            self.reason = "--max-minutes is over"
        return self.reason is not None

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """A context in which a signal raises StopTraining immediately, because everything is saved."""
        self.is_immediate = True
        try:
            if self.reason is not None:
                raise StopTraining
            yield
        finally:
            self.is_immediate = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None:
            for each in SIGNALS:
                signal.signal(each, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        logger.warning("%s: stopping after this step; a second signal stops at once", self.reason)
        if self.is_immediate:
            raise StopTraining

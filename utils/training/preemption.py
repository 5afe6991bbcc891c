"""Stopping a training from outside: a signal or the clock asks, and the run stops where nothing is lost."""

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from utils.runtime.distributed import DistributedContext

SIGNALS = (signal.SIGTERM, signal.SIGINT)

logger = logging.getLogger(__name__)


class StopTraining(BaseException):  # noqa: N818  # no error, and nothing that means errors may catch it
    """Raised by a signal at a time when nothing would be lost."""


class StopRequest:
    """Whether the run is to stop after the current step.

    SIGTERM and SIGINT ask for it; a second one ends the process at once. Used as a context manager, which gives
    the signals back their former meaning.

    Args:
        max_minutes: ask for it so long after now; None for never.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        self.deadline = time.monotonic() + (math.inf if max_minutes is None else 60 * max_minutes)
        self.reason: str | None = None
        self.nothing_to_lose = False
        self.former: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        self.former = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.former.items():
            signal.signal(number, handler)

    def is_due(self) -> bool:
        """Whether a signal came or time is up on this rank."""
        if self.reason is None and time.monotonic() > self.deadline:
            self.reason = "--max-minutes are over"
        return self.reason is not None

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """While everything is on disk, a signal raises StopTraining at once instead of after the step."""
        self.nothing_to_lose = True
        try:
            if self.reason is not None:
                raise StopTraining
            yield
        finally:
            self.nothing_to_lose = False

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.reason is not None:
            for former in SIGNALS:
                signal.signal(former, signal.SIG_DFL)
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        logger.warning("%s: stopping after this step; once more stops at once", self.reason)
        if self.nothing_to_lose:
            raise StopTraining


def was_restarted() -> bool:
    """Whether torchrun started this process again after a rank had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def runs_under_torchrun() -> bool:
    """Whether torchrun watches over this process: it takes any exit status but 0 for a failure."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def any_rank_requested_stop(stop: StopRequest, ranks: DistributedContext, device: object) -> bool:
    """Whether some rank is asked to stop: then all do, after the same step."""
    return ranks.any(stop.is_due(), device)

"""What a command shows: streams whose reader may be gone, and the progress of long work."""

import errno
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import Any, TextIO, TypeVar

from tqdm import tqdm

LOG_INTERVAL_S = 60.0
"""Between two lines about the progress, where no terminal shows a bar."""
READER_GONE = {errno.EPIPE, errno.EBADF, errno.EIO, errno.EINVAL}
"""Errors of a pipe or a terminal that was closed at its other end; the last one is Windows'."""

Item = TypeVar("Item")

logger = logging.getLogger(__name__)


@contextmanager
def silenced(library: str) -> Iterator[None]:
    """A context in which a library's log, below critical errors, and all Python warnings are dropped."""
    log = logging.getLogger(library)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """A context in which standard output and error may be closed, or close at any time: what is written is dropped.
    Characters that they cannot show are written as escapes, for example `\\u60a3`.

    Streams that the process was started without (`2>&-`, pythonw) are opened first. Otherwise, the next file that is
    opened would get their descriptor, and with it what C libraries print.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    given = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_TolerantStream, given)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = given


class _TolerantStream:
    """A text stream that raises no exception when its reader has gone or when it cannot show a character."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            self._attempt(lambda: self._stream.write(text))
        except UnicodeEncodeError:  # redirected on Windows, a stream has only the characters of the country
            known = text.encode(self._stream.encoding, "backslashreplace").decode(self._stream.encoding)
            self._attempt(lambda: self._stream.write(known))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            if error.errno not in READER_GONE:
                raise
            with suppress(OSError), open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered would fail at exit otherwise


class Progress:
    """Shows how much of some work is done: as a bar on a terminal, else as a line in the log every minute.

    Args:
        total: number of units.
        unit: its name in the singular.
        description: of the work, or None.
        done: units that an earlier process has done.
        is_shown: false for all but one of several processes.
    """

    def __init__(
        self, total: int, unit: str, description: str | None = None, *, done: int = 0, is_shown: bool = True
    ) -> None:
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit=unit, desc=description, disable=not (is_shown and is_terminal))
        self._is_logged = is_shown and not is_terminal
        self._total, self._num_before, self._num_done = total, done, done
        self._head, self._units = f"{description}: " if description else "", f"{unit}s"
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, details: Callable[[], str] | None = None) -> None:
        """Count a unit as done.

        Args:
            details: returns a text that is shown beside the numbers; called only when it is shown.
        """
        self._num_done += 1
        if self._is_logged:
            self._log(details)
        elif not self._bar.disable:
            if details is not None:
                self._bar.set_postfix_str(details(), refresh=False)
            self._bar.update()

    def _log(self, details: Callable[[], str] | None) -> None:
        now = time.monotonic()
        if now - self._last_line < LOG_INTERVAL_S:
            return
        self._last_line = now
        elapsed_s, num_left = now - self._started, self._total - self._num_done
        left_s = elapsed_s / (self._num_done - self._num_before) * num_left
        when = f"{_hours(left_s)} left" if num_left else f"done in {_hours(elapsed_s)}"
        text = f"{self._head}{self._num_done} of {self._total} {self._units}, {when}"
        logger.info("%s%s", text, f", {details()}" if details else "")


def _hours(seconds: float) -> str:
    """Hours, minutes and seconds, for example "1:02:33"."""
    return str(timedelta(seconds=round(seconds)))


def show_progress(items: Iterable[Item], total: int, unit: str, description: str | None = None) -> Iterator[Item]:
    """Yield the items and count them as done; see `Progress`."""
    with Progress(total, unit, description) as progress:
        for item in items:
            yield item
            progress.update()

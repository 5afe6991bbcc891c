"""The parts that the command lines of all scripts share: exit statuses, error messages and shards."""

import argparse
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.errors import CaseFailure, shorten_cases, user_message
from utils.runtime.console import tolerant_streams
from utils.runtime.memory import keep_freed_memory

FAILED = 1
"""Some cases of a cohort failed, or the program has a bug."""
USER_ERROR = 2
INTERRUPTED = 130
"""By Ctrl-C, as shells say it."""
STOPPED = 75
"""A training stopped on request and saved its state (EX_TEMPFAIL): run it again with --resume."""

logger = logging.getLogger(__name__)


def run_main(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Run a script's main function: an error that the user can fix becomes one line on stderr and exit status 2.

    Returns:
        The exit status, for `sys.exit`: that of the function, or 0 if it returns None.

    Raises:
        Exception: a bug; Python then prints its traceback and exits with status 1.
    """
    with tolerant_streams():
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LineFormatter())
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        keep_freed_memory()
        try:
            return main(argv) or 0
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return INTERRUPTED
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            return USER_ERROR


class _LineFormatter(logging.Formatter):
    """Begins warnings with "warning: ", so that they are seen among the lines about the progress."""

    def format(self, record: logging.LogRecord) -> str:
        return ("warning: " if record.levelno == logging.WARNING else "") + super().format(record)


def report_failures(failures: Mapping[str, CaseFailure], total: int) -> int:
    """Log which of `total` cases failed and why, bugs with their traceback; cases with the same reason share a line.

    Returns:
        The exit status: 0 if no case failed, 2 if all failed and the user can fix every reason, else 1.
    """
    cases_by_failure: dict[CaseFailure, list[str]] = {}
    for case_id, failure in sorted(failures.items()):
        cases_by_failure.setdefault(failure, []).append(case_id)
    for failure, case_ids in cases_by_failure.items():
        details = f"\n{failure.traceback}" if failure.traceback else ""
        logger.error("error: %s: %s%s", shorten_cases(case_ids), failure, details)
    if not failures:
        return 0
    logger.error("%d of %d cases failed; fix these and run again", len(failures), total)
    has_bug = any(failure.traceback for failure in failures.values())
    return USER_ERROR if len(failures) == total and not has_bug else FAILED


def nonnegative_int(text: str, smallest: int = 0) -> int:
    """Parse a whole number of at least `smallest`, as an argparse type."""
    if not (text.isascii() and text.isdigit()) or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {smallest}, got {text!r}")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1, as an argparse type."""
    return nonnegative_int(text, smallest=1)


Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "I/N", as an argparse type.

        Raises:
            ArgumentTypeError: the text has another form, or I is not in 1..N.
        """
        match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, for example 2/8, got {text!r}")
        return cls(number, count)

    def select(self, items: Sequence[Item]) -> list[Item]:
        """Every `count`-th item: neighbors, which are often alike, are spread over the shards."""
        return list(items[self.number - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """Ends the names of this shard's files: "" or "_2of8"."""
        return f"_{self.number}of{self.count}" if self.count > 1 else ""

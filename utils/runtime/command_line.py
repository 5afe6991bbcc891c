"""What every script's command line shares: logging, and errors that people can read."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from utils.errors import UserError
from utils.runtime.memory import keep_freed_memory

SOME_FAILED = 1
USER_ERROR = 2
STOPPED = 75
"""A training was asked to stop and wrote its state: EX_TEMPFAIL, run again with --resume."""

logger = logging.getLogger(__name__)


def run_main(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Run a script: a ValueError or OSError becomes one line on stderr and exit status 2.

    Args:
        main: the script's main function; its return value is the exit status, None meaning 0.
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        The exit status, for `sys.exit`.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_freed_memory()
    try:
        return main(argv) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def report_failures(failures: Mapping[str, str], total: int) -> int:
    """Log which cases failed and why, cases that failed for the same reason in one line.

    Args:
        failures: case id to reason.
        total: number of cases tried.

    Returns:
        The exit status: 0 if none failed, 1 if some did, 2 if all did.
    """
    cases_by_reason: dict[str, list[str]] = {}
    for case_id, reason in sorted(failures.items()):
        cases_by_reason.setdefault(reason, []).append(case_id)
    for reason, case_ids in cases_by_reason.items():
        logger.error("error: %s: %s", ", ".join(case_ids), reason)
    if not failures:
        return 0
    logger.error("%d of %d cases failed; mend these and run again", len(failures), total)
    return USER_ERROR if len(failures) == total else SOME_FAILED


Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The `number`-th of `count` parts, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "i/n".

        Raises:
            UserError: it is none.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UserError(f"--shard {text}: expected i/n with i from 1 to n, such as 2/8")
        return cls(int(number), int(count))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """This part of the items: every `count`-th, so that neighbours, which are alike, spread over the parts."""
        return list(items[self.number - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """What tells this part's files from those of the others: "" or "_2of8"."""
        return f"_{self.number}of{self.count}" if self.count > 1 else ""

"""A cohort split over the jobs of a scheduler's array."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

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
            ValueError: it is none.
        """
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(f"--shard {text}: expected i/n with i from 1 to n, such as 2/8")
        return cls(int(number), int(count))

    def of(self, items: Sequence[Item]) -> list[Item]:
        """This part of the items: every `count`-th, so that neighbours, which are alike, spread over the parts."""
        return list(items[self.number - 1 :: self.count])

    @property
    def suffix(self) -> str:
        """What tells this part's files from those of the others: "" or "_2of8"."""
        return f"_{self.number}of{self.count}" if self.count > 1 else ""

"""Where organs lie relative to each other in most patients. Masks that lie otherwise are most likely wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

MIN_CASES = 20
"""Cases with both organs that a pair needs."""
MAX_DEVIATIONS = 6.0
"""Robust standard deviations from the median beyond which an offset is impossible."""
MAD_PER_DEVIATION = 0.6745
"""Median absolute deviation of a normal distribution of unit variance."""
MIN_DEVIATION_MM = 3.0
"""Lower bound of a standard deviation."""
NUM_NAMED = 3
"""Pairs that are named, the worst ones first."""
DIRECTIONS = ("above", "behind", "to the left of"), ("below", "in front of", "to the right of")
"""Of growing and of falling z, y and x."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class OrganOffset:
    """The offset (z, y, x) in mm from the center of `other` to that of `organ`."""

    organ: str
    other: str
    median_mm: Triple
    deviation_mm: Triple
    """Robust standard deviation."""


class Arrangement:
    """The usual offsets between pairs of organs."""

    def __init__(self, offsets: Sequence[OrganOffset]) -> None:
        self.offsets = tuple(offsets)

    @classmethod
    def of(cls, organ_names: Sequence[str], centers_mm: np.ndarray) -> "Arrangement":
        """Measure the offsets of all pairs that enough cases have.

        Args:
            organ_names: N names.
            centers_mm: (cases, N, 3) centroids (z, y, x), NaN where not contoured; each case has an origin of its own.
        """
        offsets = []
        for i, j in combinations(range(len(organ_names)), 2):
            between = centers_mm[:, i] - centers_mm[:, j]
            between = between[np.isfinite(between).all(axis=1)]
            if len(between) < MIN_CASES:
                continue
            median = np.median(between, axis=0)
            deviation = np.maximum(robust_deviation(between), MIN_DEVIATION_MM)
            offsets.append(OrganOffset(organ_names[i], organ_names[j], _rounded(median), _rounded(deviation)))
        return cls(offsets)

    @classmethod
    def from_table(cls, table: Sequence[Mapping[str, Any]]) -> "Arrangement":
        """Rebuild it from what a checkpoint stores."""
        return cls([OrganOffset(**entry) for entry in table])

    def to_table(self) -> list[dict[str, Any]]:
        """Lists, texts and numbers, for a checkpoint."""
        return [vars(offset) for offset in self.offsets]

    def contradictions(self, centers_mm: Mapping[str, Triple], ends_at_scan: Sequence[str] = ()) -> list[str]:
        """Describe the pairs of organs that cannot lie so.

        Args:
            centers_mm: centroids (z, y, x) of the organs that were found, in the patient's axes.
            ends_at_scan: organs that the scan may cut off; their heights are not compared.
        """
        worst = []
        for offset in self._offsets_between(centers_mm):
            between, deviations = _compare(offset, centers_mm, ends_at_scan)
            axis = int(deviations.argmax())
            if deviations[axis] > MAX_DEVIATIONS:
                reach = MAX_DEVIATIONS * offset.deviation_mm[axis]
                expected = _range(offset.median_mm[axis] - reach, offset.median_mm[axis] + reach, axis)
                place = f"{abs(between[axis]):.0f} mm {_direction(between[axis], axis)} {offset.other}"
                worst.append((-deviations[axis], f"{offset.organ} lies {place}, expected {expected}"))
        return [text for _, text in sorted(worst)[:NUM_NAMED]]

    def displacements(self, centers_mm: Mapping[str, Triple], ends_at_scan: Sequence[str] = ()) -> dict[str, float]:
        """How far every organ lies from its usual place: the median over the other organs, in standard deviations.

        The median tells one organ in a wrong place from the others, whose offsets to it are wrong too.

        Args:
            centers_mm, ends_at_scan: see `contradictions`.

        Returns:
            By organ; without those that no other organ can be compared with.
        """
        of_organ = defaultdict(list)
        for offset in self._offsets_between(centers_mm):
            _, deviations = _compare(offset, centers_mm, ends_at_scan)
            for name in (offset.organ, offset.other):
                of_organ[name].append(float(deviations.max()))
        return {name: float(np.median(values)) for name, values in of_organ.items()}

    def _offsets_between(self, centers_mm: Mapping[str, Triple]) -> list[OrganOffset]:
        return [offset for offset in self.offsets if offset.organ in centers_mm and offset.other in centers_mm]


def _compare(
    offset: OrganOffset, centers_mm: Mapping[str, Triple], ends_at_scan: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The offset (z, y, x) in mm in a patient, and by how many standard deviations it differs from the median."""
    between = np.subtract(centers_mm[offset.organ], centers_mm[offset.other])
    deviations = np.abs(between - offset.median_mm) / offset.deviation_mm
    if offset.organ in ends_at_scan or offset.other in ends_at_scan:
        deviations[0] = 0
    return between, deviations


def robust_deviation(values: np.ndarray) -> np.ndarray:
    """Standard deviation along the first axis, from the median absolute deviation: outliers hardly change it."""
    return np.median(np.abs(values - np.median(values, axis=0)), axis=0) / MAD_PER_DEVIATION


def _direction(offset_mm: float, axis: int) -> str:
    return DIRECTIONS[int(offset_mm < 0)][axis]


def _range(low_mm: float, high_mm: float, axis: int) -> str:
    """A range of offsets in words: "20 to 60 mm above", "5 mm below to 9 mm above"."""
    directions = [_direction(limit, axis).removesuffix(" of") for limit in (low_mm, high_mm)]
    near, far = sorted((abs(low_mm), abs(high_mm)))
    if directions[0] == directions[1]:
        return f"{near:.0f} to {far:.0f} mm {directions[0]}"
    return f"{abs(low_mm):.0f} mm {directions[0]} to {abs(high_mm):.0f} mm {directions[1]}"


def _rounded(triple_mm: np.ndarray) -> Triple:
    return tuple(round(float(value), 1) for value in triple_mm)

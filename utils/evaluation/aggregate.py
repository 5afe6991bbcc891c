"""From scores of single organs to what a table says: means over cases, means over organs, worst cases, comparisons."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.evaluation.metrics import COMPARED_METRICS, COUNTED, METRICS, Metric, ScoreRow, Status
from utils.evaluation.significance import Interval, holm, paired_bootstrap_interval, signed_rank_p

Pair = tuple[str, str]
"""Case id and organ."""

NUM_WORST_CASES = 5
SMALLEST_GAP = 0.0005
"""Of Dice, to speak of."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A metric of an organ over cases, or of a group over its organs.

    Attributes:
        mean: of the finite values; NaN if there is none.
        std: sample standard deviation of the same values; NaN for fewer than two.
        median: of all values, infinite ones included; NaN for a group.
        n: number of values in the mean.
    """

    mean: float
    std: float
    median: float
    n: int


@dataclass(frozen=True, kw_only=True)
class OrganSummary:
    """One row of the table.

    Attributes:
        name: of the organ or group.
        statistics: metric key to its statistics.
        counts: how many cases have which status; of a group the sums over its organs.
        tolerance_mm: of surface Dice; NaN for a group.
    """

    name: str
    statistics: Mapping[str, Statistics]
    counts: Mapping[Status, int]
    tolerance_mm: float

    @property
    def n(self) -> int:
        """Cases that count."""
        return sum(self.counts.get(status, 0) for status in COUNTED)

    @property
    def missed(self) -> int:
        """Contoured, but not one voxel was predicted."""
        return self.counts.get(Status.MISSED, 0)


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The case in which an organ scores worst."""

    organ: str
    case_id: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired difference of two predictions in one organ and metric.

    Attributes:
        n: cases with a finite value on both sides; the mean and its interval are theirs.
        missed: cases in which only the first prediction has no finite value.
        other_missed: cases in which only the other one has none.
        mean_difference: first - other; NaN without cases.
        interval: 95 % bootstrap interval of it.
        p: of the signed-rank test over all cases, missed ones ranked last; 1 if all are identical.
        p_corrected: by Holm, for the number of organs.
        identical: not one case differs.
    """

    organ: str
    metric: str
    n: int
    missed: int
    other_missed: int
    mean_difference: float
    interval: Interval
    p: float
    p_corrected: float
    identical: bool


def summarize(rows: Sequence[ScoreRow], organs: Sequence[str]) -> list[OrganSummary]:
    """One row per organ that occurs in some case, in the given order."""
    summaries = []
    for organ in organs:
        own = [row for row in rows if row.organ == organ]
        if not own:
            continue
        counted = [row.scores for row in own if row.status in COUNTED]
        statistics = {m.key: describe(getattr(scores, m.key) for scores in counted) for m in METRICS}
        counts = dict(Counter(row.status for row in own))
        summary = OrganSummary(name=organ, statistics=statistics, counts=counts, tolerance_mm=own[0].tolerance_mm)
        summaries.append(summary)
    return summaries


def summarize_groups(summaries: Sequence[OrganSummary], small_organs: Sequence[str] | None) -> list[OrganSummary]:
    """Means over organs, every organ counting once: of large, of small and of all organs.

    Args:
        summaries: of `summarize`; organs without a scored case are left out.
        small_organs: their names, or None if nobody knows which are small: then only the mean of all.

    Returns:
        One row per group that has an organ, with means alone.
    """
    scored = [summary for summary in summaries if summary.n]
    groups = {"mean of all": scored}
    if small_organs is not None:
        small = [summary for summary in scored if summary.name in small_organs]
        groups = {"mean of large": [s for s in scored if s not in small], "mean of small": small, **groups}
    rows = []
    for name, members in groups.items():
        if members:
            counts = dict(sum((Counter(member.counts) for member in members), Counter()))
            means = {m.key: describe(member.statistics[m.key].mean for member in members) for m in METRICS}
            statistics = {key: replace(each, std=math.nan, median=math.nan) for key, each in means.items()}
            rows.append(OrganSummary(name=name, statistics=statistics, counts=counts, tolerance_mm=math.nan))
    return rows


def describe(values: Iterable[float]) -> Statistics:
    """Mean, sample standard deviation, median and number of a metric's values, of which some may be infinite."""
    everything = np.array(list(values), dtype=float)
    finite = everything[np.isfinite(everything)]
    return Statistics(
        mean=float(finite.mean()) if len(finite) else math.nan,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=float(np.median(everything)) if len(everything) else math.nan,
        n=len(finite),
    )


def worst_per_organ(rows: Sequence[ScoreRow], organs: Sequence[str], metric: Metric) -> list[Worst]:
    """The case in which each organ scores worst; a missed organ is the worst there is."""
    found = []
    for organ in organs:
        own = [row for row in rows if row.organ == organ and row.status in COUNTED]
        if own:
            row = min(own, key=lambda row: metric.better * getattr(row.scores, metric.key))
            value = getattr(row.scores, metric.key)
            found.append(Worst(organ=organ, case_id=row.case_id, metric=metric.key, value=value))
    return found


def worst_cases(rows: Sequence[ScoreRow]) -> list[tuple[str, float]]:
    """The cases whose organs fall furthest below what these organs score in other cases.

    Returns:
        (case id, mean over its organs of Dice - the organ's median Dice), the worst first; none that is not below.
    """
    medians = {s.name: s.statistics["dice"].median for s in summarize(rows, sorted({row.organ for row in rows}))}
    gaps: dict[str, list[float]] = {}
    for row in rows:
        if row.status in COUNTED:
            gaps.setdefault(row.case_id, []).append(row.scores.dice - medians[row.organ])
    means = {case_id: float(np.mean(values)) for case_id, values in gaps.items()}
    below = [(case_id, gap) for case_id, gap in means.items() if gap < -SMALLEST_GAP]
    return sorted(below, key=lambda item: item[1])[:NUM_WORST_CASES]


def compare(rows: Sequence[ScoreRow], other_rows: Sequence[ScoreRow], organs: Sequence[str]) -> list[Comparison]:
    """Paired differences of two predictions of the same cases, per metric and organ.

    Args:
        rows: of the first prediction.
        other_rows: of the other one, against the same reference.
        organs: order.

    Returns:
        One comparison per metric and organ that counts in some case on both sides.
    """
    own, other = (
        {(row.case_id, row.organ): row for row in side if row.status in COUNTED} for side in (rows, other_rows)
    )
    found = []
    for metric in COMPARED_METRICS:
        group = []
        for organ in organs:
            pairs = [
                (getattr(row.scores, metric.key), getattr(other[place].scores, metric.key))
                for place, row in own.items()
                if place[1] == organ and place in other
            ]
            if pairs:
                group.append(_compare_organ(organ, metric, np.array(pairs)))
        corrected = holm([comparison.p for comparison in group])
        found += [replace(comparison, p_corrected=p) for comparison, p in zip(group, corrected, strict=True)]
    return found


def _compare_organ(organ: str, metric: Metric, values: np.ndarray) -> Comparison:
    """Compare (cases, 2) values of two predictions."""
    finite = np.isfinite(values)
    both = finite.all(axis=1)
    differences = values[both, 0] - values[both, 1]
    with np.errstate(invalid="ignore"):
        ranked = values[:, 0] - values[:, 1]
    ranked[values[:, 0] == values[:, 1]] = 0  # also where both are infinite
    return Comparison(
        organ=organ,
        metric=metric.key,
        n=int(both.sum()),
        missed=int((~finite[:, 0] & finite[:, 1]).sum()),
        other_missed=int((finite[:, 0] & ~finite[:, 1]).sum()),
        mean_difference=float(differences.mean()) if len(differences) else math.nan,
        interval=_within(paired_bootstrap_interval(differences), metric),
        p=signed_rank_p(ranked),
        p_corrected=math.nan,
        identical=not ranked.any(),
    )


def _within(interval: Interval, metric: Metric) -> Interval:
    """Differences of shares lie between -1 and 1, whatever the bootstrap makes of six cases."""
    return Interval(max(interval.low, -1.0), min(interval.high, 1.0)) if metric.better > 0 else interval

"""Aggregates the scores of single organs: means over cases, means over organs, worst cases, paired comparisons."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.evaluation.metrics import COMPARED_METRICS, COUNTED, METRICS, Metric, ScoreRow, Status
from utils.evaluation.significance import Interval, holm, paired_bootstrap_interval, signed_rank_p


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of a metric: of an organ over cases, or of a group over its organs."""

    mean: float
    """Of the finite values; NaN if there are none."""
    std: float
    """Sample standard deviation of the finite values; NaN for fewer than two."""
    median: float
    """Of all values, including infinite ones; NaN for a group."""
    n: int
    """Number of finite values."""


@dataclass(frozen=True)
class OrganSummary:
    """One row of the score table: an organ, or a group of organs."""

    name: str
    statistics: Mapping[str, Statistics]
    """By metric key."""
    counts: Mapping[Status, int]
    """Number of cases by status; for a group the sum over its organs."""
    tolerance_mm: float = math.nan
    """Of the surface Dice; NaN for a group."""

    @property
    def n(self) -> int:
        """Number of cases that count."""
        return sum(self.counts.get(status, 0) for status in COUNTED)

    @property
    def missed(self) -> int:
        """Number of cases in which the organ is contoured, but not predicted."""
        return self.counts.get(Status.MISSED, 0)


@dataclass(frozen=True)
class WorstCase:
    """The case with an organ's worst value of a metric."""

    organ: str
    case_id: str
    metric: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Paired difference of two predictions in one organ and metric."""

    organ: str
    metric: str
    n: int
    """Number of cases with a finite value on both sides, over which the mean and its interval are computed."""
    missed: int
    """Number of cases in which only the first prediction missed the organ; the same for every metric."""
    other_missed: int
    """Number of cases in which only the other prediction missed it."""
    both_missed: int
    """Number of cases in which both missed it: Dice 0 on both sides, no finite distance."""
    mean_difference: float
    """First - other; NaN without cases."""
    interval: Interval
    """95 % bootstrap interval of the mean difference."""
    p: float
    """Of the signed-rank test over all cases; missed organs are ranked last; 1 if all cases are identical."""
    p_corrected: float
    """Holm's correction for the number of organs."""
    identical: bool
    """Whether no case differs."""


def summarize_organs(rows: Sequence[ScoreRow], organs: Sequence[str]) -> list[OrganSummary]:
    """Summarize every organ of `organs` that has a row, in the given order."""
    summaries = []
    for organ in organs:
        if own := [row for row in rows if row.organ == organ]:
            counted = [row.scores for row in own if row.status in COUNTED]
            statistics = {m.key: compute_statistics(getattr(scores, m.key) for scores in counted) for m in METRICS}
            counts = dict(Counter(row.status for row in own))
            summaries.append(OrganSummary(organ, statistics, counts, own[0].tolerance_mm))
    return summaries


def summarize_groups(summaries: Sequence[OrganSummary], small_organs: Sequence[str] | None) -> list[OrganSummary]:
    """Compute means over large, small and all organs with a counted case; every organ counts once.

    If `small_organs` is None, there is only the mean of all organs. Groups have no std and no median.
    """
    counted = [summary for summary in summaries if summary.n]
    groups = {"mean of all": counted}
    if small_organs is not None:
        small = [summary for summary in counted if summary.name in small_organs]
        groups = {"mean of large": [s for s in counted if s not in small], "mean of small": small, **groups}
    rows = []
    for name, members in groups.items():
        if members:
            counts = dict(sum((Counter(member.counts) for member in members), Counter()))
            means = {m.key: compute_statistics(member.statistics[m.key].mean for member in members) for m in METRICS}
            statistics = {key: replace(each, std=math.nan, median=math.nan) for key, each in means.items()}
            rows.append(OrganSummary(name, statistics, counts))
    return rows


def compute_statistics(values: Iterable[float]) -> Statistics:
    """Compute the statistics of a metric's values, some of which may be infinite."""
    everything = np.fromiter(values, dtype=float)
    finite = everything[np.isfinite(everything)]
    return Statistics(
        mean=float(finite.mean()) if len(finite) else math.nan,
        std=float(finite.std(ddof=1)) if len(finite) > 1 else math.nan,
        median=float(np.median(everything)) if len(everything) else math.nan,
        n=len(finite),
    )


def find_worst_cases(rows: Sequence[ScoreRow], organs: Sequence[str], metric: Metric) -> list[WorstCase]:
    """Find the case with each organ's worst value. A case that misses the organ is the worst."""
    values: dict[str, dict[str, float]] = {organ: {} for organ in organs}
    for row in rows:
        if row.status in COUNTED:
            values[row.organ][row.case_id] = getattr(row.scores, metric.key)
    worst = {organ: min(own, key=lambda case: metric.direction * own[case]) for organ, own in values.items() if own}
    return [WorstCase(organ, case_id, metric.key, values[organ][case_id]) for organ, case_id in worst.items()]


def find_low_cases(rows: Sequence[ScoreRow]) -> list[tuple[str, float]]:
    """Find the cases whose Dice lies furthest below the medians of their organs.

    Returns:
        Up to five (case id, mean over its organs of Dice - the organ's median Dice) below -0.0005, lowest first.
    """
    medians = {s.name: s.statistics["dice"].median for s in summarize_organs(rows, sorted({row.organ for row in rows}))}
    gaps: dict[str, list[float]] = {}
    for row in rows:
        if row.status in COUNTED:
            gaps.setdefault(row.case_id, []).append(row.scores.dice - medians[row.organ])
    means = {case_id: float(np.mean(values)) for case_id, values in gaps.items()}
    below = [(case_id, gap) for case_id, gap in means.items() if gap < -0.0005]
    return sorted(below, key=lambda item: item[1])[:5]


def compare_predictions(
    rows: Sequence[ScoreRow], other_rows: Sequence[ScoreRow], organs: Sequence[str]
) -> list[Comparison]:
    """Compare two predictions that were scored against the same reference.

    Returns:
        One comparison per metric and organ that counts on both sides in some case; organs in the given order.
    """
    other = {(row.organ, row.case_id): row for row in other_rows if row.status in COUNTED}
    pairs: dict[str, list[tuple[ScoreRow, ScoreRow]]] = {organ: [] for organ in organs}
    for row in rows:
        if row.status in COUNTED and (row.organ, row.case_id) in other:
            pairs[row.organ].append((row, other[row.organ, row.case_id]))
    comparisons = []
    for metric in COMPARED_METRICS:
        of_metric = [_compare_organ(organ, metric, own) for organ, own in pairs.items() if own]
        corrected = holm([comparison.p for comparison in of_metric])
        comparisons += [replace(c, p_corrected=p) for c, p in zip(of_metric, corrected, strict=True)]
    return comparisons


def _compare_organ(organ: str, metric: Metric, pairs: Sequence[tuple[ScoreRow, ScoreRow]]) -> Comparison:
    """Compare two predictions of an organ, given by their rows of every case."""
    values = np.array([[getattr(row.scores, metric.key) for row in pair] for pair in pairs])
    missed = np.array([[row.status is not Status.SCORED for row in pair] for pair in pairs])
    both = np.isfinite(values).all(axis=1)
    differences = values[both, 0] - values[both, 1]
    with np.errstate(invalid="ignore"):
        ranked = values[:, 0] - values[:, 1]
    ranked[values[:, 0] == values[:, 1]] = 0  # infinite - infinite would be NaN
    interval = paired_bootstrap_interval(differences)
    if metric.direction > 0:  # such metrics lie between 0 and 1, so the bootstrap interval of few cases can be too wide
        interval = Interval(max(interval.low, -1.0), min(interval.high, 1.0))
    return Comparison(
        organ=organ,
        metric=metric.key,
        n=int(both.sum()),
        missed=int((missed[:, 0] & ~missed[:, 1]).sum()),
        other_missed=int((~missed[:, 0] & missed[:, 1]).sum()),
        both_missed=int(missed.all(axis=1).sum()),
        mean_difference=float(differences.mean()) if len(differences) else math.nan,
        interval=interval,
        p=signed_rank_p(ranked),
        p_corrected=math.nan,
        identical=not ranked.any(),
    )

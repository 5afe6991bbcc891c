"""Is one method better than another on the same cases: intervals, tests, and their correction for many organs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
NUM_RESAMPLES = 10_000
MIN_CASES = 5
"""Fewer cases say too little about their own spread for an interval."""
SEED = 0
"""Of the bootstrap, fixed so that a table can be made again."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def paired_bootstrap_interval(differences: Sequence[float], *, num_resamples: int = NUM_RESAMPLES) -> Interval:
    """Studentized bootstrap interval of the mean of paired differences.

    Cases are drawn with replacement, both methods together. Every drawn mean is divided by its own standard error,
    which keeps the interval honest for the ten to thirty cases of a test set, where percentiles of drawn means (also
    bias-corrected ones) cover the true difference in 90 to 93 % of experiments instead of 95.

    Args:
        differences: (n,) one per case, finite.
        num_resamples: how often cases are drawn.

    Returns:
        The 95 % interval; NaN for fewer than `MIN_CASES`, or where more than half of them have the same difference
        (most often none), since standard errors of drawn cases then come near zero; a single point if all have.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < MIN_CASES:
        return Interval(float("nan"), float("nan"))
    mean, error = values.mean(), stats.sem(values)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    if np.unique(values, return_counts=True)[1].max() > len(values) / 2:
        return Interval(float("nan"), float("nan"))
    drawn = values[np.random.default_rng(SEED).integers(0, len(values), (num_resamples, len(values)))]
    spread = np.ptp(drawn, axis=1) > 0  # equal values have no standard error
    tail = (1 - CONFIDENCE) / 2
    t = (drawn[spread].mean(axis=1) - mean) / stats.sem(drawn[spread], axis=1)
    low, high = np.quantile(t, [tail, 1 - tail])
    return Interval(float(mean - high * error), float(mean - low * error))


def signed_rank_p(differences: Sequence[float]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test that paired differences are symmetric about zero.

    Cases without a difference are left out, as Wilcoxon did; infinite differences (an organ that one method missed)
    take the largest ranks. The test is exact for up to 50 cases without ties.

    Args:
        differences: (n,) one per case, may be infinite, not NaN.

    Returns:
        In [0, 1]; 1 if there is no difference at all, NaN without cases.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return float("nan")
    values = values[values != 0]
    if not len(values):
        return 1.0
    signed_ranks = np.sign(values) * stats.rankdata(np.abs(values))  # all that the test uses; it takes no infinity
    return float(stats.wilcoxon(signed_ranks).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: the chance of one false alarm among all tests stays below the level.

    Args:
        p_values: one per test; NaN where there was no test, which then does not count.

    Returns:
        Corrected values in the same order, NaN where NaN.
    """
    p = np.asarray(p_values, dtype=float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = p.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return corrected.tolist()

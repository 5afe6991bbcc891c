"""How well raters agree on an ordered scale."""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

MIN_COMMON = 2
"""Raters with fewer structures in common have no kappa: one structure says nothing about agreement beyond chance."""


class Agreement(NamedTuple):
    """The agreement of two or more raters."""

    kappa: float
    """At most 1; mean over the pairs of raters that have a kappa, NaN if no pair has one."""
    num_pairs: int
    """Number of these pairs."""
    num_structures: int
    """Number of structures that two or more raters rated."""


def weighted_kappa(first: Sequence[int], second: Sequence[int]) -> float:
    """Cohen's weighted kappa of two raters with quadratic weights (Cohen, Psychol Bull 70 (1968) 213-220).

    It is 1 - the mean squared difference of the two ratings / the one expected if each rater's ratings were assigned
    to the structures by chance. With quadratic weights it resembles an intraclass correlation (Fleiss and Cohen, Educ
    Psychol Meas 33 (1973) 613-619).

    Args:
        first: (n,) ratings of the first rater, on an ordered scale with equal steps.
        second: (n,) ratings of the second rater for the same structures.

    Returns:
        1 for equal ratings, 0 for agreement by chance, negative below. NaN for fewer than `MIN_COMMON` structures, or
        if both raters gave one and the same rating to all of them.

    Raises:
        ValueError: the numbers of ratings differ.
    """
    if len(first) != len(second):
        raise ValueError(f"expected a rating of both raters for every structure, got {len(first)} and {len(second)}")
    if len(first) < MIN_COMMON:
        return math.nan
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    expected = float(np.mean((a[:, None] - b) ** 2))
    return 1 - float(np.mean((a - b) ** 2)) / expected if expected else math.nan


def rater_agreement(ratings: Mapping[str, Mapping[Hashable, int]]) -> Agreement:
    """The mean of the weighted kappas of all pairs of raters (Light, Psychol Bull 76 (1971) 365-377).

    A pair is compared on the structures that both rated.

    Args:
        ratings: by rater, the rating of every structure that this rater rated.
    """
    kappas, twice = [], set()
    for own, other in itertools.combinations(ratings.values(), 2):
        common = sorted(own.keys() & other.keys())
        twice.update(common)
        kappas.append(weighted_kappa([own[key] for key in common], [other[key] for key in common]))
    defined = [kappa for kappa in kappas if not math.isnan(kappa)]
    return Agreement(float(np.mean(defined)) if defined else math.nan, len(defined), len(twice))

"""utils/evaluation/agreement.py: weighted kappa."""

import math

import numpy as np
import pytest

from utils.evaluation.agreement import rater_agreement, weighted_kappa

ANXIETY = (
    (3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3),
    (3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4),
)
"""Anxiety of 20 persons by two raters: example of the manual of R's package irr, which prints 0.297 for them."""


def test_a_published_example():
    assert weighted_kappa(*ANXIETY) == pytest.approx(0.297, abs=5e-4)


def test_an_example_that_is_computed_by_hand():
    # Squared differences are 0, 0, 1 and 4, on average 1.25. By chance, each of the first rater's 5, 5, 4 and 1 meets
    # each of the second's 5, 5, 3 and 3: 8, 8, 4 and 40 in sum, on average 60 / 16 = 3.75.
    assert weighted_kappa([5, 5, 4, 1], [5, 5, 3, 3]) == pytest.approx(1 - 1.25 / 3.75)


def test_quadratic_weights_equal_the_formula_of_means_and_variances():
    # Fleiss and Cohen (1973): 2 cov / (var + var + squared difference of the means)
    a, b = np.random.default_rng(0).integers(1, 6, (2, 40))
    (var_a, cov), (_, var_b) = np.cov(a, b, ddof=0)
    assert weighted_kappa(a, b) == pytest.approx(2 * cov / (var_a + var_b + (a.mean() - b.mean()) ** 2))


def test_equal_opposite_and_undefined_ratings():
    assert weighted_kappa([1, 3, 5], [1, 3, 5]) == 1
    assert weighted_kappa([1, 5], [5, 1]) == -1
    assert math.isnan(weighted_kappa([4, 4, 4], [4, 4, 4]))  # no disagreement is expected by chance either
    assert math.isnan(weighted_kappa([4], [5]))
    assert math.isnan(weighted_kappa([], []))
    with pytest.raises(ValueError, match="got 1 and 2"):
        weighted_kappa([4], [5, 4])


def test_several_raters_are_compared_in_pairs_on_what_both_rated():
    ratings = {
        "A": {"p1": 1, "p2": 3, "p3": 5},
        "B": {"p1": 1, "p2": 3, "p4": 2},  # equal to A: kappa 1
        "C": {"p2": 1, "p3": 5, "p1": 3},  # with A: differences 2, 2, 0; with B: 2, 2
        "D": {"p4": 4},  # one structure in common with B
    }
    with_a = 1 - (8 / 3) / (((0 + 4 + 16) + (4 + 0 + 4) + (16 + 4 + 0)) / 9)
    found = rater_agreement(ratings)
    assert found.kappa == pytest.approx((1 + with_a + weighted_kappa([1, 3], [3, 1])) / 3)
    assert (found.num_pairs, found.num_structures) == (3, 4)
    alone = rater_agreement({"A": ratings["A"]})
    assert math.isnan(alone.kappa)
    assert (alone.num_pairs, alone.num_structures) == (0, 0)

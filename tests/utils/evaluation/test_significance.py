"""utils/evaluation/significance.py: coverage of intervals, tests with known results, corrections computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.evaluation.significance import holm, paired_bootstrap_interval, signed_rank_p


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_the_interval_covers_a_known_difference_at_its_nominal_rate(draw):
    rng = np.random.default_rng(1)
    samples = rng.normal(0.5, 1, (400, 24)) if draw == "normal" else rng.exponential(0.5, (400, 24))
    intervals = [paired_bootstrap_interval(sample, num_resamples=500) for sample in samples]
    covered = np.mean([low <= 0.5 <= high for low, high in intervals])
    assert 0.92 <= covered <= 0.98  # 0.95 +- three standard errors of 400 experiments


def test_the_interval_moves_and_scales_with_the_differences():
    values = np.random.default_rng(2).normal(1, 0.2, 20)
    low, high = paired_bootstrap_interval(values)
    assert low < values.mean() < high
    assert paired_bootstrap_interval(values) == (low, high)
    assert paired_bootstrap_interval(10 * values - 3) == pytest.approx((10 * low - 3, 10 * high - 3))


def test_the_interval_of_equal_differences_is_a_point_and_of_few_is_undefined():
    assert paired_bootstrap_interval([0.0] * 8) == (0, 0)
    assert paired_bootstrap_interval([0.25] * 8) == (0.25, 0.25)
    assert all(math.isnan(limit) for limit in paired_bootstrap_interval([0.1, 0.2, 0.3, 0.4]))
    assert all(math.isnan(limit) for limit in paired_bootstrap_interval([0.0] * 11 + [1.0]))
    assert all(math.isnan(limit) for limit in paired_bootstrap_interval([0.0] * 7 + [0.1, 0.2, 0.3, 0.1, 0.2, 1.5]))
    assert not any(math.isnan(limit) for limit in paired_bootstrap_interval([0.0] * 3 + [0.1, 0.2, 0.3]))


def test_signed_rank_of_identical_cases_is_one_and_of_none_undefined():
    assert signed_rank_p([0.0] * 10) == 1
    assert math.isnan(signed_rank_p([]))


def test_signed_rank_by_hand():
    # Six differences of one sign: of the 2^6 ways to give signs, two are as extreme.
    assert signed_rank_p([1, 2, 3, 4, 5, 6]) == pytest.approx(2 / 64)
    assert signed_rank_p([1, 2, 3, 4, 5, 6, 0, 0]) == pytest.approx(2 / 64)  # zero differences are left out
    assert signed_rank_p([1, 2, 3, 4, 5, np.inf]) == pytest.approx(2 / 64)
    assert signed_rank_p([1, 2, 3, 4, 5, -np.inf]) > 0.3


def test_signed_rank_finds_a_planted_shift_and_no_other():
    noise = np.random.default_rng(3).normal(0, 1, 24)
    assert signed_rank_p(noise + 1) < 0.001
    assert signed_rank_p(noise) > 0.05


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1, 1])
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)
    assert holm([]) == []


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    for p, corrected in zip(p_values, holm(p_values), strict=True):
        assert p <= corrected <= min(1, p * len(p_values))

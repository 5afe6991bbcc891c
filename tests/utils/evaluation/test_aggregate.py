"""utils/evaluation/aggregate.py: means over cases and organs, worst cases, paired comparisons."""

import math
from dataclasses import asdict

import numpy as np
import pytest

from utils.evaluation.aggregate import (
    compare_predictions,
    compute_statistics,
    find_low_cases,
    find_worst_cases,
    summarize_groups,
    summarize_organs,
)
from utils.evaluation.metrics import METRICS, OrganScores, ScoreRow, Status

DICE, HD95 = METRICS[:2]


def row(case_id, organ, dice, hd95_mm, status=Status.SCORED):
    names = OrganScores.__dataclass_fields__
    values = {name: 0.5 for name in names} | {
        "dice": dice,
        "hd95_mm": hd95_mm,
        "assd_mm": hd95_mm,
        "surface_dice": dice,
    }
    scores = None if status in (Status.NOT_CONTOURED, Status.NOT_PREDICTED) else OrganScores(**values)
    return ScoreRow(case_id=case_id, organ=organ, status=status, tolerance_mm=2.0, scores=scores)


ROWS = [
    row("a", "brainstem", 0.8, 2.0),
    row("b", "brainstem", 0.6, 4.0),
    row("c", "brainstem", math.nan, math.nan, Status.NOT_CONTOURED),
    row("a", "chiasm", 0.5, 3.0),
    row("b", "chiasm", 0.0, math.inf, Status.MISSED),
    row("c", "chiasm", math.nan, math.nan, Status.ABSENT),
]
ORGANS = ("brainstem", "chiasm", "mandible")


def test_missed_organs_stay_in_the_mean_dice_and_are_counted():
    brainstem, chiasm = summarize_organs(ROWS, ORGANS)
    assert (brainstem.n, brainstem.missed, brainstem.statistics["dice"].mean) == (2, 0, pytest.approx(0.7))
    assert brainstem.statistics["dice"].std == pytest.approx(math.sqrt(0.02))
    assert brainstem.counts == {Status.SCORED: 2, Status.NOT_CONTOURED: 1}
    assert (chiasm.n, chiasm.missed) == (2, 1)
    assert (chiasm.statistics["dice"].mean, chiasm.statistics["dice"].n) == (pytest.approx(0.25), 2)
    assert (chiasm.statistics["hd95_mm"].mean, chiasm.statistics["hd95_mm"].n) == (3.0, 1)
    assert chiasm.statistics["hd95_mm"].median == math.inf


def test_statistics_of_one_and_of_no_value():
    assert (compute_statistics([2.0]).mean, compute_statistics([2.0]).median) == (2.0, 2.0)
    assert math.isnan(compute_statistics([2.0]).std)
    assert math.isnan(compute_statistics([]).mean)
    assert compute_statistics([1.0, 2.0, math.inf]).median == 2.0


def test_groups_count_every_organ_once():
    large, small, everything = summarize_groups(summarize_organs(ROWS, ORGANS), small_organs=("chiasm",))
    assert [group.name for group in (large, small, everything)] == ["mean of large", "mean of small", "mean of all"]
    assert large.statistics["dice"].mean == pytest.approx(0.7)
    assert small.statistics["dice"].mean == pytest.approx(0.25)
    assert everything.statistics["dice"].mean == pytest.approx((0.7 + 0.25) / 2)
    assert (everything.n, everything.missed) == (4, 1)
    assert math.isnan(everything.statistics["dice"].std)
    assert [group.name for group in summarize_groups(summarize_organs(ROWS, ORGANS), None)] == ["mean of all"]


def test_the_worst_case_of_an_organ_is_the_missed_one():
    assert [(w.organ, w.case_id, w.value) for w in find_worst_cases(ROWS, ORGANS, HD95)] == [
        ("brainstem", "b", 4.0),
        ("chiasm", "b", math.inf),
    ]
    assert find_worst_cases(ROWS, ORGANS, DICE)[0].value == 0.6


def test_worst_cases_are_measured_against_what_their_organs_usually_score():
    ((case_id, gap),) = find_low_cases(ROWS)  # case a is above the medians
    assert case_id == "b"
    assert gap == pytest.approx((0.6 - 0.7 + 0 - 0.25) / 2)


def two_predictions(shift, num_cases=12):
    rng = np.random.default_rng(0)
    reference = [(f"c{i}", rng.uniform(0.6, 0.9), rng.uniform(1, 4)) for i in range(num_cases)]
    own = [row(case, organ, dice, hd) for case, dice, hd in reference for organ in ("x", "y")]
    noise = {case: rng.normal(0, 0.005) for case, _, _ in reference}
    other = [
        row(case, organ, dice - (shift + noise[case] if organ == "x" else 0), hd)
        for case, dice, hd in reference
        for organ in ("x", "y")
    ]
    return own, other


def test_identical_predictions_have_p_one_in_every_organ_and_metric():
    own, _ = two_predictions(0.05)
    for comparison in compare_predictions(own, own, ("x", "y")):
        assert comparison.identical
        assert (comparison.p, comparison.p_corrected) == (1, 1)
        assert (comparison.mean_difference, comparison.interval) == (0, (0, 0))


def test_a_planted_shift_is_found_in_its_organ_alone():
    own, other = two_predictions(0.05)
    x, y = (c for c in compare_predictions(own, other, ("x", "y")) if c.metric == "dice")
    assert x.mean_difference == pytest.approx(0.05, abs=0.01)
    assert x.interval.low < x.mean_difference < x.interval.high
    assert x.interval.low > 0
    assert x.p == pytest.approx(2 / 2**12)
    assert x.p_corrected == pytest.approx(2 * x.p)
    assert y.identical


def test_missed_organs_count_in_the_test_and_beside_the_mean():
    own = [row(f"c{i}", "x", 0.8, 2.0) for i in range(8)] + [row("m", "x", 0.0, math.inf, Status.MISSED)]
    other = [row(f"c{i}", "x", 0.8, 2.0) for i in range(8)] + [row("m", "x", 0.7, 3.0)]
    dice, hd95 = compare_predictions(own, other, ("x",))[:2]
    assert (dice.n, dice.mean_difference) == (9, pytest.approx(-0.7 / 9))
    assert (hd95.n, hd95.missed, hd95.other_missed, hd95.mean_difference) == (8, 1, 0, 0)
    assert not hd95.identical
    assert compare_predictions(own, own, ("x",))[1].identical  # missed by both is no difference


def test_an_organ_that_both_missed_is_counted_as_such_in_every_metric():
    missed = [row(f"m{i}", "x", 0.0, math.inf, Status.MISSED) for i in range(2)]
    own = [*missed, *(row(f"c{i}", "x", 0.8, 2.0) for i in range(3)), row("o", "x", 0.0, math.inf, Status.MISSED)]
    other = [*missed, *(row(f"c{i}", "x", 0.7, 3.0) for i in range(3)), row("o", "x", 0.7, 3.0)]
    for comparison in compare_predictions(own, other, ("x",)):
        assert (comparison.missed, comparison.other_missed, comparison.both_missed) == (1, 0, 2)
        assert comparison.n == (6 if "dice" in comparison.metric else 3)


def test_cases_of_one_side_alone_are_not_compared():
    own = [row("a", "x", 0.8, 2.0), row("b", "x", 0.7, 2.0)]
    other = [row("b", "x", 0.6, 2.0), row("c", "x", 0.1, 9.0), row("b", "y", 0.6, 2.0)]
    comparisons = compare_predictions(own, other, ("x", "y"))
    assert {comparison.organ for comparison in comparisons} == {"x"}
    assert asdict(comparisons[0])["n"] == 1

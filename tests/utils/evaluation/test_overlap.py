"""utils/evaluation/overlap.py: overlap, volume and centroids of masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.evaluation.overlap import centroid_distance_mm, dice, dice_per_label, relative_volume_error, volume_ml

SPACING = (3.0, 2.0, 1.0)
EMPTY = np.zeros((2, 3, 4), dtype=bool)
FULL = np.ones((2, 3, 4), dtype=bool)

label_maps = hnp.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


def test_dice_per_label_by_hand_and_nan_where_neither_has_the_label():
    prediction = np.array([[[1, 1, 0, 2]]], dtype=np.uint8)
    reference = np.array([[[1, 0, 0, 1]]], dtype=np.uint8)
    scores = dice_per_label(prediction, reference, 3)
    assert scores[0] == pytest.approx(2 * 1 / (2 + 2))
    assert scores[1] == 0
    assert np.isnan(scores[2])


def test_labels_beyond_the_count_are_left_out():
    labels = np.array([[[1, 5]]], dtype=np.uint8)
    np.testing.assert_array_equal(dice_per_label(labels, labels, 2), [1, np.nan])


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="cannot compare label maps"):
        dice_per_label(np.zeros((2, 3, 4), np.uint8), np.zeros((2, 4, 3), np.uint8), 1)


@settings(deadline=None, derandomize=True)
@given(label_maps, label_maps)
def test_every_label_scores_what_its_mask_scores(prediction, reference):
    expected = [dice(prediction == label, reference == label) for label in (1, 2, 3)]
    np.testing.assert_allclose(dice_per_label(prediction, reference, 3), expected)
    np.testing.assert_array_equal(dice_per_label(reference, prediction, 3), dice_per_label(prediction, reference, 3))


def test_empty_masks_score_zero_alone_and_nan_together():
    assert dice(EMPTY, FULL) == dice(FULL, EMPTY) == 0
    assert math.isnan(dice(EMPTY, EMPTY))
    assert centroid_distance_mm(EMPTY, FULL, SPACING) == centroid_distance_mm(FULL, EMPTY, SPACING) == math.inf
    assert math.isnan(centroid_distance_mm(EMPTY, EMPTY, SPACING))
    assert relative_volume_error(0.0, 2.0) == -1
    assert relative_volume_error(2.0, 0.0) == math.inf
    assert math.isnan(relative_volume_error(0.0, 0.0))


def test_volume_counts_voxels_of_six_cubic_millimeters():
    assert volume_ml(FULL, SPACING) == pytest.approx(24 * 6 / 1000)
    assert relative_volume_error(3.0, 2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 3.0), (1, 2.0), (2, 1.0)])
def test_centroids_of_neighboring_voxels_are_a_spacing_apart(axis, expected_mm):
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[1, 1, 1] = True
    assert centroid_distance_mm(np.roll(mask, 1, axis), mask, SPACING) == pytest.approx(expected_mm)

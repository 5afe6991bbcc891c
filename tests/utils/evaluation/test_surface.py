"""utils/evaluation/surface.py: against values computed by hand, properties of distances, and the package itself."""

import warnings
from dataclasses import asdict

import numpy as np
import pytest
import surface_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils.evaluation.surface import score_masks

SPACING = (3.0, 2.0, 1.25)
TOLERANCE = 2.0
SHAPE = (4, 5, 6)
EMPTY = np.zeros(SHAPE, dtype=bool)
SWAPPED_BY_SWAPPING = ("mean_distance_to_reference_mm", "mean_distance_to_prediction_mm")

EXAMPLES = settings(max_examples=50, deadline=None, derandomize=True)
filled_masks = hnp.arrays(bool, SHAPE).filter(np.any)


def voxels(*places):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[tuple(np.transpose(places))] = True
    return mask


def scores(prediction, reference, spacing=SPACING, tolerance=TOLERANCE):
    return asdict(score_masks(prediction, reference, spacing, tolerance))


def same(first, second):
    assert first == pytest.approx(second, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("axis", "spacing"), list(enumerate(SPACING)))
def test_two_single_voxels_three_apart(axis, spacing):
    # The surface of a voxel is its eight corners, of equal area: four are two spacings from the other voxel's nearest
    # corners, four are three.
    far = [0, 0, 0]
    far[axis] = 3
    result = score_masks(voxels(far), voxels((0, 0, 0)), SPACING, tolerance_mm=2 * spacing)
    assert result.dice == 0
    assert result.hd_mm == pytest.approx(3 * spacing)
    assert result.hd95_mm == pytest.approx(3 * spacing)
    assert result.assd_mm == pytest.approx(2.5 * spacing)
    assert result.surface_dice == pytest.approx(0.5)
    assert result.centroid_distance_mm == pytest.approx(3 * spacing)
    assert result.relative_volume_error == 0


@pytest.mark.parametrize(("axis", "spacing"), list(enumerate(SPACING)))
def test_a_bar_of_two_voxels_shifted_by_one(axis, spacing):
    step = np.eye(3, dtype=int)[axis]
    here = np.array([1, 1, 1])
    result = score_masks(voxels(here + step, here + 2 * step), voxels(here, here + step), SPACING, tolerance_mm=0)
    assert result.dice == pytest.approx(0.5)
    assert result.hd_mm == pytest.approx(spacing)  # only the far ends differ, more than 5 % of the surface
    assert result.hd95_mm == pytest.approx(spacing)
    assert 0 < result.assd_mm < spacing / 2
    assert result.centroid_distance_mm == pytest.approx(spacing)


def test_a_diagonal_distance_is_euclidean():
    result = score_masks(voxels((2, 2, 3)), voxels((0, 0, 0)), (3.0, 4.0, 12.0), tolerance_mm=1)
    assert result.hd_mm == pytest.approx(np.linalg.norm([2 * 3, 2 * 4, 3 * 12]))
    assert result.mean_distance_to_reference_mm == pytest.approx(result.mean_distance_to_prediction_mm)


@pytest.mark.parametrize(("prediction", "reference"), [(EMPTY, voxels((1, 2, 3))), (voxels((1, 2, 3)), EMPTY)])
def test_one_empty_mask_scores_the_worst_in_every_metric(prediction, reference):
    result = score_masks(prediction, reference, SPACING, TOLERANCE)
    assert (result.dice, result.surface_dice) == (0, 0)
    assert {result.hd95_mm, result.hd_mm, result.assd_mm, result.centroid_distance_mm} == {np.inf}
    assert result.relative_volume_error == (-1 if reference.any() else np.inf)


def test_two_empty_masks_are_undefined_in_every_metric():
    result = scores(EMPTY, EMPTY)
    assert (result.pop("volume_prediction_ml"), result.pop("volume_reference_ml")) == (0, 0)
    assert np.isnan(list(result.values())).all()


def test_masks_of_other_shapes_or_types_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        score_masks(EMPTY, EMPTY[1:], SPACING, TOLERANCE)
    with pytest.raises(ValueError, match="boolean"):
        score_masks(EMPTY.astype(np.uint8), EMPTY, SPACING, TOLERANCE)


def test_no_warning_is_shown():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score_masks(voxels((1, 1, 1)), voxels((1, 2, 1)), SPACING, TOLERANCE)


@EXAMPLES
@given(filled_masks)
def test_identical_masks_are_perfect(mask):
    result = scores(mask, mask)
    assert (result["dice"], result["surface_dice"]) == (1, 1)
    same(
        [result[key] for key in ("hd95_mm", "hd_mm", "assd_mm", "relative_volume_error", "centroid_distance_mm")],
        [0] * 5,
    )


@EXAMPLES
@given(filled_masks, filled_masks)
def test_symmetric_apart_from_direction_and_volume(first, second):
    there, back = scores(first, second), scores(second, first)
    for result in (there, back):
        del result["relative_volume_error"]
    for one, other in (SWAPPED_BY_SWAPPING, ("volume_prediction_ml", "volume_reference_ml")):
        back[one], back[other] = back[other], back[one]
    same(there, back)


@EXAMPLES
@given(filled_masks, filled_masks, st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_padding_and_cropping_change_nothing(first, second, margins):
    widths = list(zip(margins[::2], margins[1::2], strict=True))
    same(scores(*(np.pad(mask, widths) for mask in (first, second))), scores(first, second))


@EXAMPLES
@given(filled_masks, filled_masks, st.sampled_from([(0,), (1,), (2,), (0, 1), (0, 1, 2)]))
def test_flipping_axes_changes_nothing(first, second, axes):
    same(scores(np.flip(first, axes), np.flip(second, axes)), scores(first, second))


@EXAMPLES
@given(filled_masks, filled_masks, st.permutations(range(3)))
def test_turning_grid_and_spacing_changes_nothing(first, second, order):
    spacing = [SPACING[axis] for axis in order]
    same(scores(first.transpose(order), second.transpose(order), spacing), scores(first, second))


@EXAMPLES
@given(filled_masks, filled_masks, st.sampled_from([0.5, 2.0, 4.0]))
def test_lengths_scale_with_spacing(first, second, factor):
    expected = scores(first, second)
    for key in expected:
        expected[key] *= factor if key.endswith("_mm") else factor**3 if key.endswith("_ml") else 1
    same(scores(first, second, np.multiply(SPACING, factor), TOLERANCE * factor), expected)


@EXAMPLES
@given(filled_masks, filled_masks, st.floats(0, 10))
def test_every_metric_is_the_packages(prediction, reference, tolerance):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        distances = surface_distance.compute_surface_distances(reference, prediction, SPACING)
    result = score_masks(prediction, reference, SPACING, tolerance)
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(distances)
    assert result.dice == pytest.approx(surface_distance.compute_dice_coefficient(reference, prediction), abs=1e-6)
    assert result.hd95_mm == pytest.approx(surface_distance.compute_robust_hausdorff(distances, 95), abs=1e-6)
    assert result.hd_mm == pytest.approx(max(map(np.max, list(distances.values())[:2])), abs=1e-6)
    assert result.assd_mm == pytest.approx((to_prediction + to_reference) / 2, abs=1e-6)
    expected = surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)
    assert result.surface_dice == pytest.approx(expected, abs=1e-6)


@EXAMPLES
@given(filled_masks, filled_masks)
def test_metrics_keep_their_order(first, second):
    result = score_masks(first, second, SPACING, TOLERANCE)
    assert 0 <= result.assd_mm <= result.hd_mm
    assert result.hd95_mm <= result.hd_mm
    assert score_masks(first, second, SPACING, result.hd_mm).surface_dice == pytest.approx(1)

"""resample.py: values by hand, edges, round trips, no aliasing, nothing shifts."""

import numpy as np
import pytest

from data_preprocess.resample import resample_image, resample_labels, whole_volume

COARSE, FINE = (5.0, 3.0, 2.0), (2.5, 1.5, 1.0)


def line(values, axis, dtype=np.int16):
    shape = [1, 1, 1]
    shape[axis] = len(values)
    return np.array(values, dtype=dtype).reshape(shape)


def spacing_along(axis, value):
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = value
    return tuple(spacing)


def ball(size, spacing, center_mm, radius_mm):
    """Voxel i lies at (i + 0.5) * spacing."""
    axes = [(np.arange(n) + 0.5) * s for n, s in zip(size, spacing, strict=True)]
    distances = np.meshgrid(*axes, indexing="ij")
    return sum((p - c) ** 2 for p, c in zip(distances, center_mm, strict=True)) <= radius_mm**2


def centroid_mm(weight, spacing):
    axes = np.meshgrid(*[(np.arange(n) + 0.5) * s for n, s in zip(weight.shape, spacing, strict=True)], indexing="ij")
    return [float((axis * weight).sum() / weight.sum()) for axis in axes]


def test_same_spacing_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 3000, (4, 6, 5)).astype(np.int16)
    labels = rng.integers(0, 9, (4, 6, 5)).astype(np.uint8)
    almost = tuple(s * 1.0005 for s in COARSE)
    np.testing.assert_array_equal(resample_image(image, COARSE, almost), image)
    np.testing.assert_array_equal(resample_labels(labels, COARSE, almost), labels)


def test_size_covers_the_same_extent():
    assert whole_volume((10, 20, 30), COARSE, FINE).size_zyx == (20, 40, 60)
    assert whole_volume((10, 20, 30), (3.0, 1.0, 1.0), (2.5, 3.0, 0.9)).size_zyx == (12, 7, 33)
    assert whole_volume((1, 1, 1), FINE, (100.0, 100.0, 100.0)).size_zyx == (1, 1, 1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_finer_image_by_hand(axis):
    out = resample_image(line([0, 100, 60], axis), spacing_along(axis, 2.0), (1.0, 1.0, 1.0))
    # source voxels at 1, 3, 5 mm; new ones at 0.5, 1.5, ..., the outermost beyond the last center
    assert out.dtype == np.int16
    assert out.ravel().tolist() == [0, 25, 75, 90, 70, 60]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_finer_labels_by_hand(axis):
    out = resample_labels(line([0, 7, 7, 3], axis, np.uint8), spacing_along(axis, 2.0), (1.0, 1.0, 1.0))
    assert out.dtype == np.uint8
    assert out.ravel().tolist() == [0, 0, 7, 7, 7, 7, 3, 3]


def test_coarser_labels_by_hand():
    out = resample_labels(line([1, 1, 1, 2, 2, 2, 0, 0, 0], 2, np.uint8), (1.0, 1.0, 1.0), (1.0, 1.0, 3.0))
    assert out.ravel().tolist() == [1, 2, 0]


def test_constant_image_stays_constant_to_the_edges():
    image = np.full((6, 9, 7), 37, dtype=np.int16)
    for spacing in ((2.0, 4.5, 3.5), (7.0, 1.0, 2.2)):
        assert (resample_image(image, COARSE, spacing) == 37).all()


def test_labels_survive_a_finer_grid_and_back():
    labels = np.random.default_rng(0).integers(0, 6, (5, 7, 6)).astype(np.uint8)
    fine = resample_labels(labels, COARSE, (1.0, 1.0, 0.5))
    assert fine.shape == (25, 21, 24)
    np.testing.assert_array_equal(resample_labels(fine, (1.0, 1.0, 0.5), COARSE), labels)


def test_coarsening_averages_noise_away():
    noise = np.random.default_rng(0).normal(0, 100, (48, 48, 48)).astype(np.float32)
    coarse = resample_image(noise, (1.0, 1.0, 1.0), (3.0, 3.0, 3.0))
    assert coarse.shape == (16, 16, 16)
    assert coarse.std() < 30  # 100 without smoothing, 19 for block means
    assert abs(coarse.mean()) < 2
    one_axis = resample_image(noise, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0))
    assert 40 < one_axis.std() < 70  # block means of three: 58


def test_slightly_coarser_does_not_ring():
    step = np.where(np.arange(40) < 20, -1000, 1000).astype(np.int16).reshape(1, 1, 40).repeat(8, axis=1)
    for new in (1.002, 1.02, 1.1, 1.3):
        out = resample_image(step, (1.0, 1.0, 1.0), (1.0, 1.0, new))
        assert out.min() >= -1010
        assert out.max() <= 1010


@pytest.mark.parametrize("new_spacing", [(2.5, 1.5, 1.0), (4.0, 4.0, 2.0), (10.0, 6.0, 4.0)])
def test_a_ball_does_not_move(new_spacing):
    """Grids aligned at voxel centers instead of edges would move it by 1.25, 0.5 and 2.5 mm."""
    mask = ball((16, 30, 40), COARSE, (37.0, 41.0, 44.0), 20.0)
    image = resample_image((mask * 1000).astype(np.int16), COARSE, new_spacing)
    assert centroid_mm(image.astype(float), new_spacing) == pytest.approx(centroid_mm(mask, COARSE), abs=0.2)


@pytest.mark.parametrize("new_spacing", [(2.5, 1.5, 1.0), (4.0, 4.0, 2.0), (3.6, 2.3, 1.7)])
def test_labels_of_a_ball_keep_place_and_volume(new_spacing):
    mask = ball((16, 30, 40), COARSE, (37.0, 41.0, 44.0), 20.0)
    labels = resample_labels(mask.astype(np.uint8), COARSE, new_spacing)
    assert centroid_mm(labels, new_spacing) == pytest.approx(centroid_mm(mask, COARSE), abs=0.2)
    volume_mm3 = mask.sum() * np.prod(COARSE)
    assert labels.sum() * np.prod(new_spacing) == pytest.approx(volume_mm3, rel=0.05)  # corners round off

"""network_grid.py: the networks' voxels lie at the same places of the patient, whatever surrounds the patient."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from data_preprocess.field_of_view import CoarseGrid, Region, region_around
from data_preprocess.network_grid import NetworkGrid, find_field_of_view
from tests.head_scan import SPACING, head_scan, with_holder, with_table
from utils.config.preset import GridSettings

GRID = GridSettings(spacing_zyx_mm=(4.0, 5.0, 5.0), crop_size_vox=(16, 32, 24), roi_size_vox=(4, 8, 8))
NEAR_MM = 20.0
"""Farther from the skin, nothing is seen."""


@pytest.fixture(scope="module")
def image():
    return head_scan()


def seen_in(image, settings=GRID):
    body, grid = find_field_of_view(image, SPACING, settings)
    return grid, grid.resample_image(image, body)


@pytest.fixture(scope="module")
def bare(image):
    return seen_in(image)


def test_it_holds_the_patient_and_begins_and_ends_at_pooled_voxels_from_the_anchor(bare, image):
    grid, seen = bare
    assert seen.shape == grid.size_zyx
    assert [n % m for n, m in zip(grid.size_zyx, (2, 8, 8), strict=True)] == [0, 0, 0]
    for axis, occupied in enumerate(np.nonzero(image > -300)):
        assert grid.start_vox[axis] <= max(0, occupied.min() + 0.5)
        assert grid.stop_vox[axis] >= occupied.max() + 0.5


def test_a_field_of_view_by_hand():
    field = Region((10, 20, 30), (50, 70, 61))
    grid = NetworkGrid.around(field, (31.25, 40.25, 45.5), (3.0, 2.0, 2.0), GRID)
    # from the anchor -15.9 to 14.1 voxels of 4 mm, which become -16 and 16
    assert (grid.start_vox[0], grid.size_zyx[0]) == (pytest.approx(31.25 - 16 / 0.75), 32)
    # -8.1 to 11.9 voxels of 5 mm; a window of 32 with the same center, 1.9, begins at -14.1, nearest to -16
    assert (grid.start_vox[1], grid.size_zyx[1]) == (pytest.approx(40.25 - 16 / 0.4), 32)
    # -6.2 to 6.2; a window of 24 begins at -12
    assert (grid.start_vox[2], grid.size_zyx[2]) == (pytest.approx(45.5 - 12 / 0.4), 24)
    same = NetworkGrid.around(field, (31.25, 40.25, 45.5), (4.0, 5.0, 5.003), GRID)
    assert all(float(start).is_integer() for start in same.start_vox)
    assert same.spacing_ratio == (1, 1, 1)
    assert same.offset_vox == (0, 0, 0)


@pytest.mark.parametrize("spacing", [(4.0, 4.0, 4.0), (2.0, 2.0, 2.0), (3.0, 1.0, 1.3)])
def test_the_box_leaves_out_margin_only(spacing):
    """At every place of the anchor and every width, all that can show the patient lies inside."""
    for width in range(40, 72):
        for anchor in np.linspace(0, 16, 9):
            samples = CoarseGrid.through((0, anchor, anchor), spacing)
            margin, spare = samples.margin_vox(1), samples.spare_vox(1)
            field = Region((0, -margin, 0), (10, width + margin, 10))
            grid = NetworkGrid.around(field, (0, anchor, anchor), spacing, GRID)
            assert grid.start_vox[1] <= spare - margin + 1e-9
            assert grid.stop_vox[1] >= width + margin - spare - 1e-9
            assert grid.size_zyx[1] % 8 == 0


def test_what_shows_the_patient_ends_before_the_spare_margin():
    for spacing in ((3.0, 2.0, 2.0), (5.0, 4.0, 1.0), (3.0, 1.3, 0.7)):
        size = tuple(int(n / s) for n, s in zip((90, 120, 150), spacing, strict=True))
        middle = [(n - 1) / 2 for n in size]
        axes = np.ogrid[: size[0], : size[1], : size[2]]
        image = np.full(size, 40, dtype=np.int16)
        image[sum(((i - c) * s / 40) ** 2 for i, c, s in zip(axes, middle, spacing, strict=True)) > 1] = -290
        body, _ = find_field_of_view(image, spacing, GRID)
        samples = body.grid
        inside = np.zeros_like(body.inside)
        inside[len(inside) // 2, inside.shape[1] // 2, inside.shape[2] // 2] = True
        small = replace(body, inside=inside)
        field = region_around(small, image)
        shown = np.nonzero(small.shows_patient(image, (0, 0, 0)))
        for axis in (1, 2):
            assert shown[axis].min() >= field.start_zyx[axis] + samples.spare_vox(axis)
            assert shown[axis].max() < field.stop_zyx[axis] - samples.spare_vox(axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_where_the_scan_begins_changes_nothing(axis, num, image, bare):
    """Slices of air above the head, and rows and columns beside it; the lowest slices show the patient."""
    grid, seen = bare
    for before, after in ((num, 0), (0, num)):
        if axis == 0 and before:
            continue
        cut = np.ascontiguousarray(np.take(image, range(before, image.shape[axis] - after), axis=axis))
        moved, cut_seen = seen_in(cut)
        assert np.add(moved.start_vox, np.eye(3)[axis] * before) == pytest.approx(grid.start_vox, abs=1e-9)
        np.testing.assert_array_equal(cut_seen, seen)


@pytest.mark.parametrize("num", [1, 2, 3])
def test_slices_cut_off_below_leave_the_rest_as_it_was(num, image, bare):
    grid, seen = bare
    moved, cut_seen = seen_in(image[num:])
    missing = round((moved.start_vox[0] + num - grid.start_vox[0]) * SPACING[0] / 4.0)
    assert moved.start_vox[0] + num == pytest.approx(grid.start_vox[0] + missing * 4.0 / SPACING[0])
    assert moved.size_zyx[0] == grid.size_zyx[0] - missing
    np.testing.assert_array_equal(cut_seen[6:], seen[6 + missing :])


def test_slices_cut_off_the_vertex_leave_the_rest_as_it_was(image, bare):
    grid, seen = bare
    moved, cut_seen = seen_in(image[:-9])  # the topmost 4 slices of the head are gone
    assert moved.start_vox == pytest.approx(grid.start_vox)
    height = len(cut_seen) - 8
    np.testing.assert_array_equal(cut_seen[:height], seen[:height])


@pytest.mark.parametrize("change", [with_table, partial(with_holder, gap_mm=NEAR_MM, thickness_mm=4)])
def test_what_is_far_from_the_skin_changes_nothing(change, image, bare):
    grid, seen = bare
    changed = change(image)
    assert (changed != image).sum() > 5000
    moved, changed_seen = seen_in(changed)
    assert moved == grid
    assert np.abs(changed_seen.astype(int) - seen).max() <= 2  # smoothing reaches far, but hardly


@pytest.mark.parametrize("foam", [False, True])
@pytest.mark.parametrize("gap_mm", [2, 5])
@pytest.mark.parametrize("thickness_mm", [2, 4])
def test_a_holder_near_the_skull_does_not_move_the_box(gap_mm, thickness_mm, foam, image, bare):
    moved, _ = seen_in(with_holder(image, gap_mm, thickness_mm, foam))
    assert moved == bare[0]


@pytest.mark.parametrize("gap_mm", [4, 8])
def test_foam_between_head_and_holder_is_not_seen(gap_mm, image):
    empty, with_foam = (with_holder(image, gap_mm, 2, foam) for foam in (False, True))
    assert (empty != with_foam).sum() > 1000
    np.testing.assert_array_equal(seen_in(with_foam)[1], seen_in(empty)[1])


def test_a_holder_that_touches_the_skull_may_move_the_box_by_a_pooled_voxel_but_not_the_lattice(image, bare):
    grid, seen = bare
    for thickness_mm in (2, 4):
        moved, held_seen = seen_in(with_holder(image, 0, thickness_mm))
        rows = round((moved.start_vox[1] - grid.start_vox[1]) * SPACING[1] / 5.0)
        assert rows in (0, -4)
        assert moved.start_vox == pytest.approx(np.add(grid.start_vox, (0, rows * 5.0 / SPACING[1], 0)))
        assert np.abs(held_seen[:, 4:24].astype(int) - seen[:, 4 + rows : 24 + rows]).max() <= 2


def test_a_mirrored_scan_gives_the_mirrored_image(image, bare):
    grid, seen = bare
    mirrored, mirrored_seen = seen_in(np.ascontiguousarray(image[:, :, ::-1]))
    assert image.shape[2] - mirrored.stop_vox[2] == pytest.approx(grid.start_vox[2])
    assert np.abs(mirrored_seen[:, :, ::-1].astype(int) - seen).max() <= 1


def test_at_equal_spacing_the_networks_see_the_voxels_themselves(image):
    settings = GridSettings(spacing_zyx_mm=SPACING, crop_size_vox=(16, 32, 24), roi_size_vox=(4, 8, 8))
    grid, seen = seen_in(image, settings)
    inside = grid.region.crop(image)
    hidden = (seen != inside) & (inside > -300)
    assert hidden.sum() < 0.002 * (inside > -300).sum()  # sharp edges of the shoulders
    assert np.all(seen[hidden] == -1000)


def test_labels_lie_on_the_same_voxels(image, bare):
    grid, seen = bare
    labels = grid.resample_labels((image > -300).astype(np.uint8))
    assert labels.shape == seen.shape
    assert ((labels == 1) == (seen > -480)).mean() > 0.97

"""utils/imaging/masks.py: cropping, joining and resampling keep the position; connected components."""

import numpy as np

from utils.imaging.geometry import Geometry
from utils.imaging.masks import (
    bounding_box,
    connected_components,
    crop_mask,
    crop_to_common_box,
    empty_mask,
    largest_component,
    resample_mask,
)

GRID = Geometry(size_zyx=(6, 8, 10), spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(-5.0, 7.0, 11.0))


def box(*ranges, grid=GRID):
    voxels = np.zeros(grid.size_zyx, dtype=bool)
    voxels[tuple(slice(*r) for r in ranges)] = True
    return crop_mask(voxels, (0, 0, 0), grid)


def whole(mask):
    voxels = np.zeros(mask.geometry.size_zyx, dtype=bool)
    voxels[tuple(slice(c, c + n) for c, n in zip(mask.corner_zyx, mask.voxels.shape, strict=True))] = mask.voxels
    return voxels


def test_cropping_keeps_every_voxel():
    voxels = np.zeros(GRID.size_zyx, dtype=np.uint8)
    voxels[0, 7, 3] = voxels[4, 2, 9] = 1
    mask = crop_mask(voxels, (0, 0, 0), GRID)
    assert (mask.corner_zyx, mask.voxels.shape) == ((0, 2, 3), (5, 6, 7))
    np.testing.assert_array_equal(whole(mask), voxels)


def test_a_mask_without_voxels_is_empty():
    assert crop_mask(np.zeros(GRID.size_zyx), (0, 0, 0), GRID).voxels.shape == (0, 0, 0)


def test_the_bounding_box_holds_every_voxel_and_nothing_around():
    assert bounding_box(box((1, 3), (2, 3), (4, 9)).dense()) == (slice(1, 3), slice(2, 3), slice(4, 9))
    assert bounding_box(np.zeros((2, 3, 4))) is None


def test_components_that_share_a_corner_depend_on_the_connectivity():
    mask = np.zeros((3, 4, 5), dtype=bool)
    mask[0, 0, :2] = mask[1, 1, 2] = mask[2, 3, 4] = True  # a pair, a voxel at its corner, a voxel apart
    by_face, by_corner = (connected_components(mask, connectivity=n) for n in (1, 3))
    assert by_face.sizes.tolist() == [2, 1, 1]
    assert by_corner.sizes.tolist() == [3, 1]
    np.testing.assert_array_equal(by_corner.labels > 0, mask)
    np.testing.assert_array_equal(by_face.select(by_face.sizes > 1), by_face.labels == 1)
    np.testing.assert_array_equal(by_corner.select(np.array([False, True])), by_corner.labels == 2)


def test_an_empty_mask_has_no_components():
    nothing = np.zeros((3, 4), dtype=bool)
    components = connected_components(nothing, connectivity=2)
    assert components.sizes.size == 0
    assert not components.select(components.sizes > 0).any()
    assert not largest_component(nothing, connectivity=2).any()


def test_the_largest_component_is_the_first_of_equals():
    mask = np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0]], dtype=bool)
    np.testing.assert_array_equal(np.argwhere(largest_component(mask, connectivity=1)), [[0, 0], [1, 0]])


def test_joined_masks_share_one_box():
    first, second = crop_to_common_box(box((0, 2), (0, 2), (0, 2)), box((1, 3), (4, 5), (1, 2)))
    assert first.shape == second.shape == (3, 5, 2)
    assert (first.sum(), second.sum()) == (8, 2)
    assert second[1:3, 4, 1].all()


def test_an_empty_mask_joins_as_background():
    filled, nothing = crop_to_common_box(box((1, 2), (3, 5), (4, 7)), empty_mask(GRID))
    assert (filled.shape, filled.sum(), nothing.sum()) == ((1, 2, 3), 6, 0)
    assert crop_to_common_box(empty_mask(GRID), empty_mask(GRID))[0].size == 0


def test_resampling_onto_the_same_grid_changes_nothing():
    mask = box((0, 3), (2, 8), (4, 5))
    assert resample_mask(mask, GRID) is mask


def test_resampling_onto_a_part_of_the_grid_cuts_and_shifts():
    origin = GRID.world_mm((2, 3, 4))
    part = Geometry(size_zyx=(4, 5, 6), spacing_zyx_mm=GRID.spacing_zyx_mm, origin_xyz_mm=origin)
    mask = box((0, 4), (2, 6), (3, 6))
    np.testing.assert_array_equal(whole(resample_mask(mask, part)), whole(mask)[2:, 3:, 4:])


def test_resampling_onto_flipped_axes_flips():
    flipped = Geometry(
        size_zyx=GRID.size_zyx,
        spacing_zyx_mm=GRID.spacing_zyx_mm,
        origin_xyz_mm=GRID.world_mm((0, 7, 9)),
        direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    mask = box((0, 4), (2, 6), (3, 6))
    np.testing.assert_array_equal(whole(resample_mask(mask, flipped)), np.flip(whole(mask), (1, 2)))


def test_resampling_onto_finer_voxels_rounds_the_corners_alone():
    fine = Geometry(
        size_zyx=(12, 16, 20), spacing_zyx_mm=(1.5, 1.0, 0.5), origin_xyz_mm=GRID.world_mm((-0.25, -0.25, -0.25))
    )
    mask = box((1, 4), (2, 6), (3, 8))
    expected = np.kron(whole(mask), np.ones((2, 2, 2), dtype=bool))
    expected[np.ix_((2, 7), (4, 11), (6, 15))] = False  # there the interpolated mask is (3/4)^3 < 1/2
    np.testing.assert_array_equal(whole(resample_mask(mask, fine)), expected)


def test_voxels_outside_of_the_target_are_lost():
    far = Geometry(size_zyx=(3, 3, 3), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(500.0, 0.0, 0.0))
    assert not resample_mask(box((1, 4), (2, 6), (3, 8)), far).voxels.size

"""sources/rtstruct_contours.py: polygons in mm to voxels."""

import numpy as np
import pytest

from data_preprocess.sources.rtstruct_contours import rasterize
from tests.dicom_files import trace
from utils.imaging.geometry import Geometry

SIZE = (5, 20, 30)
GRID = Geometry(size_zyx=SIZE, spacing_zyx_mm=(3.0, 1.5, 0.8), origin_xyz_mm=(-10.0, 5.0, 40.0))


def contour(slice_, *points_yx):
    """Corners given in voxels."""
    return np.array([GRID.world_mm((slice_, y, x)) for y, x in points_yx])


def square(slice_, low, high):
    return contour(slice_, (low, low), (low, high), (high, high), (high, low))


def drawn(*contours):
    return rasterize(contours, GRID).mask.dense()


def test_voxels_whose_centers_lie_within_are_filled():
    expected = np.zeros(SIZE, dtype=bool)
    expected[2, 4:8, 4:8] = True
    np.testing.assert_array_equal(drawn(square(2, 3.6, 7.4)), expected)


def test_centers_on_the_contour_belong_to_it():
    expected = np.zeros(SIZE, dtype=bool)
    expected[2, 4:9, 4:9] = True
    np.testing.assert_array_equal(drawn(square(2, 4, 8)), expected)


def test_inner_contours_are_holes_and_islands_in_them_are_not():
    mask = drawn(square(1, 2.5, 14.5), square(1, 4.5, 12.5), square(1, 7.5, 9.5))
    assert mask.sum() == 12 * 12 - 8 * 8 + 2 * 2
    assert mask[1, 8, 8]
    assert not mask[1, 6, 6]


def test_a_hole_drawn_on_the_organs_voxels_spares_them():
    """Some programs draw it so: both contours run through centers of voxels that belong to the organ."""
    mask = drawn(square(1, 3, 13), square(1, 6, 10))
    assert mask.sum() == 11 * 11 - 3 * 3


def test_a_contour_stored_twice_is_not_a_hole():
    np.testing.assert_array_equal(drawn(square(1, 3.5, 8.5), square(1, 3.5, 8.5)), drawn(square(1, 3.5, 8.5)))


def test_contours_beyond_the_grid_are_cut_off_or_counted():
    found = rasterize([square(0, -4.0, 3.5), square(-2, 3, 8), square(7, 3, 8)], GRID)
    assert found.num_outside == 2
    assert found.mask.dense().sum() == 4 * 4
    assert rasterize([square(-2, 3, 8)], GRID).mask.voxels.size == 0


def test_planes_between_slices_do_not_punch_holes():
    """Contours on every half slice of the CT: the nearest plane counts, not all of them one upon the other."""
    found = rasterize([square(s / 2, 3.5, 9.5) for s in range(9)], GRID)
    assert found.num_between == 4
    assert found.mask.dense().sum() == 5 * 6 * 6


def test_contours_across_the_slices_are_refused():
    upright = np.array([GRID.world_mm(index) for index in [(0, 3, 5), (4, 3, 5), (4, 3, 9)]])
    with pytest.raises(ValueError, match="not parallel to the CT's slices"):
        rasterize([upright], GRID)


def test_no_contours_are_an_empty_mask():
    assert rasterize([], GRID).mask.voxels.shape == (0, 0, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_contours_around_any_mask_give_it_back(seed):
    mask = np.random.default_rng(seed).random(SIZE) > 0.4  # holes, islands and corners that touch
    np.testing.assert_array_equal(drawn(*trace(mask, GRID)), mask)

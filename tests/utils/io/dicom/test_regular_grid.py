"""utils/io/dicom/regular_grid.py: the grid of tilted and uneven slices, masks on it, and the way back to the slices."""

import numpy as np
import pytest
from scipy import ndimage

from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask
from utils.io.dicom.geometry import SliceGeometry, stack_slices
from utils.io.dicom.regular_grid import RegularGrid

SIZE, SPACING = (30, 24), (1.2, 0.8)
EVEN = np.arange(0, 40, 2.5)
BLOCKS = np.concatenate([np.arange(0, 17, 4.0), np.arange(23, 52, 7.0)])
STACKS = {"tilt": (EVEN, 20), "blocks": (BLOCKS, 0), "both": (BLOCKS, -12)}


def stack_of(table_mm, tilt_deg, size=SIZE):
    """Slices whose table moves along z while they are turned around x."""
    cos, sin = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    axes = np.array([[1, 0, 0], [0, cos, sin]])
    return stack_slices(
        [
            SliceGeometry(f"{z:g}", size, SPACING, np.array([-7.3, 5.1, z]), axes, (1.0, float(i)))
            for i, z in enumerate(table_mm)
        ]
    )


@pytest.fixture(params=STACKS, scope="module")
def grid(request):
    return RegularGrid.over(stack_of(*STACKS[request.param]))


def slice_points(grid, number):
    """(rows, columns, 3) points (x, y, z) of a stored slice."""
    matrix = grid.stack.slice_geometry(number).index_to_world()
    row, column = np.indices(SIZE)
    return np.stack([np.zeros(SIZE), row, column, np.ones(SIZE)], axis=-1) @ matrix.T


def grid_points(grid):
    matrix = grid.geometry.index_to_world()
    index = np.stack([*np.indices(grid.geometry.size_zyx), np.ones(grid.geometry.size_zyx)], axis=-1)
    return index @ matrix.T


def smooth(points):
    """HU that change slowly in the patient."""
    x, y, z = np.moveaxis(points, -1, 0)
    return (100 * np.sin(x / 9) + 80 * np.cos(y / 12) + 3 * z).astype(np.float32)


def test_the_grid_is_perpendicular_and_holds_all_slices(grid):
    axes = np.reshape(grid.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    last = np.subtract(grid.geometry.size_zyx, 1)
    for number in range(len(grid.stack.order)):
        corners = grid.geometry.index_zyx(slice_points(grid, number)[[0, 0, -1, -1], [0, -1, 0, -1]])
        assert corners[:, 0].min() > -0.5
        assert corners[:, 0].max() < last[0] + 0.5
        assert corners[:, 1:].min() > -1e-6
        assert np.all(corners[:, 1:] < last[1:] + 1e-6)


def test_even_slices_are_those_of_the_grid():
    grid = RegularGrid.over(stack_of(EVEN, 20))
    np.testing.assert_allclose(grid.geometry.index_zyx(grid.stack.positions_mm)[:, 0], range(len(EVEN)), atol=1e-9)
    assert grid.geometry.spacing_zyx_mm == pytest.approx((2.5 * np.cos(np.radians(20)), *SPACING))


def test_slices_of_the_finer_block_are_those_of_the_grid():
    grid = RegularGrid.over(stack_of(BLOCKS, 0))
    assert grid.geometry.spacing_zyx_mm == (4.0, *SPACING)
    np.testing.assert_allclose(grid.slice_index[:5], range(5), atol=1e-9)
    assert grid.geometry.size_zyx == (14, *SIZE)  # 0 to 52 mm; the last slice lies at 51


@pytest.mark.parametrize(
    ("steps", "spacing_mm"),
    [([0.5] * 6 + [5.0] * 20, 1.0), ([0.5] * 20 + [0.7] * 6, 0.5), ([2.5, 3.1], 2.5)],
    ids=["not finer than 1 mm", "unless most are", "two distances"],
)
def test_the_distance_of_the_grid(steps, spacing_mm):
    grid = RegularGrid.over(stack_of(np.cumsum([0, *steps]), 0))
    assert grid.geometry.spacing_zyx_mm[0] == pytest.approx(spacing_mm)


def test_hu_stay_where_they_are_in_the_patient(grid):
    planes = [smooth(slice_points(grid, number)) for number in range(len(grid.stack.order))]
    found, expected = grid.resample(planes), smooth(grid_points(grid))
    inside = np.ones(found.shape, dtype=bool)
    for k, (below, above, _) in enumerate(grid._neighbors()):
        for number in {below, above}:
            row, column = grid.corners_vox[number]
            y, x = np.indices(found.shape[1:])
            inside[k] &= (y >= row) & (y <= row + SIZE[0] - 1) & (x >= column) & (x <= column + SIZE[1] - 1)
    inside[[0, -1]] = False  # they may lie beyond the first and the last slice
    assert inside.mean() > 0.5
    assert np.abs(found - expected)[inside].max() < 2.5
    assert found[~inside].min() >= -1000


def test_values_return_to_the_slices(grid):
    values = smooth(grid_points(grid)) + 1000
    part = grid.on_slices(values)
    assert part.corner_zyx == (0, 0, 0)
    assert part.values.shape == (len(grid.stack.order), *SIZE)
    for number, plane in enumerate(part.values):
        assert np.abs(plane - smooth(slice_points(grid, number)) - 1000).max() < 2.5


def test_only_the_part_around_an_organ_returns(grid):
    values = np.full(grid.geometry.size_zyx, -1.0, dtype=np.float32)
    values[3:6, 12:16, 9:13] = 1
    corner, part = grid.on_slices(values)
    whole = grid.on_slices(np.where(values == values, values + 3, 0))[1] - 3
    box = tuple(slice(start, start + n) for start, n in zip(corner, part.shape, strict=True))
    np.testing.assert_allclose(part, whole[box], atol=1e-5)
    whole[box] = -1
    assert whole.max() <= 0
    assert part.size < whole.size / 3


def test_nothing_returns_from_an_empty_grid(grid):
    assert grid.on_slices(np.full(grid.geometry.size_zyx, -1.0, dtype=np.float32)).values.size == 0


def ball(points, center, radius_mm):
    return np.linalg.norm(points - center, axis=-1) < radius_mm


def test_contoured_shapes_are_interpolated(grid):
    """A ball on the stored slices is a ball on the grid; its ends lie half-way to the next slice."""
    center = np.array(grid.geometry.world_mm(tuple(np.divide(grid.geometry.size_zyx, 2))))
    reach = np.abs(np.subtract(grid.stack.heights_mm, center @ grid.stack.normal)).min()
    straight = grid.straighten([])[1]
    voxels = np.zeros(straight.size_zyx, dtype=bool)
    for number in range(len(voxels)):
        plane = grid.geometry.index_to_world() @ np.stack(
            [
                np.full(straight.size_zyx[1:], grid.slice_index[number]),
                *np.indices(straight.size_zyx[1:]),
                np.ones(straight.size_zyx[1:]),
            ]
        ).reshape(4, -1)
        voxels[number] = ball(plane.T, center, 8 + reach).reshape(voxels.shape[1:])
    mask = grid.interpolate_mask(crop_mask(voxels, (0, 0, 0), straight)).dense()
    expected = ball(grid_points(grid), center, 8 + reach)
    dice = 2 * np.sum(mask & expected) / (mask.sum() + expected.sum())
    assert dice > 0.85
    assert ndimage.label(mask)[1] == 1


def test_contours_move_with_their_slices(grid):
    """A square on pixel centers of each stored slice is a square on the slices of the straight grid."""
    contours = []
    for number in range(len(grid.stack.order)):
        points = slice_points(grid, number)
        contours.append(points[[4, 4, 9, 9], [3, 8, 8, 3]])
    moved, straight = grid.straighten(contours)
    for number, points in enumerate(moved):
        index = straight.index_zyx(points)
        np.testing.assert_allclose(index[:, 0], number, atol=1e-6)
        corner = grid.corners_vox[number]
        np.testing.assert_allclose(index[:, 1:], corner + [[4, 3], [4, 8], [9, 8], [9, 3]], atol=1e-6)


def test_contours_beyond_the_slices_stay_beyond_them():
    grid = RegularGrid.over(stack_of(BLOCKS, 0))
    moved, straight = grid.straighten([np.array([[0.0, 8.0, -8.0]]), np.array([[0.0, 8.0, 65.0]])])
    assert straight.index_zyx(moved[0])[0, 0] == pytest.approx(-2)
    assert straight.index_zyx(moved[1])[0, 0] == pytest.approx(len(BLOCKS) - 1 + 2)


def test_an_untilted_grid_is_not_wider_than_its_slices():
    stack = stack_of(BLOCKS, 0)
    grid = RegularGrid.over(stack)
    assert isinstance(grid.geometry, Geometry)
    assert grid.geometry.size_zyx[1:] == SIZE

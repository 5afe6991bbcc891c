"""utils/imaging/geometry.py: positions in the patient, compared with SimpleITK."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from utils.imaging.geometry import Geometry

ANGLE = 0.3
OBLIQUE = (np.cos(ANGLE), -np.sin(ANGLE), 0.0, np.sin(ANGLE), np.cos(ANGLE), 0.0, 0.0, 0.0, -1.0)
GRID = Geometry(
    size_zyx=(4, 5, 6), spacing_zyx_mm=(2.5, 1.5, 0.75), origin_xyz_mm=(-10.0, 20.0, 30.5), direction=OBLIQUE
)


def test_world_coordinates_by_hand():
    grid = replace(GRID, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    assert grid.world_mm((2, 3, 4)) == (-10 + 4 * 0.75, 20 + 3 * 1.5, 30.5 + 2 * 2.5)


@pytest.mark.parametrize("index_zyx", [(0, 0, 0), (3, 4, 5), (1, 0, 2), (0.5, 2.25, -1.0)])
def test_world_coordinates_are_simpleitks(index_zyx):
    image = sitk.Image([6, 5, 4], sitk.sitkUInt8)
    image.SetSpacing((0.75, 1.5, 2.5))
    image.SetOrigin(GRID.origin_xyz_mm)
    image.SetDirection(GRID.direction)
    expected = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index_zyx[::-1]])
    np.testing.assert_allclose(GRID.world_mm(index_zyx), expected, atol=1e-9)


def turned(grid, angle_rad):
    """The grid, rotated around its first voxel and the z axis."""
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    return replace(grid, direction=tuple((turn @ np.reshape(grid.direction, (3, 3))).ravel()))


def test_grids_match_if_no_voxel_moves_by_more_than_a_tenth():
    assert GRID.matches(GRID)
    along_x = np.reshape(OBLIQUE, (3, 3))[:, 0] * 0.75
    for moved_vox, same in ((0.09, True), (0.11, False), (-0.09, True), (1.0, False)):
        origin = tuple(np.array(GRID.origin_xyz_mm) + moved_vox * along_x)
        assert GRID.matches(replace(GRID, origin_xyz_mm=origin)) is same
    assert not GRID.matches(replace(GRID, size_zyx=(4, 6, 5)))
    assert GRID.matches(replace(GRID, spacing_zyx_mm=(2.5, 1.5, 0.76)))  # 5 voxels x 0.01 mm are 0.07 voxels
    assert not GRID.matches(replace(GRID, spacing_zyx_mm=(2.5, 1.5, 0.77)))
    assert not GRID.matches(replace(GRID, direction=(*OBLIQUE[:8], 1.0)))


def test_a_direction_that_differs_is_measured_at_the_far_corner():
    """A turn of 1e-4 moves the end of an axis of 250 voxels by 0.025 and of 2500 voxels by 0.25 voxels."""
    for num_voxels, same in ((250, True), (2500, False)):
        grid = Geometry(size_zyx=(4, 1, num_voxels), spacing_zyx_mm=(3.0, 1.0, 1.0))
        assert grid.matches(turned(grid, 1e-4)) is same


def test_a_part_of_a_grid_is_found_on_it():
    part = replace(GRID, size_zyx=(2, 3, 4), origin_xyz_mm=GRID.world_mm((1, 2, 1)))
    assert part.offset_on(GRID) == (1, 2, 1)
    assert turned(part, 1e-3).offset_on(GRID) == (1, 2, 1)
    assert GRID.offset_on(part) == (-1, -2, -1)
    assert replace(part, origin_xyz_mm=GRID.world_mm((1, 2, 1.5))).offset_on(GRID) is None
    assert replace(part, spacing_zyx_mm=(2.5, 1.5, 0.85)).offset_on(GRID) is None


def test_text_names_every_number():
    text = str(GRID)
    for part in ("4 x 5 x 6", "2.5 x 1.5 x 0.75", "-10.00, 20.00, 30.50", "0.9553"):
        assert part in text


def test_points_of_voxels_have_their_indices():
    cos, sin = np.cos(0.4), np.sin(0.4)
    geometry = Geometry(
        size_zyx=(4, 5, 6),
        spacing_zyx_mm=(3.0, 0.7, 1.25),
        origin_xyz_mm=(-20.0, 7.0, 100.0),
        direction=(cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0),
    )
    indices = [(0, 0, 0), (3, 4, 5), (1.5, -2, 9.25)]
    points = np.array([geometry.world_mm(index) for index in indices])
    np.testing.assert_allclose(geometry.index_zyx(points), indices, atol=1e-9)

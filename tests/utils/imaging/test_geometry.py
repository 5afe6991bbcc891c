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


def test_grids_match_within_a_hundredth_of_a_millimeter():
    assert GRID.matches(GRID)
    assert GRID.matches(replace(GRID, origin_xyz_mm=(-10.005, 20.0, 30.5)))
    assert not GRID.matches(replace(GRID, origin_xyz_mm=(-10.02, 20.0, 30.5)))
    assert not GRID.matches(replace(GRID, size_zyx=(4, 6, 5)))
    assert not GRID.matches(replace(GRID, spacing_zyx_mm=(2.5, 1.5, 0.76)))  # 5 voxels x 0.01 mm
    assert not GRID.matches(replace(GRID, direction=(*OBLIQUE[:8], 1.0)))


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

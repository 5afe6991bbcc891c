"""utils/imaging/resampling.py: parts of a volume on another grid."""

import numpy as np
import pytest

from utils.imaging.geometry import Geometry
from utils.imaging.resampling import extent_on, resample_box

GRID = Geometry(size_zyx=(4, 5, 6), spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(10.0, 20.0, 30.0))


def ramp(geometry):
    """A volume whose value is x + 10 y + 100 z in mm."""
    indices = np.moveaxis(np.indices(geometry.size_zyx), 0, -1).reshape(-1, 3)
    return np.array([np.dot(geometry.world_mm(tuple(i)), (1, 10, 100)) for i in indices]).reshape(geometry.size_zyx)


def box(*ends):
    return tuple(slice(start, stop) for start, stop in ends)


def test_a_grid_that_matches_is_cut_and_keeps_its_type():
    array = ramp(GRID).astype(np.int16)
    part = resample_box(array, GRID, GRID, box((1, 3), (0, 5), (2, 4)), -1000)
    assert part.dtype == np.int16
    assert np.array_equal(part, array[1:3, :, 2:4])


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)])
def test_values_between_voxels_are_linear_and_air_lies_beyond(direction):
    other = Geometry(
        size_zyx=(6, 6, 8), spacing_zyx_mm=(2.0, 1.5, 0.9), origin_xyz_mm=(11.0, 21.0, 29.0), direction=direction
    )
    wanted = box((0, 5), (1, 4), (2, 6))
    found = resample_box(ramp(GRID), GRID, other, wanted, -1000.0)
    indices = np.stack(np.meshgrid(*(np.arange(a.start, a.stop) for a in wanted), indexing="ij"), -1)
    own = GRID.index_zyx(np.array([other.world_mm(tuple(i)) for i in indices.reshape(-1, 3)])).reshape(indices.shape)
    inside = np.all((own >= 0) & (own <= np.subtract(GRID.size_zyx, 1)), axis=-1)
    assert 0.2 < inside.mean() < 0.95
    assert np.allclose(found[inside], ramp(other)[wanted][inside], atol=1e-2)
    beyond = np.any((own < -1) | (own > GRID.size_zyx), axis=-1)
    assert np.all(found[beyond] == -1000)


def test_a_grid_without_overlap_is_filled():
    far = Geometry(size_zyx=(3, 3, 3), spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(500.0, 0.0, 0.0))
    assert np.all(resample_box(ramp(GRID), GRID, far, box((0, 3), (0, 3), (0, 2)), -7) == -7)


def test_the_extent_of_a_box_on_another_grid():
    finer = Geometry(size_zyx=(8, 10, 12), spacing_zyx_mm=(1.5, 1.0, 0.5), origin_xyz_mm=(10.0, 20.0, 30.0))
    assert extent_on(GRID, finer, box((0, 3), (2, 5), (4, 5))).tolist() == [[0, 1, 2], [1, 2, 2]]

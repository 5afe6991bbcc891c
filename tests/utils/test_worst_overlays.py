"""utils/worst_overlays.py: an organ's masks on the part of the CT around them."""

import numpy as np
import pytest

from utils.geometry import Geometry
from utils.mask_grids import crop_mask, empty_mask
from utils.worst_overlays import COLOR, draw_organ

GRID = Geometry(size_zyx=(20, 60, 50), spacing_zyx_mm=(3.0, 2.0, 2.0))
IMAGE = np.zeros(GRID.size_zyx, dtype=np.int16)


def box(low, high):
    voxels = np.zeros(GRID.size_zyx, dtype=bool)
    voxels[low:high, 20:30, 20:30] = True
    return crop_mask(voxels, (0, 0, 0), GRID)


def has_outline(picture):
    return bool((picture[:400] == COLOR).all(axis=-1).any())


def test_the_predictions_outline_is_drawn_in_its_color():
    picture = draw_organ(IMAGE, GRID, box(5, 9), box(6, 10), "brainstem")
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert has_outline(picture)


def test_a_missed_organ_shows_the_reference_alone():
    assert not has_outline(draw_organ(IMAGE, GRID, empty_mask(GRID), box(6, 10), "brainstem"))


def test_masks_outside_of_the_ct_are_refused():
    far = Geometry(size_zyx=GRID.size_zyx, spacing_zyx_mm=GRID.spacing_zyx_mm, origin_xyz_mm=(1e4, 0.0, 0.0))
    with pytest.raises(ValueError, match="outside of the CT"):
        draw_organ(IMAGE, far, box(5, 9), box(6, 10), "brainstem")

"""label_map.py: names to labels, overlaps, double claims."""

import numpy as np
import pytest

from data_preprocess.label_map import merge_masks
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask

SHAPE = (3, 4, 5)
GEOMETRY = Geometry(size_zyx=SHAPE, spacing_zyx_mm=(1.0, 1.0, 1.0))


def mask(*boxes):
    out = np.zeros(SHAPE, dtype=bool)
    for box in boxes:
        out[box] = True
    return crop_mask(out, (0, 0, 0), GEOMETRY)


def test_names_and_aliases_find_their_label(tiny_preset):
    masks = {"OpticNerve_L": mask((0, 0, 0)), "brain stem": mask((1, 1, 1)), "PTV56": mask((2, 2, 2))}
    label = merge_masks(masks, tiny_preset, SHAPE)
    assert label.dtype == np.uint8
    assert label[0, 0, 0] == 4
    assert label[1, 1, 1] == 1
    assert np.count_nonzero(label) == 2


@pytest.mark.parametrize("order", [("Mandible", "Parotid_L"), ("Parotid_L", "Mandible")])
def test_smaller_organ_wins_shared_voxels(order, tiny_preset):
    masks = {"Mandible": mask((0,)), "Parotid_L": mask((0, 0, slice(0, 2)), (1, 0, 0))}
    label = merge_masks({name: masks[name] for name in order}, tiny_preset, SHAPE)
    assert (label == 6).sum() == 3
    assert (label == 3).sum() == 20 - 2


def test_no_structure_gives_an_empty_map(tiny_preset):
    label = merge_masks({}, tiny_preset, SHAPE)
    assert label.shape == SHAPE
    assert not label.any()


def test_two_structures_of_one_organ_are_refused(tiny_preset):
    with pytest.raises(ValueError, match=r"'Parotid_L' and 'parotid left' are both parotid_left"):
        merge_masks({"Parotid_L": mask((0,)), "parotid left": mask((1,))}, tiny_preset, SHAPE)

"""anchor.py: the anchor stays at its place in the patient, whatever surrounds it and wherever the scan ends."""

import numpy as np
import pytest

from data_preprocess.anchor import NECK_BONE_MM2, find_anchor, smooth_profile, topmost_fall
from tests.head_scan import CENTER_MM, SPACING, head_scan, with_holder, with_table


@pytest.fixture(scope="module")
def image():
    return head_scan()


@pytest.fixture(scope="module")
def anchor(image):
    return find_anchor(image, SPACING)


def test_it_lies_between_skull_and_neck_in_the_middle_of_the_bone(anchor):
    z, y, x = ((c - 0.5) * s for c, s in zip(anchor, SPACING, strict=True))
    assert 100 < z < 130  # the skull begins at 115 mm
    assert abs(y - CENTER_MM[1]) < 15
    assert x == pytest.approx(CENTER_MM[2], abs=0.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("num", [1, 2, 3, 7])
def test_rows_columns_and_slices_cut_off_or_added_do_not_move_it(axis, num, image, anchor):
    for before, after in ((num, 0), (0, num)):
        cut = np.take(image, range(before, image.shape[axis] - after), axis=axis)
        assert np.add(find_anchor(cut, SPACING), np.eye(3)[axis] * before).tolist() == list(anchor)
        pads = [(before, after) if other == axis else (0, 0) for other in range(3)]
        added = np.pad(image, pads, constant_values=-1000)
        assert np.subtract(find_anchor(added, SPACING), np.eye(3)[axis] * before).tolist() == list(anchor)


def test_the_vertex_and_the_shoulders_may_be_missing(image, anchor):
    part = image[18:-25]  # 54 mm less below, 75 mm less above
    assert np.add(find_anchor(part, SPACING), (18, 0, 0)).tolist() == list(anchor)


@pytest.mark.parametrize("gap_mm", [0, 3, 12])
@pytest.mark.parametrize("foam", [False, True])
def test_a_holder_does_not_move_it(gap_mm, foam, image, anchor):
    for thickness_mm in (2, 4):
        held = with_holder(image, gap_mm, thickness_mm, foam)
        assert (held != image).sum() > 1000
        assert find_anchor(held, SPACING) == anchor


def test_a_table_with_metal_does_not_move_it(image, anchor):
    table = with_table(image)
    table[:, 113, 5:20] = 2500
    assert find_anchor(table, SPACING) == anchor


def test_that_of_a_mirrored_scan_is_mirrored(image, anchor):
    z, y, x = find_anchor(image[:, :, ::-1], SPACING)
    assert (z, y, image.shape[2] - x) == anchor


def test_a_patient_without_bone_has_one_that_air_does_not_move():
    image = np.minimum(head_scan(), 100)
    z, y, x = find_anchor(image, SPACING)
    assert z == np.flatnonzero((image > -300).any(axis=(1, 2)))[-1] + 1  # the upper edge of the topmost voxel
    assert abs((x - 0.5) * SPACING[2] - CENTER_MM[2]) < 1
    padded = np.pad(image, ((2, 4), (7, 1), (3, 5)), constant_values=-1000)
    assert np.subtract(find_anchor(padded, SPACING), (2, 7, 3)).tolist() == [z, y, x]


@pytest.mark.parametrize("change", ["table", "table above the vertex", "holder", "holder with foam"])
def test_a_couch_that_touches_a_patient_without_bone_hardly_moves_it(change):
    image = np.pad(np.minimum(head_scan(), 100), ((0, 6), (0, 0), (0, 0)), constant_values=-1000)
    table = with_table(image, first_row=100)
    changed = {
        "table": np.concatenate([table[:80], image[80:]]),
        "table above the vertex": table,
        "holder": with_holder(image, 0, 4),
        "holder with foam": with_holder(image, 2, 4, foam=True),
    }[change]
    assert (changed != image).sum() > 1000
    moved_mm = np.multiply(np.subtract(find_anchor(changed, SPACING), find_anchor(image, SPACING)), SPACING)
    assert np.abs(moved_mm).max() <= 0.5


def test_blank_slices_below_a_head_that_is_smaller_than_the_trunk_do_not_move_it(image):
    tall = np.concatenate([image[:15]] * 6 + [image])
    blank = tall.copy()
    blank[108:112] = -1000
    assert find_anchor(blank, SPACING) == find_anchor(tall, SPACING)


def test_nothing_but_air_has_one_too():
    assert find_anchor(np.full((4, 6, 8), -1000, dtype=np.int16), SPACING) == (2, 3, 4)


def test_a_profile_by_hand():
    weight = np.array([0.25, 0.5, 0.25])
    assert smooth_profile(np.array([0.0, 4.0, 8.0]), weight).tolist() == [1, 4, 5]
    falls = np.array([9.0, 1.0, 5.0, 7.0, 3.0, 8.0, 0.0])  # from the end: 0 to 8 rises, 8 to 3 falls
    assert topmost_fall(falls, 4.0) == pytest.approx(4.2)
    assert topmost_fall(np.array([9.0, 8.0, 1.0]), 4.0) is None
    assert np.pi * 12**2 < NECK_BONE_MM2  # vertebrae of the scan above

"""patient_components.py: fragments of a patient are in line, one above the other; couch and holder are not."""

import numpy as np
import pytest

from data_preprocess.patient_components import patient_components


def boxes(*places):
    mask = np.zeros((30, 24, 26), dtype=bool)
    for place in places:
        mask[place] = True
    return mask


CHEST = np.s_[0:10, 4:14, 2:24]


@pytest.mark.parametrize(
    ("fragment", "is_patient"),
    [
        (np.s_[12:20, 5:13, 8:18], True),  # a head above blank slices
        (np.s_[12:20, 12:20, 8:18], False),  # behind the chest for the most part
        (np.s_[12:20, 9:17, 8:18], True),  # half of it
        (np.s_[8:14, 15:17, 8:18], False),  # a rest behind the neck
        (np.s_[9:14, 16:17, 8:18], False),
        (np.s_[12:30, 19:23, 8:18], False),  # the couch beyond the patient
    ],
)
def test_a_fragment_lies_above_the_largest_one(fragment, is_patient):
    expected = boxes(CHEST, fragment) if is_patient else boxes(CHEST)
    np.testing.assert_array_equal(patient_components(boxes(CHEST, fragment)), expected)


def test_a_fragment_may_reach_a_little_into_the_slices_of_another_one():
    # a neck within a bent trunk; half of its voxels, or fewer, lie in the same slices
    trunk = boxes(CHEST)
    trunk[6:10, 6:12, 6:20] = False
    for low, is_patient in ((8, True), (7, False)):
        neck = np.s_[low:12, 7:11, 8:18]
        expected = trunk | boxes(neck) if is_patient else trunk
        np.testing.assert_array_equal(patient_components(trunk | boxes(neck)), expected)


def test_the_fragments_may_form_a_row():
    row = boxes(CHEST, np.s_[12:18, 8:16, 6:16], np.s_[20:26, 12:18, 8:14])
    np.testing.assert_array_equal(patient_components(row), row)


def test_a_couch_is_none_of_them():
    row = boxes(CHEST, np.s_[12:18, 5:13, 6:16])
    np.testing.assert_array_equal(patient_components(row | boxes(np.s_[0:30, 18:20, 1:25])), row)


@pytest.mark.parametrize("mask", [boxes(), boxes(CHEST)])
def test_one_component_and_none_are_returned_as_they_are(mask):
    np.testing.assert_array_equal(patient_components(mask), mask)

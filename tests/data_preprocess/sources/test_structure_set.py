"""sources/structure_set.py: names, numbers and types; the rest is tested with whole cases in test_dicom.py."""

import numpy as np
import pytest

from data_preprocess.sources.structure_set import candidate_scans, pick_scan, read_rois
from tests.data_preprocess.small_case import small_case
from tests.dicom_files import ct_slices, structure_set

TRIANGLE = np.array([(0.0, 0.0, 1.0), (4.0, 0.0, 1.0), (0.0, 4.0, 1.0)])


@pytest.fixture
def structures():
    return structure_set(ct_slices(small_case().volume), {"Brainstem": [TRIANGLE], "Mandible": [TRIANGLE, TRIANGLE]})


def test_contours_belong_to_the_structure_of_their_number(structures):
    structures.StructureSetROISequence = structures.StructureSetROISequence[::-1]
    rois = read_rois(structures, "")
    assert {name: len(roi.contours) for name, roi in rois.items()} == {"Mandible": 2, "Brainstem": 1}
    np.testing.assert_array_equal(rois["Brainstem"].contours[0], TRIANGLE)
    assert not rois["Brainstem"].exclusive_or
    structures.ROIContourSequence[1].ContourSequence[1].ContourGeometricType = "CLOSEDPLANAR_XOR"
    assert read_rois(structures, "")["Mandible"].exclusive_or


def test_of_two_structures_of_one_name_the_one_with_contours_counts(structures):
    structures.StructureSetROISequence[0].ROIName = "Mandible"
    del structures.ROIContourSequence[0].ContourSequence
    assert len(read_rois(structures, "")["Mandible"].contours) == 2


def test_without_scans_there_is_no_candidate(structures):
    assert candidate_scans(structures, []) == []
    with pytest.raises(ValueError, match="found no CT series of this structure set's frame of reference"):
        pick_scan(structures, [])

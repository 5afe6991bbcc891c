"""sources/structure_set.py: names, numbers and types; the rest is tested with whole cases in test_dicom.py."""

import copy

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement

from data_preprocess.sources.structure_set import candidate_scans, pick_scan, read_rois
from tests.data_preprocess.small_case import small_case
from tests.dicom_files import ct_slices, structure_set
from utils.io.dicom.dataset import read_dataset

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


def test_contours_of_a_number_that_no_structure_has_are_a_structure_without_a_name(structures):
    structures.ROIContourSequence[1].ReferencedROINumber = 77
    assert {name: len(roi.contours) for name, roi in read_rois(structures, "").items()} == {
        "ROI 77": 2,
        "Brainstem": 1,
        "Mandible": 0,
    }


def test_two_structures_of_one_number_are_refused(structures):
    """Both would get the contours of one of them."""
    structures.StructureSetROISequence[1].ROINumber = 1
    with pytest.raises(ValueError, match="Brainstem and Mandible have the same number 1"):
        read_rois(structures, "")


@pytest.mark.parametrize("value", [None, "a "])
@pytest.mark.parametrize("of_contours", [False, True])
def test_structures_without_a_number_are_refused(of_contours, value, structures):
    sequence = structures.ROIContourSequence if of_contours else structures.StructureSetROISequence
    keyword = "ReferencedROINumber" if of_contours else "ROINumber"
    with disable_value_validation():
        sequence[0][keyword] = DataElement(tag_for_keyword(keyword), "LO", value)
    with pytest.raises(ValueError, match="has a structure without a number"):
        read_rois(structures, "")


@pytest.mark.parametrize("text", ["", "1,5", "five"])
def test_coordinates_that_are_not_numbers_are_refused(text, structures):
    contour = structures.ROIContourSequence[0].ContourSequence[0]
    contour["ContourData"] = DataElement(tag_for_keyword("ContourData"), "LO", ["0", text, *["1"] * 7])
    with pytest.raises(ValueError, match="has a contour with coordinates that are not numbers"):
        read_rois(structures, "")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("Brain\x07\x1b[1m\n stem ", "Brain [1m stem"),
        (["Brain", "stem"], "Brain\\stem"),
        ("\0", "ROI 1"),
        (None, "ROI 1"),
    ],
)
def test_names_are_one_line_without_control_characters(name, read, structures):
    structures.StructureSetROISequence[0]["ROIName"] = DataElement(tag_for_keyword("ROIName"), "LO", name)
    assert list(read_rois(structures, "")) == [read, "Mandible"]


def test_a_structure_that_is_listed_again_is_one_structure(structures):
    for sequence in (structures.StructureSetROISequence, structures.ROIContourSequence):
        sequence.append(copy.deepcopy(sequence[1]))
    rois = read_rois(structures, "")
    assert {name: len(roi.contours) for name, roi in rois.items()} == {"Brainstem": 1, "Mandible": 2}


def test_contours_of_two_structures_with_one_number_are_refused(structures):
    """The organ would get those of the other one too."""
    structures.ROIContourSequence[1].ReferencedROINumber = 1
    with pytest.raises(ValueError, match="has two different lists of contours for structure number 1"):
        read_rois(structures, "")


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"NumberOfContourPoints": 4}, None),  # the first one again, to close the contour
        ({"NumberOfContourPoints": 7}, "name another number of points than they have"),
        ({"ContourOffsetVector": [0, 0, 0]}, None),
        ({"ContourOffsetVector": [0, 0, 2.5]}, "have a ContourOffsetVector, which was not applied"),
        ({"ContourGeometricType": "OPEN_PLANAR"}, "of type OPEN_PLANAR, which encloses no area, left out"),
        ({"ContourGeometricType": "CLOSED_SPLINE"}, "of type CLOSED_SPLINE, which is unknown, left out"),
    ],
)
def test_unusual_contours_are_noted(fields, note, structures):
    for keyword, value in fields.items():
        setattr(structures.ROIContourSequence[1].ContourSequence[1], keyword, value)
    (noted, *others) = [*read_rois(structures, "")["Mandible"].noted.items()] or [None]
    assert not others
    assert (noted and (noted[0][: len(note)], noted[1])) == (note and (note, 1))


@pytest.mark.filterwarnings("ignore:The value for the data element")
def test_contours_of_more_than_64_kib_are_read(structures, tmp_path):
    """Their type becomes UN, because the length of a DS has two bytes."""
    angles = np.linspace(0, 2 * np.pi, 6000)
    points = np.round(np.column_stack([np.cos(angles), np.sin(angles), np.ones(6000)]), 4)
    structures.ROIContourSequence[0].ContourSequence[0].ContourData = [f"{value:.4f}" for value in points.ravel()]
    structures.save_as(tmp_path / "rs.dcm", enforce_file_format=True)
    assert (tmp_path / "rs.dcm").stat().st_size > 2**16
    (contour,) = read_rois(read_dataset(tmp_path / "rs.dcm"), "")["Brainstem"].contours
    np.testing.assert_array_equal(contour, points)


def test_without_scans_there_is_no_candidate(structures):
    assert candidate_scans(structures, []) == []
    with pytest.raises(ValueError, match="found no CT series of this structure set's frame of reference"):
        pick_scan(structures, [])

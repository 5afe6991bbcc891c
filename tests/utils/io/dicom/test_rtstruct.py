"""utils/io/dicom/rtstruct.py: contours lie on the slices of the CT, and independent readers get the masks back."""

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from pydicom.config import disable_value_validation
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.draw import polygon2mask

from tests.dicom_files import ct_slices, enhanced, save_all, scan
from utils.imaging.geometry import Geometry
from utils.io.dicom.description import DicomDescription
from utils.io.dicom.rtstruct import write_rtstruct
from utils.io.dicom.series import find_series, read_ct
from utils.io.volumes import Volume

SIZE = (9, 40, 34)
TABLE_MM = (*range(-10, 30, 2), *range(30, 75, 3))
TILTED = tuple(Rotation.from_euler("zyx", (20, -10, 5), degrees=True).as_matrix().ravel().tolist())


def described(preset):
    return DicomDescription(organ_names=preset.organ_names, version="1.2.3", model="tiny, SHA-256 0123456789ab")


def organs():
    """Label map: 1 is a ball with a hole and an island in it, 3 two bodies of noise, 6 a small block; 2 is absent."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij")
    label = np.zeros(SIZE, dtype=np.uint8)
    radius = np.sqrt((2 * (z - 4)) ** 2 + (y - 13) ** 2 + (x - 14) ** 2)
    label[(radius < 11) & (radius > 5)] = 1
    label[radius < 2.5] = 1
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SIZE), 1.2) > 0
    label[(y > 26) & noise & ((x < 14) | (x > 18))] = 3
    label[2:4, 1:3, 30:33] = 6
    return label


def margin(number):
    """Falls from 1 deep inside an organ to -1 far outside, with noise that contradicts the label map here and there."""
    inside = organs() == number
    smooth = np.clip((ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)) / 5, -1, 1)
    return smooth + np.random.default_rng(number).normal(scale=0.1, size=SIZE)


@pytest.fixture(params=["square pixels", "oblique, not square"])
def series(request, tmp_path):
    oblique = request.param.startswith("oblique")
    geometry = Geometry(
        size_zyx=SIZE,
        spacing_zyx_mm=(3.0, 1.5, 0.9) if oblique else (2.5, 1.0, 1.0),
        origin_xyz_mm=(-100.25, 33.5, -812.5),
        **({"direction": TILTED} if oblique else {}),
    )
    save_all(ct_slices(Volume(array=np.zeros(SIZE, dtype=np.int16), geometry=geometry)), tmp_path / "ct")
    return read_ct(find_series(tmp_path / "ct")[0])


@pytest.fixture
def structures(series, tiny_preset, tmp_path):
    write_rtstruct(tmp_path / "out.rtstruct.dcm", organs(), margin, series, tiny_preset, described(tiny_preset))
    return pydicom.dcmread(tmp_path / "out.rtstruct.dcm")


def contours_of(structures, number):
    (found,) = [item for item in structures.ROIContourSequence if int(item.ReferencedROINumber) == number]
    for contour in found.ContourSequence:
        (image,) = contour.ContourImageSequence
        yield image.ReferencedSOPInstanceUID, np.reshape([float(v) for v in contour.ContourData], (-1, 3))


def read_mask(structures, number, series, inside):
    """Fill the contours: `inside` tells which pixel centers lie in corners (row, column)."""
    geometry = series.volume.geometry
    matrix = geometry.index_to_world()
    mask = np.zeros(SIZE, dtype=bool)
    for uid, points in contours_of(structures, number):
        index = np.linalg.solve(matrix[:, :3], (points - matrix[:, 3]).T).T
        z = series.sop_instance_uids.index(uid)
        np.testing.assert_allclose(index[:, 0], z, atol=1e-3)  # the contour lies in the slice that it names
        mask[z] ^= inside(index[:, 1:])
    return mask


def by_matplotlib(corners):
    rows, columns = np.indices(SIZE[1:])
    return Polygon(corners).contains_points(np.column_stack([rows.ravel(), columns.ravel()])).reshape(SIZE[1:])


def by_skimage(corners):
    return polygon2mask(SIZE[1:], corners)


@pytest.mark.parametrize("inside", [by_matplotlib, by_skimage])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_masks_come_back_from_their_contours(number, inside, structures, series):
    mask, reference = read_mask(structures, number, series, inside), organs() == number
    np.testing.assert_array_equal(mask, reference)


def test_names_colors_and_references_are_those_of_the_ct(structures, series, tiny_preset):
    by_number = {int(roi.ROINumber): roi for roi in structures.StructureSetROISequence}
    assert {number: roi.ROIName for number, roi in by_number.items()} == {
        number: tiny_preset.organ_names[number - 1] for number in (1, 3, 6)
    }
    colors = {int(item.ReferencedROINumber): tuple(item.ROIDisplayColor) for item in structures.ROIContourSequence}
    assert colors == {number: tiny_preset.organs[number - 1].color for number in (1, 3, 6)}

    ct = pydicom.dcmread(series.paths[0])
    assert structures.Modality == "RTSTRUCT"
    assert structures.file_meta.MediaStorageSOPClassUID == structures.SOPClassUID
    for tag in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert structures[tag].value == ct[tag].value
    assert structures.SeriesInstanceUID != ct.SeriesInstanceUID
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert all(roi.ReferencedFrameOfReferenceUID == ct.FrameOfReferenceUID for roi in by_number.values())
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == ct.SeriesInstanceUID
    assert {image.ReferencedSOPInstanceUID for image in referenced.ContourImageSequence} == set(
        series.sop_instance_uids
    )
    assert all(uid in series.sop_instance_uids for number in (1, 3, 6) for uid, _ in contours_of(structures, number))


REQUIRED = {
    "SOP Common": ("SOPClassUID SOPInstanceUID", ""),
    "Patient": ("", "PatientName PatientID PatientBirthDate PatientSex"),
    "General Study": ("StudyInstanceUID", "StudyDate StudyTime ReferringPhysicianName StudyID AccessionNumber"),
    "RT Series": ("Modality SeriesInstanceUID", "SeriesNumber OperatorsName"),
    "General Equipment": ("", "Manufacturer"),
    "Frame of Reference": ("FrameOfReferenceUID", "PositionReferenceIndicator"),
    "Structure Set": ("StructureSetLabel StructureSetROISequence", "StructureSetDate StructureSetTime"),
    "ROI Contour": ("ROIContourSequence", ""),
    "RT ROI Observations": ("RTROIObservationsSequence", ""),
    "Approval": ("ApprovalStatus", ""),
}
"""DICOM PS3.3, A.19: attributes of type 1, which need a value, and of type 2, which may be empty."""
REQUIRED_IN_ITEMS = {
    "ReferencedFrameOfReferenceSequence": ("FrameOfReferenceUID", ""),
    "RTReferencedStudySequence": ("ReferencedSOPClassUID ReferencedSOPInstanceUID RTReferencedSeriesSequence", ""),
    "RTReferencedSeriesSequence": ("SeriesInstanceUID ContourImageSequence", ""),
    "StructureSetROISequence": ("ROINumber ReferencedFrameOfReferenceUID", "ROIName ROIGenerationAlgorithm"),
    "ROIContourSequence": ("ReferencedROINumber", ""),
    "ContourSequence": ("ContourGeometricType NumberOfContourPoints ContourData", ""),
    "ContourImageSequence": ("ReferencedSOPClassUID ReferencedSOPInstanceUID", ""),
    "RTROIObservationsSequence": ("ObservationNumber ReferencedROINumber", "RTROIInterpretedType ROIInterpreter"),
}


def lacking(dataset, required):
    type_1, type_2 = (keywords.split() for keywords in required)
    return [key for key in type_1 if not dataset.get(key)] + [key for key in type_2 if key not in dataset]


def missing_attributes(structures):
    found = [key for required in REQUIRED.values() for key in lacking(structures, required)]
    for element in structures.iterall():
        if element.VR == "SQ":
            assert element.value, element.keyword  # PS3.5, 7.5: no sequence here may be empty
            for item in element.value:
                found += [f"{element.keyword}: {key}" for key in lacking(item, REQUIRED_IN_ITEMS[element.keyword])]
    return found


def test_attributes_that_the_standard_asks_for_are_there(structures, series):
    ct = pydicom.dcmread(series.paths[0])
    assert not missing_attributes(structures)
    assert structures.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert structures.ApprovalStatus == "UNAPPROVED"
    assert structures.SoftwareVersions == "1.2.3"
    assert structures.StructureSetDescription.startswith(
        "FocusNet 1.2.3, model tiny, SHA-256 0123456789ab. For research"
    )
    assert structures.SeriesDate == structures.StructureSetDate
    assert {item.RTROIInterpretedType for item in structures.RTROIObservationsSequence} == {"ORGAN"}
    assert {roi.ROIGenerationAlgorithm for roi in structures.StructureSetROISequence} == {"AUTOMATIC"}
    for item in structures.ROIContourSequence:
        for contour in item.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert 3 * contour.NumberOfContourPoints == len(contour.ContourData)


@pytest.mark.parametrize("is_multi_frame", [False, True], ids=["single-frame", "multi-frame"])
@pytest.mark.parametrize("tilt_deg", [0, 20])
def test_contours_lie_on_tilted_and_uneven_slices(tilt_deg, is_multi_frame, tiny_preset, tmp_path):
    """A ball of the grid is a ball on the slices, at their own distances."""
    geometry = Geometry(size_zyx=(30, 40, 34), spacing_zyx_mm=(2.0, 1.5, 1.5))
    slices = scan(Volume(array=np.zeros(geometry.size_zyx, np.int16), geometry=geometry), TABLE_MM, tilt_deg)
    save_all([enhanced(slices)] if is_multi_frame else slices, tmp_path / "ct")
    series = read_ct(find_series(tmp_path / "ct")[0])
    grid = series.volume.geometry
    center = np.array([25.0, 30.0, 29.0])
    index = np.stack([*np.indices(grid.size_zyx), np.ones(grid.size_zyx)], axis=-1)
    distance = 14 - np.linalg.norm(index @ grid.index_to_world().T - center, axis=-1)
    label = np.where(distance > 0, 3, 0).astype(np.uint8)
    write_rtstruct(tmp_path / "out.dcm", label, lambda _: distance, series, tiny_preset, described(tiny_preset))
    structures = pydicom.dcmread(tmp_path / "out.dcm")
    assert not missing_attributes(structures)
    of_slice = {(slice_.sop_instance_uid, slice_.frame_number): slice_ for slice_ in series.slices}
    (drawn,) = structures.ROIContourSequence
    heights = []
    for contour in drawn.ContourSequence:
        (image,) = contour.ContourImageSequence
        points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
        slice_ = of_slice[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
        np.testing.assert_allclose(slice_.geometry.index_zyx(points)[:, 0], 0, atol=2e-3)
        np.testing.assert_allclose(np.linalg.norm(points - center, axis=1), 14, atol=0.4)
        heights.append(slice_.geometry.origin_xyz_mm[2])
    assert len(heights) == len(set(heights)) > 8
    (study,) = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    assert len(referenced.ContourImageSequence) == (1 if is_multi_frame else len(slices))


def write_onto(ct, folder, preset):
    """The structure set of a label map without organs, on slices of a CT."""
    save_all(ct, folder / "ct")
    series = read_ct(find_series(folder / "ct")[0])
    label = np.zeros(series.volume.array.shape, dtype=np.uint8)
    write_rtstruct(folder / "out.dcm", label, margin, series, preset, described(preset))
    return pydicom.dcmread(folder / "out.dcm")


@pytest.fixture
def ct():
    geometry = Geometry(size_zyx=(3, 4, 5), spacing_zyx_mm=(2.0, 1.0, 1.0))
    return ct_slices(Volume(array=np.zeros((3, 4, 5), dtype=np.int16), geometry=geometry))


def test_patient_and_study_are_those_of_the_ct(ct, tiny_preset, tmp_path):
    fields = {
        "SpecificCharacterSet": "GB18030",
        "PatientName": "王^小东",
        "PatientBirthDate": "19610203",
        "PatientAge": "058Y",
        "AccessionNumber": "A-17",
        "ReferringPhysicianName": "Doe^Jane",
        "StudyDate": "20190405",
        "StudyDescription": "头颈",
        "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "by hand",
        "ClinicalTrialProtocolID": "T-1",
    }
    for dataset in ct:
        for keyword, value in fields.items():
            setattr(dataset, keyword, value)
    structures = write_onto(ct, tmp_path, tiny_preset)
    assert {keyword: structures[keyword].value for keyword in fields} == fields
    assert "PatientWeight" not in structures


def test_without_voxels_every_organ_is_listed_without_contours(ct, tiny_preset, tmp_path):
    structures = write_onto(ct, tmp_path, tiny_preset)
    assert not missing_attributes(structures)
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == list(tiny_preset.organ_names)
    assert not any("ContourSequence" in item for item in structures.ROIContourSequence)


@pytest.mark.filterwarnings("ignore:Invalid value|The value length|Value exceeds")
def test_a_ct_with_values_that_dicom_forbids_gets_its_structure_set(ct, tiny_preset, tmp_path):
    for dataset in ct:
        with disable_value_validation():
            dataset.StudyDate, dataset.AccessionNumber, dataset.PatientSex = "05.04.2019", "17" * 20, "female"
    structures = write_onto(ct, tmp_path, tiny_preset)
    assert structures.AccessionNumber == "17" * 20
    assert structures.PatientSex == "female"


def test_a_ct_without_frame_of_reference_gets_one_in_its_structure_set(ct, tiny_preset, tmp_path):
    for dataset in ct:
        del dataset.FrameOfReferenceUID
    structures = write_onto(ct, tmp_path, tiny_preset)
    assert structures.FrameOfReferenceUID
    assert structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID == structures.FrameOfReferenceUID

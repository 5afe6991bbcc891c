"""sources/dicom.py: the CT of a structure set, names of cases, notes, and refused files."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset

from data_preprocess.sources import dicom
from tests.data_preprocess.small_case import GEOMETRY, box_of, small_case
from tests.dicom_files import ct_slices, enhanced, save_all, scan, structure_set, trace, uid_of
from utils.config.preset import load_preset
from utils.io.volumes import Volume, to_lps

PRESET = load_preset("pddca")


def contours(boxes=((8, 12), (14, 20), (14, 20)), geometry=GEOMETRY):
    mask = np.zeros(geometry.size_zyx, dtype=bool)
    mask[box_of(boxes)] = True
    return list(trace(mask, geometry))


@pytest.fixture
def slices():
    return ct_slices(small_case().volume)


def read_only_case(folder):
    (handle,) = dicom.list_cases(folder)
    return dicom.read_case(handle, PRESET)


def refusal(folder, slices, structures):
    """The error message for a structure set that cannot be read."""
    save_all([*slices, structures], folder)
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        read_only_case(folder)
    return str(caught.value)


def test_structure_set_picks_its_ct_by_frame_of_reference(slices, tmp_path):
    volume = small_case().volume
    for series in ("before", "follow-up"):
        save_all(ct_slices(volume, series=series), tmp_path, (series + "{}").format)
    darker = Volume(array=volume.array - 7, geometry=volume.geometry)
    own = ct_slices(darker, series="planning")
    save_all([*own, structure_set(own, {"Brainstem": contours()})], tmp_path)
    found = read_only_case(tmp_path)
    np.testing.assert_array_equal(found.volume.array, darker.array)
    assert found.masks["Brainstem"].dense().sum() == 4 * 6 * 6


def test_among_cts_of_one_frame_it_picks_the_one_it_names(slices, tmp_path):
    other = ct_slices(small_case().volume, series="soft kernel")
    for dataset in other:
        dataset.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
        dataset.PixelData = bytes(len(dataset.PixelData))
    save_all(other, tmp_path / "other")
    structures = structure_set(slices, {"Brainstem": contours()})
    save_all([*slices, structures], tmp_path)
    assert read_only_case(tmp_path).volume.array.max() == 400
    del structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    save_all([structures], tmp_path, lambda _: f"slice{len(slices):03d}.dcm")
    with pytest.raises(
        ValueError, match="2 CT series share this structure set's frame of reference; keep one: CT series"
    ):
        read_only_case(tmp_path)


def test_structure_set_of_another_frame_has_no_ct(slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours()})
    structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID = uid_of("another scan")
    assert "found no CT series of this structure set's frame of reference" in refusal(tmp_path, slices, structures)


def test_scanned_feet_first_or_lying_on_the_side_is_turned_upright(tmp_path):
    raw = small_case()
    turned = np.array([[0, -1, 0], [-1, 0, 0], [0, 0, -1]], dtype=float)
    volume = replace(raw.volume, geometry=replace(GEOMETRY, direction=tuple(turned.ravel())))
    slices = ct_slices(volume)
    rois = {"Brainstem": trace(raw.masks["brainstem"].dense(), volume.geometry)}
    save_all([*slices, structure_set(slices, rois)], tmp_path)
    found = read_only_case(tmp_path)
    expected = to_lps(Volume(array=raw.masks["brainstem"].dense().astype(np.uint8), geometry=volume.geometry))
    np.testing.assert_array_equal(found.masks["Brainstem"].dense(), expected.array)
    assert found.volume.geometry.matches(expected.geometry)


def test_cases_are_called_like_their_patients(tmp_path):
    volume = small_case().volume
    for patient in ("A/1", "../../etc", "", "B"):
        slices = ct_slices(volume, patient=patient)
        sets = [structure_set(slices, {"Brainstem": contours()}, name=n) for n in ("one", "two")]
        save_all([*slices, *(sets if patient == "B" else sets[:1])], tmp_path / (patient.strip("./") or "unnamed"))
    found = {r.case_id: r.patient for r in dicom.list_cases(tmp_path)}
    names = [name for name in found if not name.startswith("B")]
    assert sorted(names) == ["A_1", "etc", "unnamed"]
    assert found["A_1"] == "A/1"
    assert [patient for name, patient in found.items() if name.startswith("B_")] == ["B", "B"]


def test_a_copy_of_a_structure_set_is_not_a_second_case(slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours()})
    save_all([*slices, structures, structures], tmp_path)
    assert len(dicom.list_cases(tmp_path)) == 1


def test_an_edited_structure_set_beside_the_original_is_refused(slices, tmp_path):
    """Which of them counts, the user knows: not the one whose file name comes first."""
    structures = structure_set(slices, {"Brainstem": contours()})
    save_all([*slices, structures], tmp_path)
    structures.StructureSetROISequence[0].ROIName = "x_brainstem_old"
    save_all([structures], tmp_path, "edited{}.dcm".format)
    with pytest.raises(ValueError, match=r"have one SOPInstanceUID but differ; keep one of them: .*edited0.dcm and "):
        dicom.list_cases(tmp_path)


def test_contours_that_cannot_be_filled_are_noted(slices, tmp_path):
    far = [points + (0, 0, 500) for points in contours()[:2]]
    structures = structure_set(slices, {"Brainstem": contours() + far, "Parotid_L": [], "Isocenter": contours()[:1]})
    structures.ROIContourSequence[2].ContourSequence[0].ContourGeometricType = "POINT"
    save_all([*slices, structures], tmp_path)
    found = read_only_case(tmp_path)
    assert list(found.masks) == ["Brainstem"]
    assert found.unmatched_structures == ("Isocenter",)
    assert found.notes == (
        "Brainstem: 2 of 6 contours lie beyond the CT",
        "Parotid_L: has no contours, so it counts as not contoured",
    )


def test_repeated_and_crossing_contours_are_noted(slices, tmp_path):
    body, moved = contours(), contours(((8, 12), (14, 20), (17, 23)))
    structures = structure_set(slices, {"Brainstem": [*body, *moved], "Mandible": [*body, *(p[::-1] for p in body)]})
    save_all([*slices, structures], tmp_path)
    found = read_only_case(tmp_path)
    assert found.masks["Mandible"].dense().sum() == 4 * 6 * 6
    assert found.masks["Brainstem"].dense().sum() == 4 * 6 * 9
    assert found.notes == (
        "Brainstem: 4 of 8 contours partly overlap another one of their slice; they are united",
        "Mandible: 4 of 8 contours repeat another one of their slice and are left out",
    )
    for contour in structures.ROIContourSequence[0].ContourSequence:
        contour.ContourGeometricType = "CLOSEDPLANAR_XOR"
    save_all([*slices, structures], tmp_path)
    found = read_only_case(tmp_path)
    assert found.masks["Brainstem"].dense().sum() == 4 * 6 * 6
    assert "what they share is left out, as CLOSEDPLANAR_XOR says" in found.notes[0]


@pytest.mark.filterwarnings("ignore:The value length")
@pytest.mark.parametrize("kind", ["INTERPOLATED_PLANAR", "CLOSEDPLANAR_XOR", "closed_planar", "", None])
def test_contours_of_every_closed_type_are_filled(kind, slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours()})
    for contour in structures.ROIContourSequence[0].ContourSequence:
        if kind is None:
            del contour.ContourGeometricType
        else:
            with disable_value_validation():
                contour.ContourGeometricType = kind
    with disable_value_validation():
        save_all([*slices, structures], tmp_path)
    found = read_only_case(tmp_path)
    assert found.masks["Brainstem"].dense().sum() == 4 * 6 * 6
    assert not found.notes


@pytest.mark.parametrize("kind", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_contours_of_other_types_are_said_to_be_left_out(kind, slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours(), "Mandible": contours()})
    for contour in (
        structures.ROIContourSequence[0].ContourSequence[0],
        *structures.ROIContourSequence[1].ContourSequence,
    ):
        contour.ContourGeometricType = kind
    structures.ROIContourSequence[0].ContourSequence[1].ContourData = None
    save_all([*slices, structures], tmp_path)
    found = read_only_case(tmp_path)
    assert found.masks["Brainstem"].dense().sum() == 2 * 6 * 6
    assert found.notes == (
        f"Brainstem: 1 contours of type {kind}, which encloses no area, left out",
        "Brainstem: 1 contours without points left out",
        f"Mandible: 4 contours of type {kind}, which encloses no area, left out",
        "Mandible: has no closed contours, so it counts as not contoured",
    )


@pytest.mark.parametrize("named_by", ["structures", "structure set", "slices of contours", "CT without a frame"])
def test_a_ct_is_found_without_the_list_of_frames(named_by, slices, tmp_path):
    other = ct_slices(small_case().volume, series="follow-up")
    structures = structure_set(slices, {"Brainstem": contours()})
    if named_by == "CT without a frame":
        for dataset in slices:
            del dataset.FrameOfReferenceUID
    else:
        del structures.ReferencedFrameOfReferenceSequence
    if named_by in ("structure set", "slices of contours"):
        del structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    if named_by == "structure set":
        structures.FrameOfReferenceUID = slices[0].FrameOfReferenceUID
    if named_by == "slices of contours":
        image = Dataset()
        image.ReferencedSOPInstanceUID = slices[9].SOPInstanceUID
        structures.ROIContourSequence[0].ContourSequence[1].ContourImageSequence = [image]
    save_all([*slices, structures], tmp_path / "planning")
    save_all(other, tmp_path / "follow-up")
    assert read_only_case(tmp_path).masks["Brainstem"].dense().sum() == 4 * 6 * 6


def test_a_structure_set_that_names_nothing_is_refused(slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours()})
    del structures.ReferencedFrameOfReferenceSequence
    del structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
    message = refusal(tmp_path, slices, structures)
    assert message.startswith("names no frame of reference and no CT that was found; export it again")


def test_the_reason_comes_first_and_uids_are_short(slices, tmp_path):
    uid = slices[0].FrameOfReferenceUID = uid_of("another scan")
    structures = structure_set(slices, {"Brainstem": contours()})
    slices[0].FrameOfReferenceUID = slices[1].FrameOfReferenceUID
    message = refusal(tmp_path, slices, structures)
    path = tmp_path / f"slice{len(slices):03d}.dcm"
    assert message == (
        f"found no CT series of this structure set's frame of reference (...{uid[-8:]}); add it to the folder: {path}"
    )


@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.999])
def test_structure_sets_that_were_cut_short_are_refused(fraction, undefined_length, slices, tmp_path):
    rois = {name: contours(((5, 9), (10, 16), (x, x + 4))) for x, name in ((24, "Parotid_L"), (6, "Parotid_R"))}
    structures = structure_set(slices, rois)
    for sequence in (structures["ROIContourSequence"], structures["StructureSetROISequence"]):
        sequence.is_undefined_length = undefined_length
        for item in sequence.value:
            item.is_undefined_length_sequence_item = undefined_length
    save_all(slices, tmp_path)
    save_all([structures], tmp_path, lambda _: "structures.dcm")
    path = tmp_path / "structures.dcm"
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"structures\.dcm|found none beside 1 CT series"):
        read_only_case(tmp_path)


@pytest.mark.parametrize("damage", ["no structures", "two of one name", "upright contour", "other frame", "no number"])
def test_damaged_structure_sets_are_refused(damage, slices, tmp_path):
    structures = structure_set(slices, {"Brainstem": contours(), "Parotid_L": contours(((5, 9), (10, 16), (24, 28)))})
    if damage == "no structures":
        del structures.ROIContourSequence
    elif damage == "two of one name":
        structures.StructureSetROISequence[1].ROIName = "Brainstem"
    elif damage == "upright contour":
        z = [str(-300 + 3 * i) for i in range(4)]
        contour = structures.ROIContourSequence[0].ContourSequence[0]
        contour.ContourData = ["0", "40", z[0], "0", "40", z[3], "0", "50", z[3]]
    elif damage == "other frame":
        structures.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = uid_of("other")
    elif damage == "no number":
        contour = structures.ROIContourSequence[0].ContourSequence[0]
        with disable_value_validation():
            contour.ContourData = ["nan", *contour.ContourData[1:]]
    with disable_value_validation():
        save_all([*slices, structures], tmp_path)
    messages = {
        "no number": "Brainstem has a contour with coordinates that are not numbers",
        "no structures": "holds no structures, perhaps because the file is truncated",
        "two of one name": "two structures are called Brainstem; rename one",
        "upright contour": "Brainstem has contours that are not parallel to the CT's slices",
        "other frame": "Brainstem lies in another frame of reference than its CT",
    }
    with pytest.raises(ValueError, match=rf"^({messages[damage]}).*slice{len(slices):03d}\.dcm$"):
        read_only_case(tmp_path)


def test_folders_without_structure_sets_are_named(slices, tmp_path):
    save_all(slices, tmp_path)
    with pytest.raises(ValueError, match=r"expected structure sets \(RTSTRUCT\), found none beside 1 CT series"):
        dicom.list_cases(tmp_path)
    with pytest.raises(ValueError, match="--input is missing; give a folder of DICOM files"):
        dicom.list_cases(None)


BALL_MM, RADIUS_MM = np.array([-2.0, 38.0, -276.0]), 12.0


def ball_contours(datasets):
    """The circles in which a ball cuts the planes of slices."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    for dataset in datasets:
        row, column = np.reshape(np.array(dataset.ImageOrientationPatient, dtype=float), (2, 3))
        normal = np.cross(row, column)
        height = np.dot(np.array(dataset.ImagePositionPatient, dtype=float) - BALL_MM, normal)
        if abs(height) < RADIUS_MM:
            radius = np.sqrt(RADIUS_MM**2 - height**2)
            circle = np.multiply.outer(np.cos(angles), row) + np.multiply.outer(np.sin(angles), column)
            yield BALL_MM + height * normal + radius * circle


@pytest.mark.parametrize("is_multi_frame", [False, True], ids=["single-frame", "multi-frame"])
@pytest.mark.parametrize(
    ("steps_mm", "tilt_deg"),
    [([3.0] * 17, 15), ([2.0] * 12 + [3.0] * 9, 0), ([2.0] * 12 + [3.0] * 9, -10)],
    ids=["tilted", "uneven", "both"],
)
def test_contours_on_tilted_and_uneven_slices_are_filled_there(steps_mm, tilt_deg, is_multi_frame, tmp_path):
    volume = small_case().volume
    datasets = scan(volume, np.cumsum([-302.0, *steps_mm]), tilt_deg)
    structures = structure_set(datasets, {"Brainstem": ball_contours(datasets)})
    save_all([*([enhanced(datasets)] if is_multi_frame else datasets), structures], tmp_path)
    case = read_only_case(tmp_path)
    mask = case.masks["Brainstem"]
    assert mask.geometry == case.volume.geometry
    index = np.stack([*np.indices(mask.geometry.size_zyx), np.ones(mask.geometry.size_zyx)], axis=-1)
    distance = np.linalg.norm(index @ mask.geometry.index_to_world().T - BALL_MM, axis=-1)
    found = mask.dense()
    assert 2 * np.sum(found & (distance < RADIUS_MM)) / (found.sum() + (distance < RADIUS_MM).sum()) > 0.96
    assert distance[found].max() < RADIUS_MM + 2
    assert found[distance < RADIUS_MM - 2].all()

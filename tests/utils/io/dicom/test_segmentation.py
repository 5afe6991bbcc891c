"""utils/io/dicom/segmentation.py: a reader gets the label map back, with coded anatomy."""

import sys

import numpy as np
import pydicom
import pytest
from scipy.spatial.transform import Rotation

from tests.dicom_files import ct_slices, enhanced, save_all, scan
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.dicom.description import DicomDescription, displayed_names
from utils.io.dicom.segmentation import require_highdicom, write_dicom_seg
from utils.io.dicom.series import find_series, read_ct
from utils.io.volumes import Volume

highdicom = pytest.importorskip("highdicom")

SIZE = (6, 20, 18)
OBLIQUE = tuple(Rotation.from_euler("zyx", (20, -10, 5), degrees=True).as_matrix().ravel().tolist())


@pytest.fixture(params=["axial", "oblique", "multi-frame", "tilted gantry"])
def series(request, tmp_path):
    direction = {"direction": OBLIQUE} if request.param == "oblique" else {}
    geometry = Geometry(
        size_zyx=SIZE, spacing_zyx_mm=(2.5, 1.5, 0.9), origin_xyz_mm=(-100.25, 33.5, -812.5), **direction
    )
    ct = Volume(array=np.zeros(SIZE, dtype=np.int16), geometry=geometry)
    if request.param == "tilted gantry":
        files = scan(ct, table_mm=[geometry.origin_xyz_mm[2] + 2.5 * i for i in range(SIZE[0])], tilt_deg=15)
    else:
        files = ct_slices(ct)
    save_all([enhanced(files)] if request.param == "multi-frame" else files, tmp_path / "ct")
    return read_ct(find_series(tmp_path / "ct")[0])


def label_map(series, *values):
    """Noise of the organs' values: every voxel counts."""
    return np.random.default_rng(0).choice([0, *values], size=series.volume.array.shape).astype(np.uint8)


def write(path, array, series, preset, naming="preset"):
    label = Volume(array=array, geometry=series.volume.geometry)
    names = displayed_names(preset, naming)
    description = DicomDescription(organ_names=names, version="1.2.3", model="tiny, SHA-256 0123456789ab")
    write_dicom_seg(path, label, series, preset, description)
    return highdicom.seg.segread(path)


def test_a_reader_gets_the_label_map_back(series, tiny_preset, tmp_path):
    label = label_map(series, 2, 3, 9)
    segmentation = write(tmp_path / "seg.dcm", label, series, tiny_preset)
    affine = np.vstack([series.volume.geometry.index_to_world(), (0, 0, 0, 1)])
    expected = highdicom.Volume(label, affine, coordinate_system="PATIENT")
    volume = segmentation.get_volume(combine_segments=True).match_geometry(expected)  # it may flip axes
    names = [segmentation.get_segment_description(number).SegmentLabel for number in (1, 2, 3)]
    assert names == [tiny_preset.organ_names[value - 1] for value in (2, 3, 9)]
    by_value = np.array([0, 2, 3, 9])[volume.array]
    np.testing.assert_array_equal(by_value, label)


def test_frames_refer_to_the_slices_that_they_lie_on(series, tiny_preset, tmp_path):
    label = np.zeros_like(series.volume.array, dtype=np.uint8)
    label[4, 3, 5] = 1
    write(tmp_path / "seg.dcm", label, series, tiny_preset)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    (frame,) = dataset.PerFrameFunctionalGroupsSequence
    if series.grid is None:  # the slices of a tilted gantry are not those of the label map
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        assert source.ReferencedSOPInstanceUID == series.sop_instance_uids[4]
    assert dataset.FrameOfReferenceUID == series.frame_of_reference_uid
    assert dataset.PatientID == "P1"


def test_organs_have_codes_sides_and_the_names_asked_for(series, tiny_preset, tmp_path):
    organs = tiny_preset.organ_names
    label = label_map(series, organs.index("parotid_left") + 1, organs.index("mandible") + 1)
    segments = write(tmp_path / "seg.dcm", label, series, tiny_preset, naming="tg263").SegmentSequence
    found = {}
    for segment in segments:
        (anatomy,) = segment.SegmentedPropertyTypeCodeSequence
        sides = [item.CodeMeaning for item in anatomy.get("SegmentedPropertyTypeModifierCodeSequence", ())]
        found[segment.SegmentLabel] = (anatomy.CodingSchemeDesignator, anatomy.CodeValue, sides)
    assert found == {"Parotid_L": ("SCT", "45289007", ["Left"]), "Bone_Mandible": ("SCT", "91609006", [])}


def test_it_says_what_made_it(series, tiny_preset, tmp_path):
    dataset = write(tmp_path / "seg.dcm", label_map(series, 1), series, tiny_preset)
    (algorithm,) = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("FocusNet", "1.2.3")
    assert algorithm.AlgorithmSource == "tiny, SHA-256 0123456789ab"
    assert dataset.SoftwareVersions == "1.2.3"
    assert "not for clinical use" in dataset.SeriesDescription


def test_a_label_map_without_organs_lists_them_all(series, tiny_preset, tmp_path):
    segmentation = write(tmp_path / "seg.dcm", label_map(series), series, tiny_preset)
    assert segmentation.number_of_segments == len(tiny_preset.organs)
    assert not segmentation.pixel_array.any()


def test_without_highdicom_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match="pip install highdicom"):
        require_highdicom()

"""utils/io/dicom/frames.py: multi-frame files give the same CT as single-frame ones, or the reason why not."""

import numpy as np
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import EnhancedCTImageStorage

from tests.dicom_files import change, ct_slices, enhanced, save_all, scan
from tests.utils.io.dicom.test_series import compress, numbered_ct
from utils.errors import UserError
from utils.io.dicom.series import find_series, read_ct, select_cts


def read_only_ct(folder, *files):
    save_all(list(files), folder)
    (series,) = select_cts(find_series(folder))
    return read_ct(series)


@pytest.fixture
def slices():
    return ct_slices(numbered_ct())


def test_a_multi_frame_file_is_the_same_ct(slices, tmp_path):
    found = read_only_ct(tmp_path, enhanced(slices[::-1]))
    np.testing.assert_array_equal(found.volume.array, numbered_ct().array)
    assert found.volume.array.dtype == np.int16
    assert found.volume.geometry.matches(numbered_ct().geometry, tolerance_vox=1e-6)
    assert [slice_.frame_number for slice_ in found.slices] == [5, 4, 3, 2, 1]
    assert {slice_.sop_class_uid for slice_ in found.slices} == {EnhancedCTImageStorage}
    assert len(set(found.sop_instance_uids)) == 1
    assert found.notes == ()


def test_frames_have_their_own_rescaling(slices, tmp_path):
    change(slices, 2, RescaleSlope="2", RescaleIntercept="-2000")
    file = enhanced(slices)
    assert "PixelValueTransformationSequence" in file.PerFrameFunctionalGroupsSequence[2]
    raw = numbered_ct().array + 1024.0
    np.testing.assert_array_equal(read_only_ct(tmp_path, file).volume.array[2], 2 * raw[2] - 2000)


def test_attributes_beside_the_functional_groups_count(slices, tmp_path):
    file = enhanced(slices)
    del file.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    file.RescaleSlope, file.RescaleIntercept = "1", "-1024"
    np.testing.assert_array_equal(read_only_ct(tmp_path, file).volume.array, numbered_ct().array)


def test_a_volume_in_two_files_is_one_ct(slices, tmp_path):
    found = read_only_ct(tmp_path, enhanced(slices[:3], "first"), enhanced(slices[3:], "second"))
    np.testing.assert_array_equal(found.volume.array, numbered_ct().array)
    assert [slice_.frame_number for slice_ in found.slices] == [1, 2, 3, 1, 2]


@pytest.mark.parametrize("compression", ["RLE", "JPEG2000", "JPEG"])
def test_compressed_frames_are_read(compression, slices, tmp_path):
    change(slices, 2, RescaleSlope="2", RescaleIntercept="-2000")
    plain = read_only_ct(tmp_path / "plain", enhanced(slices)).volume.array
    file = enhanced(slices)
    frames = []
    for dataset in slices:
        compress(dataset, compression, tmp_path / "compressed.dcm")
        frames += generate_frames(dataset.PixelData, number_of_frames=1)
    file.file_meta.TransferSyntaxUID = slices[0].file_meta.TransferSyntaxUID
    file.PixelData = encapsulate(frames)
    file["PixelData"].VR, file["PixelData"].is_undefined_length = "OB", True
    np.testing.assert_array_equal(read_only_ct(tmp_path / "packed", file).volume.array, plain)


def test_tilt_and_distances_are_those_of_the_frames(tmp_path):
    volume = numbered_ct(np.eye(3))
    slices = scan(volume, [-410, -408, -406, -404, -401, -398, -395], tilt_deg=20)
    single, multi = read_only_ct(tmp_path / "a", *slices), read_only_ct(tmp_path / "b", enhanced(slices))
    np.testing.assert_array_equal(multi.volume.array, single.volume.array)
    assert multi.volume.geometry == single.volume.geometry
    assert multi.notes[0] == "the gantry was tilted by 20.0 degrees"


@pytest.mark.parametrize(
    ("of_frames", "message"),
    [
        ({"TemporalPositionIndex": [1, 1, 1, 2, 2]}, "holds 2 temporal phases (1: 3 frames; 2: 2 frames); export one"),
        ({"StackID": ["A", "A", "B", "B", "B"]}, "holds 2 stacks (A: 2 frames; B: 3 frames); export one of them"),
    ],
)
def test_several_phases_and_stacks_are_refused_by_name(of_frames, message, slices, tmp_path):
    with pytest.raises(UserError) as caught:
        read_only_ct(tmp_path, enhanced(slices, **of_frames))
    assert str(caught.value).startswith(message)


def test_frames_that_are_no_slices_are_left_out(slices, tmp_path):
    kinds = [["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]] * 5 + [["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]]
    extra = ct_slices(numbered_ct())[0]
    extra.ImagePositionPatient = [0, 0, 0]
    found = read_only_ct(tmp_path, enhanced([*slices, extra], FrameType=kinds))
    np.testing.assert_array_equal(found.volume.array, numbered_ct().array)
    assert found.notes == ("1 localizer(s) left out",)


@pytest.mark.parametrize("file_type", [["DERIVED", "PRIMARY", "MPR", "NONE"], ["ORIGINAL", "PRIMARY", "LOCALIZER"]])
def test_derived_multi_frame_files_are_no_ct(file_type, slices, tmp_path):
    file = enhanced(slices)
    file.ImageType = file_type
    save_all([file], tmp_path)
    assert select_cts(find_series(tmp_path)) == []


def damage_number(file):
    file.NumberOfFrames = 4


def damage_position(file):
    del file.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def damage_value(file):
    file.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleType = "Z_EFF"


def damage_pixels(file):
    file.PixelData = file.PixelData[:-4]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_number, "slice000.dcm holds 4 frames but describes 5; export it again"),
        (damage_position, "1 file(s) lack ImagePositionPatient: slice000.dcm frame 4; move files"),
        (damage_value, "5 file(s) hold Z_EFF and not HU: slice000.dcm frame 1, "),
        (damage_pixels, "slice000.dcm is truncated: it holds fewer pixels than its header says; copy it again"),
    ],
)
def test_damaged_multi_frame_files_are_refused(damage, message, slices, tmp_path):
    file = enhanced(slices)
    damage(file)
    with pytest.raises(UserError) as caught:
        read_only_ct(tmp_path, file)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
def test_truncated_multi_frame_files_are_never_read(fraction, slices, tmp_path):
    save_all([enhanced(slices)], tmp_path)
    path = tmp_path / "slice000.dcm"
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(UserError, match=r"slice000\.dcm"):
        [read_ct(series) for series in find_series(tmp_path)]

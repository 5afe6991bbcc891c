"""utils/io/dicom/series.py: series in a tree, exact geometry, and every reason why slices do not form a volume."""

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import MRImageStorage, RLELossless, RTStructureSetStorage

from tests.dicom_files import change, ct_slices, new_dataset, save_all, uid_of
from utils.imaging.geometry import Geometry
from utils.io.dicom.series import find_series, read_ct
from utils.io.volumes import Volume, to_lps

SIZE = (5, 6, 8)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, COS, -SIN], [0, SIN, COS]])


def numbered_ct(direction=OBLIQUE):
    """A CT whose voxels are all different: value = 100 z + 10 y + x - 500."""
    z, y, x = np.indices(SIZE)
    geometry = Geometry(
        size_zyx=SIZE,
        spacing_zyx_mm=(2.5, 0.9, 1.1),
        origin_xyz_mm=(-12.5, 30.25, -410.0),
        direction=tuple(np.ravel(direction)),
    )
    return Volume(array=(100 * z + 10 * y + x - 500).astype(np.int16), geometry=geometry)


def read_only_series(folder):
    (series,) = find_series(folder)
    return read_ct(series)


def broken(folder, slices):
    """The error message for these slices."""
    save_all(slices, folder)
    with pytest.raises(ValueError, match=r": (CT|MR) series 'planning' \.\.\.\d{8} \(\d+ files in .*\)$") as caught:
        read_only_series(folder)
    return str(caught.value)


@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE], ids=["axial", "oblique"])
def test_voxels_and_grid_do_not_depend_on_file_names(direction, tmp_path):
    volume = numbered_ct(direction)
    save_all(ct_slices(volume), tmp_path, lambda i: f"{'bdaec'[i]}/IM{7 * (5 - i)}")
    found = read_only_series(tmp_path)
    np.testing.assert_array_equal(found.volume.array, volume.array)
    assert found.volume.array.dtype == np.int16
    assert found.volume.geometry.matches(volume.geometry, tolerance_vox=1e-6)
    assert found.volume.geometry.spacing_zyx_mm == pytest.approx((2.5, 0.9, 1.1))
    assert [path.parent.name for path in found.paths] == list("bdaec")
    assert found.sop_instance_uids == tuple(uid_of(f"P1 planning {i}") for i in range(5))
    assert found.frame_of_reference_uid == uid_of("P1 planning frame")
    assert found.notes == ()


def test_geometry_is_the_same_as_itks(tmp_path):
    save_all(ct_slices(numbered_ct()), tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sorted(str(path) for path in tmp_path.iterdir()))
    image = reader.Execute()
    found = read_only_series(tmp_path).volume
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(found.geometry.direction, image.GetDirection(), atol=1e-6)
    np.testing.assert_allclose(found.geometry.spacing_zyx_mm, image.GetSpacing()[::-1], atol=1e-6)
    np.testing.assert_allclose(found.geometry.origin_xyz_mm, image.GetOrigin(), atol=1e-6)


def test_every_slice_has_its_own_rescaling(tmp_path):
    slices = ct_slices(numbered_ct())
    change(slices, 2, RescaleSlope="2", RescaleIntercept="-2000")
    change(slices, 3, RescaleSlope="0.5")
    save_all(slices, tmp_path)
    found = read_only_series(tmp_path).volume.array
    raw = numbered_ct().array + 1024.0
    np.testing.assert_array_equal(found[2], 2 * raw[2] - 2000)
    np.testing.assert_array_equal(found[3], 0.5 * raw[3] - 1024)
    assert found.dtype == np.float32


def compress(dataset, compression, path):
    """Compress the pixels of a data set; ITK writes what pydicom cannot, with another header."""
    if compression == "RLE":
        dataset.compress(RLELossless)
        return
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.UseCompressionOn()
    writer.SetCompressor(compression)
    writer.Execute(sitk.GetImageFromArray(dataset.pixel_array[None]))
    written = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    dataset.PixelData = written.PixelData
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("compression", ["RLE", "JPEG2000", "JPEG"])
def test_compressed_slices_are_read(compression, tmp_path):
    slices = ct_slices(numbered_ct(np.eye(3)))
    for dataset in slices:
        compress(dataset, compression, tmp_path / "compressed.dcm")
        assert dataset.file_meta.TransferSyntaxUID.is_compressed
    save_all(slices, tmp_path / "series")
    np.testing.assert_array_equal(read_only_series(tmp_path / "series").volume.array, numbered_ct().array)


def test_truncated_compressed_slices_are_refused(tmp_path):
    slices = ct_slices(numbered_ct(np.eye(3)))
    for dataset in slices:
        compress(dataset, "JPEG", tmp_path / "compressed.dcm")
    save_all(slices, tmp_path / "series")
    path = tmp_path / "series" / "slice003.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"slice003\.dcm"):
        read_only_series(tmp_path / "series")


def test_a_tree_of_several_patients_and_other_files(tmp_path):
    volume = numbered_ct()
    save_all(ct_slices(volume, patient="P2"), tmp_path, "{:d}".format)
    save_all(ct_slices(volume, patient="P1"), tmp_path, "same_folder_{:d}".format)
    save_all(ct_slices(volume, patient="P1", series="follow-up"), tmp_path / "deep" / "er")
    structures = new_dataset(RTStructureSetStorage, uid_of("structures"))
    structures.Modality, structures.PatientID, structures.SeriesInstanceUID = "RTSTRUCT", "P1", uid_of("s")
    save_all([structures], tmp_path / "deep", lambda _: "plan.bin")
    (tmp_path / "notes.txt").write_text("not DICOM", encoding="utf-8")
    (tmp_path / "._slice000.dcm").write_text("a file that macOS leaves behind", encoding="utf-8")
    found = find_series(tmp_path)
    assert [(s.patient_id, s.modality, len(s.paths)) for s in found] == [
        ("P1", "CT", 5),
        ("P1", "CT", 5),
        ("P1", "RTSTRUCT", 1),
        ("P2", "CT", 5),
    ]
    assert {s.description for s in found} == {"planning", "follow-up", ""}


def test_files_without_preamble_are_found(tmp_path):
    save_all(ct_slices(numbered_ct()), tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[132:])
        path.rename(path.with_suffix(""))
    np.testing.assert_array_equal(read_only_series(tmp_path).volume.array, numbered_ct().array)


def test_localizers_and_copies_are_left_out_and_noted(tmp_path):
    slices = ct_slices(numbered_ct())
    scout = ct_slices(numbered_ct())[0]
    scout.SOPInstanceUID, scout.ImageType = uid_of("scout"), ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    save_all([*slices, scout], tmp_path)
    shutil.copy(tmp_path / "slice001.dcm", tmp_path / "copy.dcm")
    found = read_only_series(tmp_path)
    assert len(found.paths) == 5
    assert found.notes == ("slice001.dcm is a copy of copy.dcm and was left out", "1 localizer(s) left out")


@pytest.mark.parametrize(
    ("index", "fields", "message"),
    [
        (1, {"Modality": "PT"}, None),
        (2, {"SamplesPerPixel": 3}, "slices are missing: after slice001.dcm (5.00 mm)"),
        (
            2,
            {"NumberOfFrames": 4},
            "hold several images each but not their places: convert them to one image per file: slice002.dcm",
        ),
        (
            3,
            {"RescaleIntercept": None},
            "1 file(s) lack RescaleIntercept: slice003.dcm; move files that are no slices of this CT out of the folder",
        ),
        (3, {"ImagePositionPatient": None}, "lack ImagePositionPatient: slice003.dcm"),
        (2, {"PixelSpacing": ["1", "1", "1"]}, "have another number of values of PixelSpacing than 2: slice002.dcm"),
        (2, {"ImageOrientationPatient": [1, 0, 0]}, "number of values of ImageOrientationPatient than 6: slice002.dcm"),
        (
            0,
            {"FrameOfReferenceUID": uid_of("other")},
            "1 file(s) of 5 have another FrameOfReferenceUID than the others: slice000.dcm; move files that",
        ),
        (
            0,
            {"Rows": 3, "Columns": 16},
            "1 of 5 slices have another size than 6 x 8: slice000.dcm (3 x 16); move files that are no slices",
        ),
        (
            0,
            {"PixelSpacing": ["0.9", "1.3"]},
            "1 of 5 slices have another pixel spacing than 0.9 x 1.1 mm: slice000.dcm (0.9 x 1.3 mm); move files",
        ),
        (
            0,
            {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
            "another orientation than 0.955 0.296 0, -0.282 0.913 0.296: slice000.dcm (1 0 0, 0 1 0); move files",
        ),
        (4, {"RescaleSlope": "0"}, "1 file(s) have a RescaleSlope of 0: slice004.dcm"),
        (4, {"PixelData": b"\1\2"}, "slice004.dcm is truncated"),
        (
            4,
            {"PixelData": bytes(2 * 2 * 6 * 8)},
            "slice004.dcm holds more pixels than its header says; export it again",
        ),
        (
            4,
            {"RescaleSlope": "99"},
            "expected Hounsfield units, got values from -500 to 96095, the largest in slice004.dcm; export",
        ),
    ],
)
def test_problems_of_slices_are_named(index, fields, message, tmp_path):
    slices = ct_slices(numbered_ct())
    change(slices, index, **fields)
    if message is None:  # a series of two modalities is found as two
        save_all(slices, tmp_path)
        assert [(s.modality, len(s.paths)) for s in find_series(tmp_path)] == [("CT", 4), ("PT", 1)]
        return
    assert message in broken(tmp_path, slices)


def test_another_modality_is_named(tmp_path):
    slices = ct_slices(numbered_ct())
    for dataset in slices:
        dataset.Modality, dataset.SOPClassUID = "MR", MRImageStorage
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    assert "expected modality CT, got MR" in broken(tmp_path, slices)


def test_a_missing_slice_is_named(tmp_path):
    slices = ct_slices(numbered_ct())
    del slices[2]
    assert broken(tmp_path, slices).startswith(
        "slices are missing: after slice001.dcm (5.00 mm); the others are 2.50 mm apart; add their files, export the "
        "series again, or interpolate with --fill-gaps of inference.py: "
    )


def test_two_slices_at_one_position_are_named(tmp_path):
    slices = ct_slices(numbered_ct())
    extra = ct_slices(numbered_ct())[2]
    change([extra], 0, SOPInstanceUID=uid_of("second phase"), PixelData=bytes(len(extra.PixelData)))
    message = broken(tmp_path, [*slices, extra])
    assert "1 slice(s) repeat a position: slice002.dcm and slice005.dcm" in message


def test_one_uid_for_different_slices_is_named(tmp_path):
    slices = ct_slices(numbered_ct())
    change(slices, 3, SOPInstanceUID=slices[2].SOPInstanceUID)
    assert "slice002.dcm and slice003.dcm have one UID but differ" in broken(tmp_path, slices)


def test_images_of_the_series_that_name_another_patient_are_noted(tmp_path):
    """Half a CT would pass for a whole one."""
    slices = ct_slices(numbered_ct())
    slices[4].PatientID = "P2"
    save_all(slices, tmp_path / "series")
    shutil.copytree(tmp_path / "series", tmp_path / "again")  # the same images are no others
    first, second = find_series(tmp_path)
    assert (first.num_elsewhere, second.num_elsewhere) == (1, 4)
    note = "1 image(s) of the same SeriesInstanceUID name another patient and were left out; if they are slices of this"
    assert read_ct(first).notes[-1].startswith(note)


def moved(volume, shifts_mm):
    """Slices whose positions are moved by (x, y, z) each."""
    slices = ct_slices(volume)
    for dataset, shift in zip(slices, shifts_mm, strict=True):
        dataset.ImagePositionPatient = [f"{v:.8g}" for v in np.add(dataset.ImagePositionPatient, shift)]
    return slices


@pytest.mark.parametrize(
    ("tag", "vr", "value"),
    [
        ("FrameOfReferenceUID", "UI", "abc.def"),
        ("SpecificCharacterSet", "CS", "ISO_XX"),
        ("StudyDate", "DA", "yesterday"),
        ("SpacingBetweenSlices", "DS", "2.50000000000000000001"),
        ("PixelData", "OW", None),
    ],
)
def test_pydicom_says_nothing_itself(tag, vr, value, tmp_path, capfd, caplog):
    slices = ct_slices(numbered_ct())
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for dataset in slices:
            longer = dataset.PixelData + bytes(4)
            dataset.add_new(tag, vr, longer if value is None else value)
        save_all(slices, tmp_path)
    capfd.readouterr()
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_only_series(tmp_path)
    assert capfd.readouterr().err == ""
    assert caplog.text == ""


def test_rounded_positions_are_accepted(tmp_path):
    save_all(moved(numbered_ct(np.eye(3)), [(0, 0, z) for z in (0, 0.05, -0.05, 0.05, 0)]), tmp_path)
    assert read_only_series(tmp_path).volume.geometry.spacing_zyx_mm[0] == pytest.approx(2.5)


def test_a_shifted_slice_is_named(tmp_path):
    slices = moved(numbered_ct(np.eye(3)), [(0, 0, 0), (0, 0, 0), (4, 0, 0), (0, 0, 0), (0, 0, 0)])
    assert "slices are shifted against each other: slice002.dcm by 4.00 mm" in broken(tmp_path, slices)


def test_a_single_slice_is_refused(tmp_path):
    assert "it has one slice, but the slice spacing needs two; add the missing slices" in broken(
        tmp_path, ct_slices(numbered_ct())[:1]
    )


@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_never_skipped(fraction, tmp_path):
    save_all(ct_slices(numbered_ct()), tmp_path)
    path = tmp_path / "slice004.dcm"  # the last one: without it no gap would show
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"slice004\.dcm"):
        read_only_series(tmp_path)


def test_folders_without_dicom_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        find_series(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected DICOM files .* found none"):
        find_series(tmp_path)
    (tmp_path / "a.dcm").write_text("this is not DICOM", encoding="utf-8")
    with pytest.raises(ValueError, match=r"found 1 damaged file\(s\), for example .*a\.dcm"):
        find_series(tmp_path)


def test_two_slices_of_a_real_scanner(real_data, tmp_path):
    for name in ("ct_1.dcm", "ct_2.dcm"):
        shutil.copy(real_data / "dicom" / name, tmp_path)
    volume = read_only_series(tmp_path).volume
    expected = Geometry(
        size_zyx=(2, 512, 512), spacing_zyx_mm=(5.0, 0.488281, 0.488281), origin_xyz_mm=(-125.0, -125.0, 60.0)
    )
    assert volume.geometry.matches(expected, tolerance_vox=1e-6)
    assert volume.array.dtype == np.int16
    assert (volume.array.min(), volume.array.max()) == (-3024, 125)


def test_an_oblique_series_that_itk_wrote(real_data):
    found = read_only_series(real_data / "dicom" / "oblique")
    geometry = found.volume.geometry
    assert geometry.size_zyx == (3, 50, 100)
    np.testing.assert_allclose(geometry.spacing_zyx_mm, (4.5, 3.5, 2.5), atol=1e-6)
    for index, position in enumerate([(123, -432, 30), (122.50798485, -430.0798167, 34.0399029)]):
        np.testing.assert_allclose(geometry.world_mm((index, 0, 0)), position, atol=1e-4)
    assert [path.name for path in found.paths] == ["0.dcm", "1.dcm", "2.dcm"]
    lps = to_lps(replace(found.volume, metadata=None))
    assert np.diag(np.reshape(lps.geometry.direction, (3, 3))).min() > 0.8

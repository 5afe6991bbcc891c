"""utils/io/dicom/geometry.py: which images are slices, and why slices do not form a grid."""

import io
import warnings
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from scipy.spatial.transform import Rotation

from tests.dicom_files import ct_slices, save_all, uid_of
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.dicom.series import find_series, read_ct
from utils.io.volumes import Volume


def read_only_series(folder, slices):
    save_all(slices, folder)
    (series,) = find_series(folder)
    return read_ct(series)


def broken(folder, slices):
    """The error message for these slices."""
    with pytest.raises(ValueError, match="CT series") as caught:
        read_only_series(folder, slices)
    return str(caught.value)


def long_ct(num_slices=20):
    geometry = Geometry(size_zyx=(num_slices, 4, 5), spacing_zyx_mm=(2.5, 1.0, 1.0))
    return Volume(array=np.full(geometry.size_zyx, 30, np.int16), geometry=geometry)


def tilted_blocks(steps_mm, tilt_deg):
    """Slices at these distances along their normal, each moved along y by the tilt."""
    heights = np.cumsum([0, *steps_mm])
    volume = long_ct(len(heights))
    shifts = [(0, h * np.tan(np.radians(tilt_deg)), h - 2.5 * i) for i, h in enumerate(heights)]
    slices = ct_slices(volume)
    for dataset, shift in zip(slices, shifts, strict=True):
        dataset.ImagePositionPatient = [f"{v:.8g}" for v in np.add(dataset.ImagePositionPatient, shift)]
    return slices


BLOCKS = "slice distances vary: 4.00 mm from slice000.dcm to slice009.dcm, 7.00 mm from slice009.dcm to slice014.dcm"
RESAMPLED = "resampled to straight slices 4.00 mm apart"


@pytest.mark.parametrize("tilt_deg", [0, 15])
def test_blocks_of_two_distances_are_resampled(tilt_deg, tmp_path):
    found = read_only_series(tmp_path, tilted_blocks([4.0] * 9 + [7.0] * 5, tilt_deg))
    tilt = [f"the gantry was tilted by {tilt_deg}.0 degrees"] if tilt_deg else []
    assert found.notes == (*tilt, BLOCKS, RESAMPLED)
    assert found.volume.geometry.spacing_zyx_mm == pytest.approx((4, 1, 1))
    assert len(found.slices) == 15
    np.testing.assert_allclose(np.diff([s.geometry.origin_xyz_mm[2] for s in found.slices]), [4.0] * 9 + [7.0] * 5)


@pytest.mark.parametrize(("named_deg", "tilt_deg", "is_noted"), [(15, 0, True), (0, 0, False), (15, 15, False)])
def test_a_tilt_that_only_the_header_names_is_noted(named_deg, tilt_deg, is_noted, tmp_path):
    slices = tilted_blocks([4.0] * 9, tilt_deg)
    for dataset in slices:
        dataset.GantryDetectorTilt = str(named_deg)
    found = read_only_series(tmp_path, slices)
    assert (found.grid is None) == (tilt_deg == 0)
    note = "its header says that the gantry was tilted by 15 degrees, but its slices lie straight above each other"
    assert is_noted == any(text.startswith(note) for text in found.notes)


def test_varying_distances_are_resampled(tmp_path):
    found = read_only_series(tmp_path, tilted_blocks([2.5, 2.5, 3.1, 3.1], 0))
    assert found.notes == (
        "slice distances vary from 2.50 to 3.10 mm, most after slice002.dcm",
        "resampled to straight slices 2.50 mm apart",
    )


@pytest.mark.parametrize("tilt_deg", [0, 10])
def test_missing_slices_are_filled_on_request_only(tilt_deg, tmp_path):
    slices = tilted_blocks([4.0] * 5 + [8.0] + [4.0] * 5, tilt_deg)
    message = broken(tmp_path, slices)
    assert message.startswith("slices are missing: after slice005.dcm (8.00 mm); the others are 4.00 mm apart; add")
    found = read_ct(find_series(tmp_path)[0], fill_gaps=True)
    assert len(found.volume.array) == 13
    assert "after slice005.dcm (8.00 mm); the others are 4.00 mm apart; they were interpolated" in " ".join(found.notes)


def test_wide_gaps_are_not_filled(tmp_path):
    save_all(tilted_blocks([4.0] * 5 + [16.0] + [4.0] * 5, 0), tmp_path)
    with pytest.raises(UserError, match=r"after slice005.dcm \(16.00 mm\).*only gaps of up to 12 mm are filled"):
        read_ct(find_series(tmp_path)[0], fill_gaps=True)


def test_a_gap_among_blocks_is_missing_slices(tmp_path):
    message = broken(tmp_path, tilted_blocks([4.0] * 4 + [8.0] + [4.0] * 4 + [7.0] * 5, 0))
    assert message.startswith("slices are missing: after slice004.dcm (8.00 mm); the others are 4.00 mm apart")


def numbered(slices, first, value):
    """Give slices numbers from `first`, and one value to all of their pixels."""
    for number, dataset in enumerate(slices, first):
        dataset.InstanceNumber, dataset.SOPInstanceUID = number, uid_of(f"slice {number}")
        dataset.PixelData = np.full((dataset.Rows, dataset.Columns), value + 1024, "<u2").tobytes()
    return slices


def test_of_overlapping_blocks_the_first_counts(tmp_path):
    first = numbered(tilted_blocks([4.0] * 9, 0), 1, 10)
    second = numbered(tilted_blocks([7.0] * 5, 0), 11, 50)
    for dataset in second:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y, z + 28]
    found = read_only_series(tmp_path, first + second)
    assert found.notes[0] == (
        "2 slice(s) that overlap another block of the scan were left out: slice010.dcm, slice011.dcm"
    )
    assert len(found.slices) == 14
    assert set(np.unique(found.volume.array[:10])) == {10}
    assert found.volume.array[-1].max() == 50


def test_two_interleaved_scans_are_not_filled(tmp_path):
    """Every second distance looks like a gap."""
    save_all(tilted_blocks([1.0, 2.0] * 12, 0), tmp_path)
    (series,) = find_series(tmp_path)
    for fill_gaps in (False, True):
        with pytest.raises(UserError, match=r"two interleaved scans; export each scan as a series of its own"):
            read_ct(series, fill_gaps=fill_gaps)


@pytest.mark.parametrize(
    ("acquisitions", "is_noted"),
    [([1, 2] * 6, True), ([1] * 6 + [2] * 6, False), (range(12), False), ([1, 1, 2, 2, 3, 3] * 2, False)],
)
def test_acquisitions_whose_slices_alternate_are_noted(acquisitions, is_noted, tmp_path):
    """As those of two scans of the same part, half a distance apart."""
    slices = ct_slices(long_ct(12))
    for dataset, number in zip(slices, acquisitions, strict=True):
        dataset.AcquisitionNumber = number
    text = "slices of acquisitions 1 (6 slices), 2 (6 slices) alternate; check that they are one scan and not two"
    assert read_only_series(tmp_path, slices).notes == ((text,) if is_noted else ())


def test_what_overlaps_is_named_beside_missing_slices(tmp_path):
    slices = ct_slices(long_ct(12))
    slices[5].ImagePositionPatient = slices[6].ImagePositionPatient
    slices[5].PixelData = bytes(len(slices[5].PixelData))
    assert broken(tmp_path, slices).startswith(
        "slices are missing: after slice004.dcm (5.00 mm); the others are 2.50 mm apart; 1 slice(s) that overlap "
        "another block of the scan were left out: slice006.dcm; add their files"
    )


def test_a_second_reconstruction_of_the_same_part_is_refused(tmp_path):
    first = numbered(tilted_blocks([4.0] * 9, 0), 1, 10)
    second = numbered(tilted_blocks([4.0] * 9, 0), 11, 50)
    assert broken(tmp_path, first + second).startswith(
        "10 slice(s) repeat a position: slice000.dcm and slice010.dcm, slice001.dcm and slice011.dcm"
    )


def test_equal_images_at_one_place_are_one_slice(tmp_path):
    slices = numbered(tilted_blocks([4.0] * 9, 0), 1, 10)
    again = numbered(tilted_blocks([4.0] * 9, 0), 11, 10)
    found = read_only_series(tmp_path, slices + again[3:5])
    assert found.notes == (
        "slice010.dcm repeats slice003.dcm and was left out",
        "slice011.dcm repeats slice004.dcm and was left out",
    )
    assert found.grid is None


@pytest.mark.parametrize("seed", range(6))
def test_rounded_positions_of_few_oblique_slices_are_no_tilt(seed, tmp_path):
    direction = tuple(Rotation.random(random_state=seed).as_matrix().ravel())
    volume = Volume(array=np.zeros((8, 4, 5), np.int16), geometry=replace(long_ct(8).geometry, direction=direction))
    slices = ct_slices(volume)
    for dataset in slices:
        dataset.ImagePositionPatient = [f"{float(v):.1f}" for v in dataset.ImagePositionPatient]
    assert read_only_series(tmp_path, slices).volume.geometry.matches(volume.geometry)


@pytest.mark.parametrize("shifted", [[11], [0, 1], range(6, 12)], ids=["the last", "the first two", "one half"])
def test_shifted_slices_are_no_tilt(shifted, tmp_path):
    slices = ct_slices(long_ct(12))
    for index in shifted:
        x, y, z = slices[index].ImagePositionPatient
        slices[index].ImagePositionPatient = [x + 4, y, z]
    message = broken(tmp_path, slices)
    assert message.startswith("slices are shifted against each other: slice0")
    assert "tilt" not in message
    if len(shifted) < 6:
        assert f"slice{shifted[0]:03d}.dcm by 4.00 mm" in message


def test_an_orientation_of_zeros_makes_no_localizer(tmp_path):
    slices = ct_slices(long_ct())
    slices[-1].ImageOrientationPatient = [0] * 6
    assert "not a pair of perpendicular unit vectors: slice019.dcm" in broken(tmp_path, slices)


def scout(slices, name, **fields):
    """A localizer whose ImageType does not say so, in the coronal plane."""
    image = ct_slices(long_ct(1))[0]
    image.SOPInstanceUID = uid_of(name)
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 0, -1], [0, len(slices), 0]
    for key, value in fields.items():
        setattr(image, key, value)
    slices.append(image)


@pytest.mark.parametrize("num_scouts", [1, 2, 3])
def test_localizers_without_a_tag_are_left_out_and_named(num_scouts, tmp_path):
    slices = ct_slices(long_ct())
    for number in range(num_scouts):
        scout(slices, f"scout {number}", PixelSpacing=["3", "2"], Rows=10, Columns=2)
    found = read_only_series(tmp_path, slices)
    assert found.volume.array.shape == (20, 4, 5)
    names = ", ".join(f"slice{20 + number:03d}.dcm" for number in range(num_scouts))
    assert found.notes == (f"left out as localizers, since their plane is turned against that of the slices: {names}",)


@pytest.mark.parametrize(("num_slices", "num_scouts"), [(4, 1), (9, 2), (40, 4)])
def test_more_turned_images_are_refused_by_name(num_slices, num_scouts, tmp_path):
    slices = ct_slices(long_ct(num_slices))
    for number in range(num_scouts):
        scout(slices, f"scout {number}")
    message = broken(tmp_path, slices)
    assert message.startswith(
        f"{num_scouts} of {num_slices + num_scouts} slices have another orientation than 1 0 0, 0 1 0"
    )
    assert f"slice{num_slices:03d}.dcm (1 0 0, 0 0 -1)" in message


def test_an_axial_image_of_another_size_is_no_localizer(tmp_path):
    slices = ct_slices(long_ct())
    scout(slices, "scout", ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=["3", "2"], Rows=10, Columns=2)
    assert broken(tmp_path, slices).startswith(
        "1 of 21 slices have another size than 4 x 5: slice020.dcm (10 x 2); 1 of 21 slices have another pixel spacing "
        "than 1 x 1 mm: slice020.dcm (3 x 2 mm); move files that are no slices of this CT out of the folder"
    )


def garble(dataset, keyword, content):
    """Store bytes as the value of an attribute, unchecked."""
    tag = Tag(tag_for_keyword(keyword))
    vr = dictionary_VR(tag).split(" or ")[0]
    dataset._dict[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)


@pytest.mark.parametrize(
    ("keyword", "content"),
    [
        ("PixelSpacing", b"1.0\\1,0 "),
        ("ImagePositionPatient", b"0\\nan\\5 "),
        ("ImageOrientationPatient", b"1\\0\\0\\0\\x\\0 "),
        ("RescaleSlope", b"one "),
        ("RescaleIntercept", b"-inf"),
    ],
)
def test_a_value_that_is_no_number_is_named(keyword, content, tmp_path):
    slices = ct_slices(long_ct(6))
    garble(slices[2], keyword, content)
    assert broken(tmp_path, slices).startswith(
        f"1 file(s) have a {keyword} that is no number: slice002.dcm; move files"
    )


KEYWORDS = ["Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope"]
KEYWORDS += ["RescaleIntercept", "BitsAllocated", "BitsStored", "PixelRepresentation", "PixelPaddingValue", "ImageType"]
KEYWORDS += ["PixelPaddingRangeLimit", "NumberOfFrames", "SamplesPerPixel", "FrameOfReferenceUID", "PixelData"]
KEYWORDS += ["Modality", "SOPInstanceUID", "SpecificCharacterSet"]
CONTENTS = [
    b"",
    b"0 ",
    b"nan ",
    b"1e400 ",
    b"-1",
    b"1\\2 ",
    b"abc ",
    b"inf ",
    b"0\\0\\0\\0\\0\\0 ",
    b"\xff\xff",
    b"\0\0",
    b"\x10\0",
]


@pytest.mark.filterwarnings("error")
@given(
    changes=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(KEYWORDS), st.sampled_from(CONTENTS)), max_size=3),
    flips=st.lists(st.tuples(st.integers(0, 11), st.integers(132, 1100), st.integers(0, 255)), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_damaged_slices_are_refused_or_read(changes, flips, tmp_path_factory):
    """No value and no byte of a file ends in another error, or in a warning of pydicom."""
    folder = tmp_path_factory.mktemp("damaged")
    slices = ct_slices(long_ct(12))
    for index, keyword, content in changes:
        garble(slices[index], keyword, content)
    for index, dataset in enumerate(slices):
        stream = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pydicom.dcmwrite(stream, dataset)
            except (ValueError, AttributeError, OverflowError):  # pydicom cannot write such a file
                return
        raw = bytearray(stream.getvalue())
        for at, place, value in flips:
            if at == index and place < len(raw):
                raw[place] = value
        (folder / f"{index}.dcm").write_bytes(raw)
    try:
        for series in find_series(folder):
            read_ct(series)
    except UserError as error:
        assert "\n" not in str(error), error  # noqa: PT017

"""utils/io/dicom/pixels.py and the checks of what a header says about its pixels."""

import numpy as np
import pytest
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests.dicom_files import change, ct_slices, save_all
from tests.utils.io.dicom.test_series import broken, numbered_ct, read_only_series


def with_table(slices):
    for dataset in slices:
        dataset.ModalityLUTSequence = [Dataset()]


def in_high_bits(slices):
    """12 bits, as old scanners stored them in the upper part of a word."""
    for dataset in slices:
        dataset.BitsStored, dataset.HighBit = 12, 15
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") << 4).tobytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: change(s, 1, BitsStored=None), "1 file(s) lack BitsStored: slice001.dcm; move files"),
        (lambda s: change(s, 1, PixelRepresentation=None), "1 file(s) lack PixelRepresentation: slice001.dcm; move"),
        (
            lambda s: change(s, 1, BitsAllocated=12),
            "1 file(s) have a BitsAllocated other than 8, 16, 32: slice001.dcm;",
        ),
        (lambda s: change(s, 1, BitsAllocated=1, BitsStored=1), "have a BitsAllocated other than 8, 16, 32: slice001"),
        (lambda s: change(s, 1, BitsStored=20), "1 file(s) have more BitsStored than BitsAllocated: slice001.dcm;"),
        (in_high_bits, "5 file(s) have pixels in higher bits than BitsStored (HighBit): slice000.dcm,"),
        (with_table, "5 file(s) have a table of values (ModalityLUTSequence), which is not read: slice000.dcm,"),
        (lambda s: change(s, 1, PixelSpacing=["900", "1100"]), "a pixel spacing beyond 0.01 to 100 mm: slice001.dcm;"),
    ],
)
def test_pixels_that_decoders_read_differently_are_refused(spoil, message, tmp_path):
    slices = ct_slices(numbered_ct())
    spoil(slices)
    assert message in broken(tmp_path, slices)


def test_compressed_pixels_under_a_header_of_plain_ones_are_refused(tmp_path):
    """Read as they are, they would be the image, shifted by eight pixels."""
    slices = ct_slices(numbered_ct())
    for dataset, plane in zip(slices, numbered_ct().array, strict=True):
        dataset.PixelRepresentation, dataset.RescaleIntercept = 1, "0"
        dataset.PixelData = encapsulate([plane.astype("<i2").tobytes()])
    message = broken(tmp_path, slices)
    assert message.startswith("slice000.dcm holds compressed pixels, but its header says that they are not; copy it")


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    slices = ct_slices(numbered_ct())
    for dataset in slices:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.113619.5.2"
    with disable_value_validation():
        message = broken(tmp_path, slices)
    assert message.startswith(
        "slice000.dcm has the unknown transfer syntax 1.2.840.113619.5.2; export the series uncom"
    )


def test_deflated_and_big_endian_files_are_read(tmp_path):
    for name, syntax in (("deflated", DeflatedExplicitVRLittleEndian), ("big", ExplicitVRBigEndian)):
        slices = ct_slices(numbered_ct())
        for dataset in slices:
            dataset.file_meta.TransferSyntaxUID = syntax
        if name == "deflated":
            save_all(slices, tmp_path / name)
        else:
            (tmp_path / name).mkdir()
            for index, dataset in enumerate(slices):
                dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
                dcmwrite(tmp_path / name / f"{index}.dcm", dataset, little_endian=False, implicit_vr=False)
        np.testing.assert_array_equal(read_only_series(tmp_path / name).volume.array, numbered_ct().array)

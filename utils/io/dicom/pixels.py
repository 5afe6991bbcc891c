"""The pixels of a CT's frames in HU; those that the header declares as padding are air."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from utils.errors import UserError
from utils.imaging.intensity import AIR_HU
from utils.io.dicom.dataset import explain_decode_errors
from utils.io.dicom.frames import Frame
from utils.io.dicom.padding import declared_padding
from utils.io.volumes import read_dicom_pixels

ITEM = b"\xfe\xff\x00\xe0"
"""Compressed pixels begin so. Taken for pixels as they are, they would be shifted by a few pixels."""
PIXEL_TAGS = ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored")
PIXEL_TAGS += ("HighBit", "PixelRepresentation")
"""Attributes that a decoder needs."""


class Plane(NamedTuple):
    """The image of a frame."""

    hu: np.ndarray
    """(rows, columns) float32."""
    num_padding: int
    """Pixels that are declared as padding; they are air."""


def read_plane(frame: Frame) -> Plane:
    """Decode a frame that `check_frames` accepts.

    Raises:
        UserError: it is truncated, holds more pixels than its header says, or is compressed in an unknown way.
    """
    with explain_decode_errors(frame.path):
        syntax = frame.dataset.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
        if not syntax.is_transfer_syntax:
            raise UserError(f"{frame.name} has the unknown transfer syntax {syntax}; export the series uncompressed")
        is_compressed = syntax.is_compressed
    stored = _decompress(frame) if is_compressed else _stored_pixels(frame)
    if stored.shape != (frame.get("Rows"), frame.get("Columns")):
        raise UserError(f"{frame.name} holds more pixels than its header says; export it again")
    slope, intercept = float(frame.get("RescaleSlope")), float(frame.get("RescaleIntercept"))
    hu = (stored * slope + intercept).astype(np.float32)
    words = stored if is_compressed else _words(frame, syntax == ExplicitVRBigEndian)
    padding = declared_padding(frame, words)
    hu[padding] = np.minimum(hu[padding], AIR_HU)
    return Plane(hu, int(np.count_nonzero(padding)))


def _stored_pixels(frame: Frame) -> np.ndarray:
    dataset = frame.dataset
    num_frames = 1 if frame.index is None else len(dataset.PerFrameFunctionalGroupsSequence)
    if len(dataset.get("PixelData", b"")) < num_frames * _num_bytes(frame):
        raise UserError(f"{frame.path.name} is truncated: it holds fewer pixels than its header says; copy it again")
    if dataset.get("PixelData", b"").startswith(ITEM):
        raise UserError(
            f"{frame.path.name} holds compressed pixels, but its header says that they are not; copy it again"
        )
    with explain_decode_errors(frame.path):
        stored = dataset.pixel_array
    return stored.reshape(-1, *stored.shape[-2:])[frame.index] if frame.index is not None else stored


def _words(frame: Frame, is_big_endian: bool) -> np.ndarray:
    """The pixels as they are stored, with the bits beyond BitsStored, as unsigned numbers."""
    kind = f"{'>' if is_big_endian else '<'}u{frame.get('BitsAllocated') // 8}"
    start = (frame.index or 0) * _num_bytes(frame)
    words = np.frombuffer(frame.dataset.PixelData, kind, count=frame.get("Rows") * frame.get("Columns"), offset=start)
    return words.reshape(frame.get("Rows"), frame.get("Columns"))


def _num_bytes(frame: Frame) -> int:
    return frame.get("Rows") * frame.get("Columns") * frame.get("BitsAllocated") // 8


def _decompress(frame: Frame) -> np.ndarray:
    """Decode by ITK (GDCM), which knows more compressions than pydicom alone.

    A file of its own for each frame, without a rescaling: GDCM applies one to all frames.
    """
    dataset = frame.dataset
    num_frames = 1 if frame.index is None else len(dataset.PerFrameFunctionalGroupsSequence)
    with explain_decode_errors(frame.path):
        tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
        extended = None if None in tables else tables
        pixels = get_frame(dataset.PixelData, frame.index or 0, number_of_frames=num_frames, extended_offsets=extended)
        single = Dataset()
        for keyword in PIXEL_TAGS:
            if keyword in dataset:
                single[keyword] = dataset[keyword]
        single.SOPClassUID, single.SOPInstanceUID = CTImageStorage, generate_uid()
        single.PixelData = encapsulate([pixels])
        single["PixelData"].VR = "OB"
        single["PixelData"].is_undefined_length = True
        single.file_meta = FileMetaDataset()
        single.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frame.dcm"
            single.save_as(path, enforce_file_format=True)
            try:
                return read_dicom_pixels(path)
            except RuntimeError as error:
                syntax = dataset.file_meta.TransferSyntaxUID
                raise UserError(
                    f"{frame.name} cannot be decompressed: it is damaged, or its compression ({syntax.name}) is not "
                    "supported; copy it again, or export the series without compression"
                ) from error

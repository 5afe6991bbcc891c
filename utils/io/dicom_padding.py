"""Which pixels of a DICOM image are padding, because its header says so."""

import numpy as np
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRBigEndian

from utils.imaging.intensity import MIN_TISSUE_HU

MAX_TISSUE_HU = 3071
"""The largest HU of 12 bits; denser voxels are metal."""


def declared_padding(dataset: FileDataset, plane_hu: np.ndarray) -> np.ndarray:
    """The pixels from PixelPaddingValue to PixelPaddingRangeLimit; without the latter, those of the former alone.

    Writers store both tags as signed or unsigned, not always as the pixels are, and use bits beyond BitsStored, so that
    whole words are compared. A range that holds tissue is ignored: some writers declare 0 HU.

    Args:
        dataset: with its pixels and rescaling.
        plane_hu: (rows, columns) the rescaled pixels.

    Returns:
        (rows, columns) bool.
    """
    kind = f"{'i' if dataset.get('PixelRepresentation') else 'u'}{dataset.BitsAllocated // 8}"
    limits = [_word(dataset.get(tag), kind) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if limits[0] is None:
        return np.zeros(plane_hu.shape, dtype=bool)
    low, high = sorted((limits[0], limits[0] if limits[1] is None else limits[1]))
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    if slope * low + intercept < MAX_TISSUE_HU and slope * high + intercept > MIN_TISSUE_HU:
        return np.zeros(plane_hu.shape, dtype=bool)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is not None and syntax.is_compressed:
        words = np.rint((plane_hu - intercept) / slope).astype(np.int64).astype(kind)
    else:
        words = np.frombuffer(dataset.PixelData, f"{'>' if syntax == ExplicitVRBigEndian else '<'}{kind}")
        words = words[: plane_hu.size].reshape(plane_hu.shape)
    return (words >= low) & (words <= high)


def _word(value: object, kind: str) -> int | None:
    """A tag's value with the bits that it has in a pixel of the type `kind`; None if it is not one number."""
    if isinstance(value, bytes):  # of unknown type (UN)
        value = int.from_bytes(value, "little") if value else None
    return int(np.array(value).astype("i8").astype(kind)) if isinstance(value, int) else None

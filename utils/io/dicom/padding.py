"""Which pixels of a DICOM image are padding, because its header says so."""

import numpy as np
from pydicom.dataset import Dataset

from utils.imaging.intensity import MIN_TISSUE_HU

MAX_TISSUE_HU = 3071
"""The largest HU of 12 bits; denser voxels are metal."""


def declared_padding(image: Dataset, words: np.ndarray) -> np.ndarray:
    """The pixels from PixelPaddingValue to PixelPaddingRangeLimit; without the latter, those of the former alone.

    Writers store both tags as signed or unsigned, not always as the pixels are, and use bits beyond BitsStored, so that
    whole words are compared. A range that holds tissue is ignored: some writers declare 0 HU.

    Args:
        image: with its rescaling.
        words: (rows, columns) the stored pixels, not rescaled, of any numeric type.

    Returns:
        (rows, columns) bool.
    """
    kind = f"{'i' if image.get('PixelRepresentation') else 'u'}{image.get('BitsAllocated') // 8}"
    limits = [_word(image.get(tag), kind) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if limits[0] is None:
        return np.zeros(words.shape, dtype=bool)
    low, high = sorted((limits[0], limits[0] if limits[1] is None else limits[1]))
    slope, intercept = float(image.get("RescaleSlope")), float(image.get("RescaleIntercept"))
    if slope * low + intercept < MAX_TISSUE_HU and slope * high + intercept > MIN_TISSUE_HU:
        return np.zeros(words.shape, dtype=bool)
    words = words.astype("i8").astype(kind)
    return (words >= low) & (words <= high)


def _word(value: object, kind: str) -> int | None:
    """A tag's value with the bits that it has in a pixel of the type `kind`; None if it is not one number."""
    if isinstance(value, bytes):  # of unknown type (UN)
        value = int.from_bytes(value, "little") if value else None
    return int(np.array(value).astype("i8").astype(kind)) if isinstance(value, int) else None

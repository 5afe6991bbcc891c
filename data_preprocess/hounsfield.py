"""The one check that a CT's values are Hounsfield units: `prepare`, `export` and inference use it."""

from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.intensity import AIR_HU, BONE_HU, MIN_TISSUE_HU, OFFSET_HU, PADDING_HU, SOFT_TISSUE_HU

PEAK_RATIO = 3.0
"""Soft tissue is a peak: a HU in its range is at least this many times as frequent as a HU in bone's range."""
MIN_FRACTION = 0.001
"""Of the voxels are air, and as many soft tissue, in every CT; fewer lie below air."""
BIN_HU = 8
MAX_SAMPLES = 4_000_000
INT16_MIN, INT16_MAX = -32768, 32767


class HounsfieldVolume(NamedTuple):
    """A CT in HU and the changes that this took."""

    array: np.ndarray
    """(D, H, W) int16."""
    notes: list[str]
    """Changes that the report mentions."""


def validate_hounsfield(array: np.ndarray, *, correct_offset: bool) -> HounsfieldVolume:
    """Check that values are HU, round them to int16 and replace padding by air.

    Every CT of head and neck shows air and soft tissue, so both must be frequent at their HU.

    Args:
        array: (D, H, W), any numeric dtype.
        correct_offset: subtract 1024 if air and soft tissue lie that much too high; otherwise this is an error.

    Raises:
        UserError: a voxel is NaN or infinite, or the values are not HU.
    """
    if np.issubdtype(array.dtype, np.floating) and (num_bad := int(array.size - np.isfinite(array).sum())):
        raise UserError(f"{num_bad} of {array.size} voxels are NaN or infinite; export the CT again")
    sample = array.reshape(-1)[:: max(1, array.size // MAX_SAMPLES)]
    sample = sample[sample > PADDING_HU]
    if not sample.size:
        raise UserError(
            f"expected values above {PADDING_HU} HU, but every voxel is padding; export the CT in Hounsfield units"
        )
    notes, offset = [], 0
    if not _is_hu(sample, 0):
        if not _is_hu(sample, OFFSET_HU):
            low, middle, high = np.percentile(sample, (1, 50, 99))
            raise UserError(
                f"values are not HU: 98 % of them lie between {low:.4g} and {high:.4g} (median {middle:.4g}), and "
                "there is no air near -1000 or no soft tissue near 0; export the CT in Hounsfield units"
            )
        air = _most_frequent(sample, PADDING_HU, MIN_TISSUE_HU)
        tissue = _most_frequent(sample, *SOFT_TISSUE_HU)
        seen = f"air peaks at {air:.0f} and soft tissue at {tissue:.0f}, as in a CT stored as HU + {OFFSET_HU}"
        if not correct_offset:
            raise UserError(
                f"{seen}; export the CT in Hounsfield units, or let inference.py subtract it with --hu-offset auto"
            )
        notes.append(f"{seen}; {OFFSET_HU} was subtracted")
        offset = OFFSET_HU
    padding = array <= PADDING_HU
    if padding.any():
        notes.append(f"{padding.mean():.1%} of the voxels are padding (down to {array.min():.0f}) and became air")
    return HounsfieldVolume(_to_int16(array, offset, padding), notes)


def _to_int16(array: np.ndarray, offset: int, padding: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16 and not offset:
        cleaned = array.copy()
    else:
        whole = np.rint(array) if np.issubdtype(array.dtype, np.floating) else array
        cleaned = (np.clip(whole, INT16_MIN, INT16_MAX + offset).astype(np.int32) - offset).astype(np.int16)
    cleaned[padding] = AIR_HU
    return cleaned


def _is_hu(sample: np.ndarray, offset: int) -> bool:
    """Whether there is air, soft tissue has a peak, and almost nothing lies below air."""
    air, tissue, bone = (
        np.mean((sample > low + offset) & (sample < high + offset))
        for low, high in ((PADDING_HU, MIN_TISSUE_HU), SOFT_TISSUE_HU, BONE_HU)
    )
    below_air = np.mean(sample <= PADDING_HU + offset)
    is_peak = tissue / np.ptp(SOFT_TISSUE_HU) > PEAK_RATIO * bone / np.ptp(BONE_HU)
    return bool(air > MIN_FRACTION and tissue > MIN_FRACTION and is_peak and below_air < MIN_FRACTION)


def _most_frequent(sample: np.ndarray, low_hu: float, high_hu: float) -> float:
    """The most frequent value of a range of HU in a sample that lies `OFFSET_HU` too high."""
    limits = (low_hu + OFFSET_HU, high_hu + OFFSET_HU)
    counts, edges = np.histogram(sample, bins=int((high_hu - low_hu) / BIN_HU), range=limits)
    return float(edges[counts.argmax()] + BIN_HU / 2)

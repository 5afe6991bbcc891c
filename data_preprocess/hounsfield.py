"""The one check that a CT's values are Hounsfield units: `prepare`, `export` and inference use it."""

from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.intensity import AIR_HU, BONE_HU, MIN_TISSUE_HU, OFFSET_HU, PADDING_HU, SOFT_TISSUE_HU

PEAK_RATIO = 3.0
"""Soft tissue is a peak: a HU in its range is at least this many times as frequent as a HU of bone or between air and
tissue. In 170 patients the lowest ratios were 8.0 and 4.5."""
AIR_RANGES_HU = ((-1100, -850), (-950, -700))
"""Ranges of air and of lung. A HU in one of them is more frequent than one of `BETWEEN_HU`: in 170 patients 22 times as
frequent or more, and 1.5 times within the body, where only airways are air. Within a chest, lung is more frequent."""
BETWEEN_HU = (-700, -300)
"""Range of partial volumes and of dense lung."""
MUSCLE_HU = (-15, 80)
"""Range of the most frequent value of muscle: -14 to 74 in 170 patients."""
MUSCLE_SEARCH_HU = (-60, 140)
"""Range without fat in which the peak of muscle is searched."""
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
                f"values are not HU: 98 % of them lie between {low:.4g} and {high:.4g} (median {middle:.4g}), without "
                "peaks of air near -1000 and of soft tissue near 0; export the CT in Hounsfield units and without a "
                "window; MR and PET cannot be segmented"
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
    if num_blank := _count_blank_slices(array):
        notes.append(
            f"{num_blank} slice(s) between others hold one value alone, so their pixels may be lost; look at them"
        )
    return HounsfieldVolume(_to_int16(array, offset, padding), notes)


def _count_blank_slices(array: np.ndarray) -> int:
    """Slices, as they are stored, that hold one value alone between slices that do not."""
    shown = np.flatnonzero([plane.min() != plane.max() for plane in array])
    return int(np.ptp(shown)) + 1 - len(shown) if len(shown) else 0


def _to_int16(array: np.ndarray, offset: int, padding: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16 and not offset:
        cleaned = array.copy()
    else:
        whole = np.rint(array) if np.issubdtype(array.dtype, np.floating) else array
        cleaned = (np.clip(whole, INT16_MIN, INT16_MAX + offset).astype(np.int32) - offset).astype(np.int16)
    cleaned[padding] = AIR_HU
    return cleaned


def _is_hu(sample: np.ndarray, offset: int) -> bool:
    """Whether air and soft tissue have peaks, and almost nothing lies below air.

    An MR can have peaks that far apart too. With an offset, muscle must therefore lie where it does in CTs.
    """

    def frequency(range_hu: tuple[int, int]) -> float:
        return np.mean((sample > range_hu[0] + offset) & (sample < range_hu[1] + offset)) / np.ptp(range_hu)

    between, tissue, bone = map(frequency, (BETWEEN_HU, SOFT_TISSUE_HU, BONE_HU))
    air = frequency((PADDING_HU, BETWEEN_HU[0])) * (BETWEEN_HU[0] - PADDING_HU)
    if min(air, tissue * np.ptp(SOFT_TISSUE_HU)) < MIN_FRACTION:
        return False
    if offset and not MUSCLE_HU[0] < _most_frequent(sample, *MUSCLE_SEARCH_HU) - offset < MUSCLE_HU[1]:
        return False
    has_peaks = max(map(frequency, AIR_RANGES_HU)) > between and tissue > PEAK_RATIO * max(bone, between)
    return bool(has_peaks and np.mean(sample <= PADDING_HU + offset) < MIN_FRACTION)


def _most_frequent(sample: np.ndarray, low_hu: float, high_hu: float) -> float:
    """The most frequent value of a range of HU in a sample that lies `OFFSET_HU` too high."""
    limits = (low_hu + OFFSET_HU, high_hu + OFFSET_HU)
    counts, edges = np.histogram(sample, bins=int((high_hu - low_hu) / BIN_HU), range=limits)
    return float(edges[counts.argmax()] + BIN_HU / 2)

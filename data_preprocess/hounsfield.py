"""Whether a volume's values are Hounsfield units, and what to do where they are not quite."""

from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.intensity import AIR_HU

PADDING_HU = -1200
"""Scanners fill what they did not see with -2000, -3024 and the like; nothing real is thinner than air."""
OFFSET_HU = 1024
"""Some exports store HU + 1024 to stay positive, and lose the rescale intercept."""
AIR_BELOW_HU = -300
SOFT_TISSUE_HU = (-160, 140)
"""Fat and muscle."""
BONE_HU = (240, 840)
PEAK_RATIO = 3.0
"""Soft tissue is a peak: a HU in its range is so many times as frequent as one in bone's."""
MIN_SHARE = 0.001
BIN_HU = 8
MAX_SAMPLES = 4_000_000
INT16_MIN, INT16_MAX = -32768, 32767


class HuCheck(NamedTuple):
    """A CT in HU and what had to be done for it."""

    array: np.ndarray
    """(D, H, W) int16."""
    notes: list[str]
    """What a reader of the report should know."""


class Peaks(NamedTuple):
    """The most frequent values of air and of soft tissue."""

    air: float
    tissue: float


def validate_hounsfield(array: np.ndarray, *, correct_offset: bool) -> HuCheck:
    """Check that values are HU and fit for int16; padding below air becomes air.

    Every head and neck holds air and soft tissue, so both must be seen where HU puts them.

    Args:
        array: (D, H, W), any numeric dtype.
        correct_offset: subtract 1024 where air and soft tissue lie that much too high; otherwise that is an error.

    Raises:
        UserError: some voxel is no number, the values are not HU, or lie 1024 too high.
    """
    if np.issubdtype(array.dtype, np.floating):
        num_bad = int(array.size - np.isfinite(array).sum())
        if num_bad:
            raise UserError(f"{num_bad} of {array.size} voxels are NaN or infinite: export the CT again")
    sample = array.reshape(-1)[:: max(1, array.size // MAX_SAMPLES)]
    sample = sample[sample > PADDING_HU]
    notes = []
    offset = 0
    if not _is_hu(sample, 0):
        if not _is_hu(sample, OFFSET_HU):
            raise UserError(_not_hu(sample))
        peaks = _peaks(sample, OFFSET_HU)
        seen = (
            f"air peaks at {peaks.air:.0f} and soft tissue at {peaks.tissue:.0f}, as in a CT stored as HU + {OFFSET_HU}"
        )
        if not correct_offset:
            raise UserError(f"{seen}: give --hu-offset auto to subtract {OFFSET_HU}, or export the CT in HU")
        notes.append(f"{seen}; {OFFSET_HU} was subtracted")
        offset = OFFSET_HU
    padding = array <= PADDING_HU
    if padding.any():
        notes.append(f"{padding.mean():.1%} of the voxels are padding (down to {array.min():.0f}), taken as air")
    return HuCheck(_to_int16(array, offset, padding), notes)


def _to_int16(array: np.ndarray, offset: int, padding: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16 and not offset:
        cleaned = array.copy()
    else:
        whole = np.rint(array) if np.issubdtype(array.dtype, np.floating) else array
        cleaned = (np.clip(whole, INT16_MIN, INT16_MAX + offset).astype(np.int32) - offset).astype(np.int16)
    cleaned[padding] = AIR_HU
    return cleaned


def _is_hu(sample: np.ndarray, offset: int) -> bool:
    """Whether air is seen, soft tissue has a peak, and next to nothing is thinner than air."""
    if not sample.size:
        return False
    air = _share(sample, (PADDING_HU, AIR_BELOW_HU), offset)
    tissue, bone = _share(sample, SOFT_TISSUE_HU, offset), _share(sample, BONE_HU, offset)
    thinner = np.mean(sample <= PADDING_HU + offset)
    is_peak = tissue / np.ptp(SOFT_TISSUE_HU) > PEAK_RATIO * bone / np.ptp(BONE_HU)
    return bool(air > MIN_SHARE and tissue > MIN_SHARE and is_peak and thinner < MIN_SHARE)


def _share(sample: np.ndarray, limits_hu: tuple[float, float], offset: int) -> float:
    return float(np.mean((sample > limits_hu[0] + offset) & (sample < limits_hu[1] + offset)))


def _peaks(sample: np.ndarray, offset: int) -> Peaks:
    return Peaks(
        air=_most_frequent(sample, PADDING_HU + offset, AIR_BELOW_HU + offset),
        tissue=_most_frequent(sample, SOFT_TISSUE_HU[0] + offset, SOFT_TISSUE_HU[1] + offset),
    )


def _most_frequent(sample: np.ndarray, low: float, high: float) -> float:
    counts, edges = np.histogram(sample, bins=int((high - low) / BIN_HU), range=(low, high))
    return float(edges[counts.argmax()] + BIN_HU / 2)


def _not_hu(sample: np.ndarray) -> str:
    if not sample.size:
        return "every voxel is padding: is this a CT?"
    low, middle, high = np.percentile(sample, (1, 50, 99))
    return (
        f"values are not HU: 98 % of them lie between {low:.4g} and {high:.4g} (median {middle:.4g}), and air near "
        "-1000 or soft tissue near 0 is missing; give a CT in HU"
    )

"""Brings the volumes of a review page to its grid and packs them, so that a browser unpacks them without a library."""

import base64
import math
import zlib
from dataclasses import dataclass

import numpy as np

from utils.imaging.intensity import AIR_HU

Triple = tuple[float, float, float]

FINEST_IN_PLANE_MM = 1.0
"""Contours are drawn with at best this precision: a voxel of a typical planning CT of head and neck."""
ROUNDING = 0.25
"""Pixels are joined only if they are clearly smaller: 0.8 mm stay, 0.7 mm become 1.4 mm."""
MAX_VOXELS = 20_000_000
"""Bounds what the browser holds in memory (5 bytes each) and the time to write a page."""
MAX_IMAGE_BYTES = 5_600_000
"""Packed CT; 7.5 MB as text. Labels and the page itself need less than 0.5 MB."""
STEPS_HU = (1, 2, 4, 8, 16)
"""Finest step first. A gray value of the soft-tissue window spans 1.6 HU, and the noise of a CT has 5 to 20 HU."""
MAX_HU = 3071
SAMPLE_SLICES = 12
"""By which the step is chosen."""


@dataclass(frozen=True, kw_only=True)
class PackedImage:
    """A CT as the page holds it."""

    text: str
    """Base64 of the gzipped bytes."""
    step_hu: int
    """HU = AIR_HU + step_hu * stored value."""


def join_factor(size_zyx: tuple[int, int, int], spacing_zyx_mm: Triple) -> int:
    """How many neighboring pixels are joined along y and along x: slices stay as they are.

    The pixels become `FINEST_IN_PLANE_MM` or, where the volume is still too large, so coarse that it is not.
    """
    finest = max(1, math.ceil(FINEST_IN_PLANE_MM / min(spacing_zyx_mm[1:]) - ROUNDING))
    return max(finest, math.ceil(math.sqrt(math.prod(size_zyx) / MAX_VOXELS)))


def join_image(image: np.ndarray, factor: int) -> np.ndarray:
    """Replace squares of `factor` x `factor` pixels of every slice by their mean.

    Args:
        image: (D, H, W), any numeric dtype.
        factor: of `join_factor`; pixels of incomplete squares are repeated.

    Returns:
        (D, ceil(H / factor), ceil(W / factor)), of the same dtype.
    """
    if factor == 1:
        return image
    padding = [(0, 0), *((0, -n % factor) for n in image.shape[1:])]
    padded = np.pad(image, padding, mode="edge")
    total = sum(padded[:, i::factor, j::factor].astype(np.float32) for i in range(factor) for j in range(factor))
    mean = total / factor**2
    return mean.astype(image.dtype) if image.dtype.kind == "f" else np.rint(mean).astype(image.dtype)


def join_labels(labels: np.ndarray, factor: int) -> np.ndarray:
    """Replace squares of pixels by the label that most of them have; of equally frequent ones, the highest.

    Args and result are those of `join_image`, uint8.
    """
    if factor == 1:
        return labels
    padding = [(0, 0), *((0, -n % factor) for n in labels.shape[1:])]
    padded = np.pad(labels, padding, mode="edge")
    shifted = [padded[:, i::factor, j::factor] for i in range(factor) for j in range(factor)]
    joined = shifted[0].copy()
    uniform = np.logical_and.reduce([part == joined for part in shifted])
    mixed = np.nonzero(~uniform)  # only borders are mixed: a thousandth of the volume
    parts = np.stack([part[mixed] for part in shifted])
    best, most = parts[0], np.zeros(parts.shape[1], dtype=np.int64)
    for part in parts:
        count = (parts == part).sum(axis=0)
        better = (count > most) | ((count == most) & (part > best))
        best, most = np.where(better, part, best), np.where(better, count, most)
    joined[mixed] = best
    return joined


def pack_image(image_hu: np.ndarray) -> PackedImage:
    """Pack a CT in the finest step with which it stays below `MAX_IMAGE_BYTES`.

    Every voxel is predicted from its neighbors. The remainders are small, so that their high bytes are nearly all 0:
    all low bytes come first, then all high bytes.

    Args:
        image_hu: (D, H, W), clipped to `AIR_HU` .. `MAX_HU`.
    """
    offset = np.clip(image_hu, AIR_HU, MAX_HU).astype(np.int16) - np.int16(AIR_HU)
    sample = offset[:: max(1, len(offset) // SAMPLE_SLICES)]
    steps = (step for step in STEPS_HU if _expected_bytes(sample, step) * offset.size / sample.size < MAX_IMAGE_BYTES)
    step = next(steps, STEPS_HU[-1])
    remainders = _remainders(_round(offset, step)).ravel()
    folded = ((remainders << 1) ^ (remainders >> 15)).view(np.uint16)  # 0, -1, 1, -2, ... become 0, 1, 2, 3, ...
    planes = np.concatenate([folded.astype(np.uint8), (folded >> 8).astype(np.uint8)])
    return PackedImage(text=_pack(planes), step_hu=step)


def pack_bytes(volume: np.ndarray) -> str:
    """Pack labels, or a heatmap in steps of 1/255: (D, H, W) uint8 with long runs of equal values."""
    return _pack(np.ascontiguousarray(volume))


def _round(offset_hu: np.ndarray, step: int) -> np.ndarray:
    return offset_hu if step == 1 else (offset_hu + np.int16(step // 2)) >> np.int16(step.bit_length() - 1)


def _remainders(values: np.ndarray) -> np.ndarray:
    """What the neighbors do not predict: (D, H, W) int16. Beyond the edge of a slice they are 0.

    The prediction is the median of left, above, and left + above - diagonal (Weinberger et al., IEEE Transactions on
    Image Processing 9(8) (2000) 1309-1324).
    """
    left, above, diagonal = (np.zeros_like(values) for _ in range(3))
    left[:, :, 1:] = values[:, :, :-1]
    above[:, 1:] = values[:, :-1]
    diagonal[:, 1:, 1:] = values[:, :-1, :-1]
    plane = left + above - diagonal
    return values - np.clip(plane, np.minimum(left, above), np.maximum(left, above))


def _expected_bytes(offset_hu: np.ndarray, step: int) -> float:
    """Size by the entropy of single values, which Huffman coding reaches nearly."""
    remainders = _remainders(_round(offset_hu, step))
    counts = np.bincount((remainders - remainders.min()).ravel())
    frequencies = counts[counts > 0] / remainders.size
    return float(-(frequencies * np.log2(frequencies)).sum()) * remainders.size / 8


def _pack(content: np.ndarray) -> str:
    """gzip as base64. Runs and Huffman coding alone: searching for repetitions in noise takes ten times as long."""
    packer = zlib.compressobj(level=6, wbits=zlib.MAX_WBITS | 16, strategy=zlib.Z_RLE)
    return base64.b64encode(packer.compress(content.data) + packer.flush()).decode("ascii")

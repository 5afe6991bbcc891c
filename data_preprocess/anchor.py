"""A point of the patient to which the networks' grid is fixed, found in the CT's voxels alone.

Neither the header's origin nor the ends of the scan move it. Its height is where the bone of skull and jaws ends and
the neck begins; in plane it is the center of the bone around that height. Bone lies under the skin, so that couch, head
holder, mask and clothes do not count.
"""

import numpy as np
from scipy import ndimage

from utils.imaging.intensity import MIN_TISSUE_HU
from utils.imaging.masks import largest_component

Triple = tuple[float, float, float]

ROUGH_MM = 8.0
"""Spacing of the samples on which the patient is told from the couch."""
ROUGH_MARGIN_VOX = 2
"""Voxels of that spacing around the patient, so that no bone is missed wherever the samples lie."""
MIN_BONE_HU = 250
REACH_MM = 25.0
"""Slices nearer than this to a height, weighted by a cosine bell, count for it; no others do."""
NECK_BONE_MM2 = 1500.0
"""A cross-section of skull and jaws has more bone, one of the neck less. In 102 scans of OpenKBP, of which half show
nothing above the eyes or below the larynx, all profiles cross it, and none elsewhere after 20 mm were cut off."""
HEAD_MM = 100.0
"""Height of the part of a scan without such a profile whose center is taken."""
STEPS_PER_VOX = 64
"""The anchor is rounded to this fraction of a voxel: sums that differ by rounding give the same grid."""


def find_anchor(image: np.ndarray, spacing_zyx_mm: Triple) -> Triple:
    """Find the anchor of a CT.

    Without the bone of a head, it is the center of the topmost part of the patient, or of the CT.

    Args:
        image: (D, H, W), HU, axes in LPS order.
        spacing_zyx_mm: its spacing.

    Returns:
        (z, y, x) in voxels from the outer edge of the first one: voxel i extends from i to i + 1.
    """
    patient = _RoughPatient(image, spacing_zyx_mm)
    weight = _bell(REACH_MM, spacing_zyx_mm[0])
    bone_mm2 = patient.areas(MIN_BONE_HU) * (spacing_zyx_mm[1] * spacing_zyx_mm[2])
    height = topmost_fall(smooth_profile(bone_mm2, weight), NECK_BONE_MM2)
    if height is not None:
        z = np.arange(len(image))
        weights = np.cos(np.clip((z - height) * spacing_zyx_mm[0] / REACH_MM, -1, 1) * np.pi / 2) ** 2
        y, x = patient.center(MIN_BONE_HU, weights)
    else:
        occupied = np.flatnonzero(patient.areas(MIN_TISSUE_HU))
        if not len(occupied):
            return tuple(n / 2 for n in image.shape)
        height = float(occupied[-1])
        y, x = patient.center(MIN_TISSUE_HU, np.arange(len(image)) > height - HEAD_MM / spacing_zyx_mm[0])
    return tuple(round((c + 0.5) * STEPS_PER_VOX) / STEPS_PER_VOX for c in (height, y, x))


def smooth_profile(profile: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted mean of each value of a profile (D,) and its neighbors; beyond the ends, values are 0.

    Args:
        profile: (D,).
        weight: (odd,), sums to 1.
    """
    return np.convolve(np.pad(profile, len(weight) // 2), weight, mode="valid")


def topmost_fall(profile: np.ndarray, level: float) -> float | None:
    """The highest index at which a profile (D,), from the top down, falls below a level, interpolated; or None."""
    crossings = np.flatnonzero((profile[1:] >= level) & (profile[:-1] < level))
    if not len(crossings):
        return None
    below = int(crossings[-1])
    return below + float((level - profile[below]) / (profile[below + 1] - profile[below]))


class _RoughPatient:
    """Where in a CT the patient is, give or take a centimeter or two."""

    def __init__(self, image: np.ndarray, spacing_zyx_mm: Triple) -> None:
        self.image = image
        strides = [max(1, int(ROUGH_MM / spacing)) for spacing in spacing_zyx_mm]
        dense = image[tuple(slice(None, None, stride) for stride in strides)] > MIN_TISSUE_HU
        core = ndimage.binary_erosion(dense, border_value=True)  # without the couch
        patient = largest_component(core if core.any() else dense, connectivity=1)
        self.inside = ndimage.binary_dilation(patient, iterations=1 + ROUGH_MARGIN_VOX)
        axes = zip(image.shape, strides, dense.shape, strict=True)
        self.nearest = [np.minimum((np.arange(n) + stride // 2) // stride, m - 1) for n, stride, m in axes]

    def areas(self, min_hu: float) -> np.ndarray:
        """Number of denser voxels in every slice, (D,) float."""
        return np.array([np.count_nonzero(self._denser(z, min_hu)) for z in range(len(self.image))], dtype=float)

    def center(self, min_hu: float, weights: np.ndarray) -> tuple[float, float]:
        """Mean position (y, x) of denser voxels, in voxels; slices count as much as `weights` (D,)."""
        _, height, width = self.image.shape
        moments = np.zeros(3)
        for z in np.flatnonzero(weights):
            denser = self._denser(z, min_hu)
            rows, columns = denser.sum(axis=1), denser.sum(axis=0)
            moments += weights[z] * np.array([rows.sum(), rows @ np.arange(height), columns @ np.arange(width)])
        return float(moments[1] / moments[0]), float(moments[2] / moments[0])

    def _denser(self, z: int, min_hu: float) -> np.ndarray:
        """(H, W) bool: the patient's voxels of a slice above a threshold."""
        slices, rows, columns = self.nearest
        return (self.image[z] > min_hu) & self.inside[slices[z]][rows][:, columns]


def _bell(reach_mm: float, spacing_mm: float) -> np.ndarray:
    """A cosine bell whose values sum to 1, sampled at multiples of a spacing."""
    reach = int(reach_mm / spacing_mm)
    weight = np.cos(np.arange(-reach, reach + 1) * spacing_mm / reach_mm * np.pi / 2) ** 2
    return weight / weight.sum()

"""A point of the patient to which the networks' grid is fixed, found in the CT's voxels alone.

Neither the header's origin nor the ends of the scan move it. Its height is where the bone of skull and jaws ends and
the neck begins; in plane it is the center of the bone around that height. Bone lies under the skin, so that couch, head
holder, mask and clothes do not count. Without bone, what lies deepest under the skin takes its place.
"""

import numpy as np
from scipy import ndimage

from data_preprocess.patient_components import patient_components
from utils.imaging.intensity import MIN_TISSUE_HU
from utils.imaging.masks import bounding_box

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
"""Height of the part of a scan without such a profile whose core is taken."""
CORE_MM = 3.0
"""The core is found on samples at most this far apart."""
CORE = 0.75
"""Depth under the skin, as a share of the greatest one, from which on voxels belong to the core."""
HEAD_DEPTH_MM = 20.0
"""The upper part begins at the highest slice with anything so deep under the skin."""
TOP_RADIUS_MM = 15.0
"""The patient's top is that of the part nearer than this, in plane, to the center of the core."""
STEPS_PER_VOX = 64
"""The anchor is rounded to this fraction of a voxel: sums that differ by rounding give the same grid."""


def find_anchor(image: np.ndarray, spacing_zyx_mm: Triple) -> Triple:
    """Find the anchor of a CT.

    Without the bone of a head, it is the top of the patient above the core of the topmost part, or the CT's center.

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
        top = patient.top()
        if top is None:
            return tuple(n / 2 for n in image.shape)
        height, y, x = top
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
        self.image, self.spacing_zyx_mm = image, spacing_zyx_mm
        strides = [max(1, int(ROUGH_MM / spacing)) for spacing in spacing_zyx_mm]
        dense = image[tuple(slice(None, None, stride) for stride in strides)] > MIN_TISSUE_HU
        core = ndimage.binary_erosion(dense, border_value=True)  # without the couch
        patient = patient_components(core if core.any() else dense)
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

    def top(self) -> Triple | None:
        """The top of the patient above the core of its upper part, (z, y, x) in voxels; None without a patient.

        Couch and holder are thin and lie at the skin. They hardly change how deep the core lies.
        """
        tissue = np.stack([self._denser(z, MIN_TISSUE_HU) for z in range(len(self.image))])
        box = bounding_box(tissue)
        if box is None:
            return None
        steps = [max(1, int(CORE_MM / spacing)) for spacing in self.spacing_zyx_mm]
        # samples through the middle of the patient: the ends of the CT do not move them
        firsts = [(axis.start + axis.stop) // 2 % step for axis, step in zip(box, steps, strict=True)]
        samples = tuple(slice(first, None, step) for first, step in zip(firsts, steps, strict=True))
        core = _upper_core(tissue[samples], np.multiply(steps, self.spacing_zyx_mm))
        y, x = (float(firsts[axis] + steps[axis] * core[axis - 1]) for axis in (1, 2))
        rows, columns = np.ogrid[: tissue.shape[1], : tissue.shape[2]]
        from_core_mm = np.hypot((rows - y) * self.spacing_zyx_mm[1], (columns - x) * self.spacing_zyx_mm[2])
        above = tissue[:, from_core_mm <= TOP_RADIUS_MM].any(axis=1)
        return (np.flatnonzero(above)[-1] if above.any() else box[0].stop - 1) + 0.5, y, x

    def _denser(self, z: int, min_hu: float) -> np.ndarray:
        """(H, W) bool: the patient's voxels of a slice above a threshold."""
        slices, rows, columns = self.nearest
        return (self.image[z] > min_hu) & self.inside[slices[z]][rows][:, columns]


def _upper_core(tissue: np.ndarray, spacing_zyx_mm: np.ndarray) -> tuple[float, float]:
    """Center (y, x), in voxels, of what lies deepest under the skin in the upper part of tissue (d, h, w)."""
    # beyond the ends of the scan there is no air
    depth_mm = (
        np.ones(tissue.shape) if tissue.all() else ndimage.distance_transform_edt(tissue, sampling=spacing_zyx_mm)
    )
    is_deep = depth_mm.max(axis=(1, 2)) >= min(HEAD_DEPTH_MM, depth_mm.max() / 2)
    highest = int(np.flatnonzero(is_deep)[-1])
    upper = depth_mm[max(0, highest - int(HEAD_MM / spacing_zyx_mm[0])) : highest + 1]
    _, y, x = ndimage.center_of_mass(np.clip(upper - CORE * upper.max(), 0, None))
    return y, x


def _bell(reach_mm: float, spacing_mm: float) -> np.ndarray:
    """A cosine bell whose values sum to 1, sampled at multiples of a spacing."""
    reach = int(reach_mm / spacing_mm)
    weight = np.cos(np.arange(-reach, reach + 1) * spacing_mm / reach_mm * np.pi / 2) ** 2
    return weight / weight.sum()

"""Resampling between voxel spacings and grids.

Between spacings, output voxel i lies at start + (i + 0.5) * spacing mm from the volume's outer edge.
"""

import math
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.io.volumes import Volume, to_sitk

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

SAME_SPACING_TOLERANCE = 1e-3
SIMILAR_SPACING_TOLERANCE = 0.15
"""Enough for a gantry that was tilted by 30 degrees, whose slices are closer by the cosine of the tilt."""
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


class Target(NamedTuple):
    """A box of voxels of another spacing in a volume."""

    size_zyx: Size
    start_zyx_mm: Triple
    """Its outer edge, from that of the volume."""


def whole_volume(size_zyx: Size, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> Target:
    """Voxels of another spacing that cover the same extent, at least one per axis."""
    extents = zip(size_zyx, spacing_zyx_mm, new_spacing_zyx_mm, strict=True)
    return Target(tuple(max(1, round(n * old / new)) for n, old, new in extents), (0.0, 0.0, 0.0))


def resample_image(
    image: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple, target: Target | None = None
) -> np.ndarray:
    """Resample a CT (D, H, W) linearly; axes that become coarser are smoothed first, so that noise does not alias.

    Returns:
        The target's voxels, of the same dtype; by default those of the whole volume. Beyond the volume its border is
        repeated.
    """
    target = target or whole_volume(image.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    if _changes_nothing(image, spacing_zyx_mm, new_spacing_zyx_mm, target):
        return image
    smoothed = _smooth(_on_edge_grid(image.astype(np.float32), spacing_zyx_mm), new_spacing_zyx_mm)
    resampled = _resample(smoothed, _edge_grid(*target, new_spacing_zyx_mm), sitk.sitkLinear)
    return np.round(resampled).astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else resampled


def resample_labels(
    labels: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple, target: Target | None = None
) -> np.ndarray:
    """Resample a label map (D, H, W) uint8: each voxel takes the label with the largest interpolated weight.

    Returns:
        The target's voxels, as `resample_image`.
    """
    target = target or whole_volume(labels.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    if _changes_nothing(labels, spacing_zyx_mm, new_spacing_zyx_mm, target):
        return labels
    return _resample(
        _on_edge_grid(labels, spacing_zyx_mm), _edge_grid(*target, new_spacing_zyx_mm), sitk.sitkLabelLinear
    )


def resample_axis_aligned(volume: Volume, network_spacing_zyx_mm: Triple) -> Volume:
    """Rotate an oblique CT, whose axes are in LPS order, so that they are the patient's.

    Args:
        volume: the CT.
        network_spacing_zyx_mm: a similar spacing of the CT is replaced by it. The networks' grid then takes the rotated
            voxels as they are; to interpolate them again would blur them.

    Returns:
        The CT on a grid that contains all of it, with air beyond. Cubic B-splines interpolate, since linear
        interpolation would blur small organs.
    """
    spacings = zip(volume.geometry.spacing_zyx_mm, network_spacing_zyx_mm, strict=True)
    spacing = tuple(new if abs(old / new - 1) < SIMILAR_SPACING_TOLERANCE else old for old, new in spacings)
    corners = volume.geometry.corners_mm()
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size_xyz = np.ceil((high - low) / spacing[::-1] - 1e-6).astype(int) + 1
    aligned = Geometry(
        size_zyx=tuple(size_xyz[::-1].tolist()),
        spacing_zyx_mm=spacing,
        origin_xyz_mm=tuple(low.tolist()),
    )
    array = _resample(to_sitk(volume), aligned, sitk.sitkBSpline, fill=AIR_HU)
    return Volume(array=array.clip(volume.array.min(), volume.array.max()), geometry=aligned)


def resample_to(volume: Volume, geometry: Geometry) -> np.ndarray:
    """Resample onto any other grid: labels (uint8) by largest weight, floats linearly; 0 beyond the volume."""
    is_label = np.issubdtype(volume.array.dtype, np.integer)
    interpolator = sitk.sitkLabelLinear if is_label else sitk.sitkLinear
    return _resample(to_sitk(volume), geometry, interpolator, fill=0)


def _changes_nothing(array: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple, target: Target) -> bool:
    same_spacing = np.allclose(spacing_zyx_mm, new_spacing_zyx_mm, rtol=SAME_SPACING_TOLERANCE, atol=0)
    return same_spacing and array.shape == target.size_zyx and not any(target.start_zyx_mm)


def _edge_grid(size_zyx: Size, start_zyx_mm: Triple, spacing_zyx_mm: Triple) -> Geometry:
    """The grid whose first voxel begins at a position."""
    spacing = tuple(float(s) for s in spacing_zyx_mm)
    origin = tuple(start + 0.5 * s for start, s in zip(start_zyx_mm, spacing, strict=True))
    return Geometry(size_zyx=size_zyx, spacing_zyx_mm=spacing, origin_xyz_mm=origin[::-1])


def _on_edge_grid(array: np.ndarray, spacing_zyx_mm: Triple) -> sitk.Image:
    return to_sitk(Volume(array=array, geometry=_edge_grid(array.shape, (0.0, 0.0, 0.0), spacing_zyx_mm)))


def _smooth(image: sitk.Image, new_spacing_zyx_mm: Triple) -> sitk.Image:
    """Smooth along each axis with a Gaussian whose full width at half maximum fills the gap to the new spacing."""
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), new_spacing_zyx_mm[::-1], strict=True)):
        if new > old * (1 + SAME_SPACING_TOLERANCE) and image.GetSize()[axis] >= 4:
            sigma_mm = math.sqrt(new**2 - old**2) / FWHM_PER_SIGMA
            image = sitk.RecursiveGaussian(image, sigma_mm, direction=axis)
    return image


def _resample(image: sitk.Image, grid: Geometry, interpolator: int, fill: float | None = None) -> np.ndarray:
    """Resample onto a grid; beyond the image its border is repeated, or voxels are `fill`."""
    resampled = sitk.Resample(
        image,
        size=[int(n) for n in grid.size_zyx[::-1]],
        interpolator=interpolator,
        outputOrigin=grid.origin_xyz_mm,
        outputSpacing=grid.spacing_zyx_mm[::-1],
        outputDirection=grid.direction,
        defaultPixelValue=fill or 0,
        useNearestNeighborExtrapolator=fill is None,
    )
    return sitk.GetArrayFromImage(resampled)

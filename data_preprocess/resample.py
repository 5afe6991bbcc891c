"""Resampling between voxel spacings and grids.

Between spacings, both grids begin at the same edge: output voxel i lies at (i + 0.5) * spacing mm from it. The way back
is the same formula with the spacings exchanged.
"""

import math

import numpy as np
import SimpleITK as sitk

from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.io.volumes import Volume, to_sitk

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

SAME_SPACING_TOLERANCE = 1e-3
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


def resampled_size(size_zyx: Size, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> Size:
    """Number of voxels that cover the same extent at another spacing, at least one per axis."""
    extents = zip(size_zyx, spacing_zyx_mm, new_spacing_zyx_mm, strict=True)
    return tuple(max(1, round(n * old / new)) for n, old, new in extents)


def resample_image(image: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> np.ndarray:
    """Resample a CT (D, H, W) linearly; axes that become coarser are smoothed first, so that noise does not alias.

    Returns:
        (D', H', W') of the same dtype; beyond the volume its border is repeated.
    """
    if _same(spacing_zyx_mm, new_spacing_zyx_mm):
        return image
    smoothed = _smooth(_on_edge_grid(image.astype(np.float32), spacing_zyx_mm), new_spacing_zyx_mm)
    size = resampled_size(image.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    resampled = _resample(smoothed, _edge_grid(size, new_spacing_zyx_mm), sitk.sitkLinear)
    return np.round(resampled).astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else resampled


def resample_labels(labels: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> np.ndarray:
    """Resample a label map (D, H, W) uint8: each voxel takes the label with the largest interpolated weight."""
    if _same(spacing_zyx_mm, new_spacing_zyx_mm):
        return labels
    size = resampled_size(labels.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    return _resample(_on_edge_grid(labels, spacing_zyx_mm), _edge_grid(size, new_spacing_zyx_mm), sitk.sitkLabelLinear)


def resample_axis_aligned(volume: Volume) -> Volume:
    """Rotate an oblique CT, whose axes are in LPS order, so that they are the patient's.

    Returns:
        The CT on a grid of the same spacings that contains all of it, with air beyond. Cubic B-splines interpolate,
        since linear interpolation would blur small organs.
    """
    geometry = volume.geometry
    corners = geometry.corners_mm()
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    size_xyz = np.ceil((high - low) / geometry.spacing_zyx_mm[::-1] - 1e-6).astype(int) + 1
    aligned = Geometry(
        size_zyx=tuple(size_xyz[::-1].tolist()),
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        origin_xyz_mm=tuple(low.tolist()),
    )
    array = _resample(to_sitk(volume), aligned, sitk.sitkBSpline, fill=AIR_HU)
    return Volume(array=array.clip(volume.array.min(), volume.array.max()), geometry=aligned)


def resample_to(volume: Volume, geometry: Geometry) -> np.ndarray:
    """Resample onto any other grid: labels (uint8) by largest weight, floats linearly; 0 beyond the volume."""
    is_label = np.issubdtype(volume.array.dtype, np.integer)
    interpolator = sitk.sitkLabelLinear if is_label else sitk.sitkLinear
    return _resample(to_sitk(volume), geometry, interpolator, fill=0)


def _same(spacing: Triple, other: Triple) -> bool:
    return bool(np.allclose(spacing, other, rtol=SAME_SPACING_TOLERANCE, atol=0))


def _edge_grid(size_zyx: Size, spacing_zyx_mm: Triple) -> Geometry:
    """The grid whose first voxel begins at 0 mm."""
    spacing = tuple(float(s) for s in spacing_zyx_mm)
    return Geometry(size_zyx=size_zyx, spacing_zyx_mm=spacing, origin_xyz_mm=tuple(0.5 * s for s in spacing[::-1]))


def _on_edge_grid(array: np.ndarray, spacing_zyx_mm: Triple) -> sitk.Image:
    return to_sitk(Volume(array=array, geometry=_edge_grid(array.shape, spacing_zyx_mm)))


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

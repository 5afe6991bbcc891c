"""Resampling between voxel spacings and grids.

Between spacings, both grids begin at the same edge: output voxel i lies at (i + 0.5) * spacing mm from it. The way back
is the same formula with the spacings exchanged.
"""

import math

import numpy as np
import SimpleITK as sitk

from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.io.volumes import Volume

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

SAME_SPACING_TOLERANCE = 1e-3
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


def resampled_size(size_zyx: Size, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> Size:
    """Number of voxels that cover the same extent at another spacing, at least one per axis."""
    extents = zip(size_zyx, spacing_zyx_mm, new_spacing_zyx_mm, strict=True)
    return tuple(max(1, round(n * old / new)) for n, old, new in extents)


def resample_image(image: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> np.ndarray:
    """Resample a CT linearly; axes that become coarser are smoothed first, so that noise does not alias.

    Args:
        image: (D, H, W), HU.
        spacing_zyx_mm: its spacing.
        new_spacing_zyx_mm: the target's spacing.

    Returns:
        (D', H', W') of the same dtype; beyond the volume its border is repeated.
    """
    if _same(spacing_zyx_mm, new_spacing_zyx_mm):
        return image
    smoothed = _smooth(_to_image(image.astype(np.float32), _edge_grid(image.shape, spacing_zyx_mm)), new_spacing_zyx_mm)
    size = resampled_size(image.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    resampled = _resample(smoothed, _edge_grid(size, new_spacing_zyx_mm), sitk.sitkLinear)
    return np.round(resampled).astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else resampled


def resample_labels(labels: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> np.ndarray:
    """Resample a label map: each voxel takes the label with the largest linearly interpolated weight.

    Args:
        labels: (D, H, W) uint8.
        spacing_zyx_mm: its spacing.
        new_spacing_zyx_mm: the target's spacing.

    Returns:
        (D', H', W') uint8.
    """
    if _same(spacing_zyx_mm, new_spacing_zyx_mm):
        return labels
    size = resampled_size(labels.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    image = _to_image(labels, _edge_grid(labels.shape, spacing_zyx_mm))
    return _resample(image, _edge_grid(size, new_spacing_zyx_mm), sitk.sitkLabelLinear)


def resample_axis_aligned(volume: Volume) -> Volume:
    """Rotate an oblique CT so that its axes are the patient's.

    Args:
        volume: HU, axes in LPS order with a residual rotation.

    Returns:
        The CT on a grid of the same spacings that contains all of it, with air beyond. Cubic B-splines interpolate,
        since linear interpolation would blur small organs.
    """
    geometry = volume.geometry
    last = np.array([n - 1 for n in geometry.size_zyx])
    corners = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1).reshape(-1, 3)
    points_xyz_mm = np.array([geometry.world_mm(tuple(corner)) for corner in corners])
    low, high = points_xyz_mm.min(axis=0), points_xyz_mm.max(axis=0)
    size_xyz = np.ceil((high - low) / geometry.spacing_zyx_mm[::-1] - 1e-6).astype(int) + 1
    aligned = Geometry(
        size_zyx=tuple(size_xyz[::-1].tolist()),
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        origin_xyz_mm=tuple(low.tolist()),
    )
    array = _resample(_to_image(volume.array, geometry), aligned, sitk.sitkBSpline, fill=AIR_HU)
    return Volume(array=array.clip(volume.array.min(), volume.array.max()), geometry=aligned)


def resample_to(volume: Volume, geometry: Geometry) -> np.ndarray:
    """Resample a volume onto any other grid: labels (integers) by largest weight, other values linearly.

    Args:
        volume: uint8 or floating point.
        geometry: of the other grid.

    Returns:
        (D, H, W) of the same dtype; 0 beyond the volume.
    """
    is_label = np.issubdtype(volume.array.dtype, np.integer)
    interpolator = sitk.sitkLabelLinear if is_label else sitk.sitkLinear
    return _resample(_to_image(volume.array, volume.geometry), geometry, interpolator, fill=0)


def _same(spacing: Triple, other: Triple) -> bool:
    return bool(np.allclose(spacing, other, rtol=SAME_SPACING_TOLERANCE, atol=0))


def _edge_grid(size_zyx: Size, spacing_zyx_mm: Triple) -> Geometry:
    """The grid whose first voxel begins at 0 mm."""
    spacing = tuple(float(s) for s in spacing_zyx_mm)
    return Geometry(size_zyx=size_zyx, spacing_zyx_mm=spacing, origin_xyz_mm=tuple(0.5 * s for s in spacing[::-1]))


def _to_image(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(geometry.origin_xyz_mm)
    image.SetDirection(geometry.direction)
    return image


def _smooth(image: sitk.Image, new_spacing_zyx_mm: Triple) -> sitk.Image:
    """Smooth along each axis with a Gaussian whose full width at half maximum fills the gap to the new spacing."""
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), new_spacing_zyx_mm[::-1], strict=True)):
        if new > old * (1 + SAME_SPACING_TOLERANCE) and image.GetSize()[axis] >= 4:
            sigma_mm = math.sqrt(new**2 - old**2) / FWHM_PER_SIGMA
            image = sitk.RecursiveGaussian(image, sigma_mm, direction=axis)
    return image


def _resample(image: sitk.Image, grid: Geometry, interpolator: int, fill: float | None = None) -> np.ndarray:
    """Resample onto a grid; beyond the image its border is repeated, or voxels are `fill`."""
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(interpolator)
    filter_.SetSize([int(n) for n in grid.size_zyx[::-1]])
    filter_.SetOutputSpacing(grid.spacing_zyx_mm[::-1])
    filter_.SetOutputOrigin(grid.origin_xyz_mm)
    filter_.SetOutputDirection(grid.direction)
    filter_.SetUseNearestNeighborExtrapolator(fill is None)
    filter_.SetDefaultPixelValue(fill or 0)
    return sitk.GetArrayFromImage(filter_.Execute(image))

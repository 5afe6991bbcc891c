"""Resampling between voxel spacings.

Grids are aligned at the outer edge of their first voxel: output voxel i lies at (i + 0.5) * spacing mm, whatever the
spacing, so that going to another spacing and back is the same formula with the roles exchanged.
"""

import math

import numpy as np
import SimpleITK as sitk

from utils.imaging.geometry import IDENTITY_DIRECTION, Geometry
from utils.imaging.intensity import AIR_HU
from utils.io.volumes import Volume

Triple = tuple[float, float, float]
Size = tuple[int, int, int]

SAME_SPACING_TOLERANCE = 1e-3
FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


def resampled_size(size_zyx: Size, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> Size:
    """Voxels that cover the same extent at another spacing, at least one per axis."""
    extents = zip(size_zyx, spacing_zyx_mm, new_spacing_zyx_mm, strict=True)
    return tuple(max(1, round(n * old / new)) for n, old, new in extents)


def resample_image(image: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> np.ndarray:
    """Resample a CT linearly, smoothing first along axes that become coarser so that noise does not alias.

    Args:
        image: (D, H, W), HU.
        spacing_zyx_mm: its spacing.
        new_spacing_zyx_mm: the target.

    Returns:
        (D', H', W') of the same dtype; beyond the volume its border is repeated.
    """
    if _same(spacing_zyx_mm, new_spacing_zyx_mm):
        return image
    smoothed = _smooth(_to_image(image.astype(np.float32), spacing_zyx_mm), new_spacing_zyx_mm)
    size = resampled_size(image.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    resampled = _resample(smoothed, size, new_spacing_zyx_mm, sitk.sitkLinear)
    return np.round(resampled).astype(image.dtype) if np.issubdtype(image.dtype, np.integer) else resampled


def resample_labels(
    labels: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple, size_zyx: Size | None = None
) -> np.ndarray:
    """Resample a label map: each voxel takes the label with the largest linearly interpolated share.

    Args:
        labels: (D, H, W) uint8.
        spacing_zyx_mm: its spacing.
        new_spacing_zyx_mm: the target.
        size_zyx: the target's size; None covers the same extent.

    Returns:
        (D', H', W') uint8.
    """
    size = size_zyx or resampled_size(labels.shape, spacing_zyx_mm, new_spacing_zyx_mm)
    if _same(spacing_zyx_mm, new_spacing_zyx_mm) and tuple(size) == labels.shape:
        return labels
    return _resample(_to_image(labels, spacing_zyx_mm), size, new_spacing_zyx_mm, sitk.sitkLabelLinear)


def resample_axis_aligned(volume: Volume) -> Volume:
    """Turn an oblique CT so that its axes are the patient's.

    Args:
        volume: HU, axes in LPS order with a residual rotation.

    Returns:
        The CT on a grid of the same spacings that holds all of it, interpolated by cubic B-splines, since linear
        interpolation would blur small organs away; air beyond.
    """
    geometry = volume.geometry
    last = np.array([n - 1 for n in geometry.size_zyx])
    corners = np.stack(np.meshgrid(*[(0, n) for n in last], indexing="ij"), -1).reshape(-1, 3)
    points_xyz_mm = np.array([geometry.world_mm(tuple(corner)) for corner in corners])
    low, high = points_xyz_mm.min(axis=0), points_xyz_mm.max(axis=0)
    size_xyz = np.ceil((high - low) / geometry.spacing_zyx_mm[::-1] - 1e-6).astype(int) + 1
    straight = Geometry(
        size_zyx=tuple(size_xyz[::-1].tolist()),
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        origin_xyz_mm=tuple(low.tolist()),
        direction=IDENTITY_DIRECTION,
    )
    array = _resample_onto(volume, straight, sitk.sitkBSpline, AIR_HU)
    return Volume(array=array.clip(volume.array.min(), volume.array.max()), geometry=straight)


def resample_to(volume: Volume, geometry: Geometry) -> np.ndarray:
    """Carry a volume over to any other grid: labels (integers) by largest share, other values linearly.

    Args:
        volume: uint8 or floating point.
        geometry: of the other grid.

    Returns:
        (D, H, W) of the same dtype; 0 beyond the volume.
    """
    is_label = np.issubdtype(volume.array.dtype, np.integer)
    return _resample_onto(volume, geometry, sitk.sitkLabelLinear if is_label else sitk.sitkLinear, 0)


def _resample_onto(volume: Volume, geometry: Geometry, interpolator: int, fill: float) -> np.ndarray:
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(volume.geometry.origin_xyz_mm)
    image.SetDirection(volume.geometry.direction)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(interpolator)
    filter_.SetSize([int(n) for n in geometry.size_zyx[::-1]])
    filter_.SetOutputSpacing(geometry.spacing_zyx_mm[::-1])
    filter_.SetOutputOrigin(geometry.origin_xyz_mm)
    filter_.SetOutputDirection(geometry.direction)
    filter_.SetDefaultPixelValue(fill)
    return sitk.GetArrayFromImage(filter_.Execute(image))


def _same(spacing: Triple, other: Triple) -> bool:
    return bool(np.allclose(spacing, other, rtol=SAME_SPACING_TOLERANCE, atol=0))


def _to_image(array: np.ndarray, spacing_zyx_mm: Triple) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(s) for s in spacing_zyx_mm[::-1]])
    image.SetOrigin([0.5 * s for s in spacing_zyx_mm[::-1]])
    return image


def _smooth(image: sitk.Image, new_spacing_zyx_mm: Triple) -> sitk.Image:
    """Gaussian whose width at half maximum fills the gap between the old and the new voxel, per axis."""
    for axis, (old, new) in enumerate(zip(image.GetSpacing(), new_spacing_zyx_mm[::-1], strict=True)):
        if new > old * (1 + SAME_SPACING_TOLERANCE) and image.GetSize()[axis] >= 4:
            sigma_mm = math.sqrt(new**2 - old**2) / FWHM_PER_SIGMA
            image = sitk.RecursiveGaussian(image, sigma_mm, direction=axis)
    return image


def _resample(image: sitk.Image, size_zyx: Size, spacing_zyx_mm: Triple, interpolator: int) -> np.ndarray:
    filter_ = sitk.ResampleImageFilter()
    filter_.SetInterpolator(interpolator)
    filter_.SetSize([int(n) for n in size_zyx[::-1]])
    filter_.SetOutputSpacing([float(s) for s in spacing_zyx_mm[::-1]])
    filter_.SetOutputOrigin([0.5 * s for s in spacing_zyx_mm[::-1]])
    filter_.SetUseNearestNeighborExtrapolator(True)
    return sitk.GetArrayFromImage(filter_.Execute(image))

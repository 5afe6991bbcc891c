"""Linear resampling of a volume from one grid in the patient to a part of another."""

import numpy as np
from scipy import ndimage

from utils.imaging.geometry import Geometry

Box = tuple[slice, slice, slice]


def extent_on(geometry: Geometry, other: Geometry, box: Box) -> np.ndarray:
    """How a box of voxels of another grid extends on a grid.

    Args:
        geometry: the grid.
        other: the other grid.
        box: in the other grid, not empty.

    Returns:
        (2, 3) lowest and highest fractional index (z, y, x) on the grid `geometry` of the box's corner voxels.
    """
    matrix = geometry.index_from(other)
    ends = [(axis.start, axis.stop - 1) for axis in box]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    reached = corners @ matrix[:, :3].T + matrix[:, 3]
    return np.stack([reached.min(axis=0), reached.max(axis=0)])


def resample_box(array: np.ndarray, geometry: Geometry, other: Geometry, box: Box, fill: float) -> np.ndarray:
    """Resample a volume to a box of voxels of another grid; voxels of grids that match are copied.

    Args:
        array: (D, H, W), any numeric dtype.
        geometry: its grid.
        other: the other grid.
        box: in the other grid.
        fill: value beyond the volume.

    Returns:
        (d, h, w), the box; float32 if it was resampled, else of the array's dtype.
    """
    if geometry.matches(other):
        return array[box]
    matrix = geometry.index_from(other)
    start = np.array([axis.start for axis in box])
    size = tuple(axis.stop - axis.start for axis in box)
    low, high = extent_on(geometry, other, box)
    first = np.clip(np.floor(low).astype(int) - 1, 0, array.shape)
    last = np.clip(np.ceil(high).astype(int) + 2, 0, array.shape)
    if np.any(last <= first):
        return np.full(size, fill, dtype=np.float32)
    part = array[tuple(slice(a, b) for a, b in zip(first, last, strict=True))].astype(np.float32)
    offset = matrix[:, :3] @ start + matrix[:, 3] - first
    return ndimage.affine_transform(part, matrix[:, :3], offset=offset, output_shape=size, order=1, cval=fill)

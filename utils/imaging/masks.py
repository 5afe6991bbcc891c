"""Masks on a voxel grid, cropped to their voxels; bounding boxes, connected components, resampling."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from utils.imaging.geometry import Geometry

UNKNOWN_LABEL = 255
"""Ignore label: the loss leaves out voxels of a label map with this value."""


class Mask(NamedTuple):
    """A binary mask, stored cropped to its bounding box, since most organs fill a thousandth of the scan."""

    voxels: np.ndarray
    """bool (d, h, w); (0, 0, 0) if the mask is empty."""
    corner_zyx: tuple[int, int, int]
    """Index of the first voxel in the whole grid."""
    geometry: Geometry
    """Of the whole grid."""

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The bounding box in the whole grid."""
        return tuple(slice(c, c + n) for c, n in zip(self.corner_zyx, self.voxels.shape, strict=True))

    def dense(self) -> np.ndarray:
        """The mask on the whole grid, bool (D, H, W)."""
        whole = np.zeros(self.geometry.size_zyx, dtype=bool)
        whole[self.box] = self.voxels
        return whole


def empty_mask(geometry: Geometry) -> Mask:
    """A mask without voxels."""
    return Mask(np.zeros((0, 0, 0), dtype=bool), (0, 0, 0), geometry)


def crop_mask(voxels: np.ndarray, corner_zyx: tuple[int, int, int], geometry: Geometry) -> Mask:
    """Crop a mask to its bounding box.

    Args:
        voxels: (d, h, w), non-zero = inside; a part of the grid.
        corner_zyx: index of this part's first voxel in the grid.
        geometry: of the whole grid.
    """
    box = bounding_box(voxels)
    if box is None:
        return empty_mask(geometry)
    corner = tuple(start + axis.start for start, axis in zip(corner_zyx, box, strict=True))
    return Mask(np.ascontiguousarray(voxels[box] != 0), corner, geometry)


def bounding_box(voxels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds every non-zero voxel of a (D, H, W) array, or None if it has none."""
    box = ()
    for others in ((1, 2), (0, 2), (0, 1)):  # one axis after the other, in what the axes before it leave
        occupied = np.flatnonzero(voxels[box].max(axis=others, initial=0))
        if not len(occupied):
            return None
        box += (slice(int(occupied[0]), int(occupied[-1]) + 1),)
    return box


class Components(NamedTuple):
    """The connected components of a mask."""

    labels: np.ndarray
    """int32 of the mask's shape: 0 outside of the mask, i + 1 in component i."""
    sizes: np.ndarray
    """(num_components,) int: voxels of each."""

    def select(self, selected: np.ndarray) -> np.ndarray:
        """The union of the components that a (num_components,) bool selects, bool of the mask's shape."""
        return np.concatenate([[False], selected])[self.labels]


def connected_components(mask: np.ndarray, *, connectivity: int) -> Components:
    """Find the connected components of a mask, in order of their first voxels.

    Args:
        mask: any number of axes, non-zero = inside.
        connectivity: 1 joins voxels that share a face (in 2-D an edge); the number of axes also joins those that share
            an edge or only a corner.
    """
    structure = ndimage.generate_binary_structure(mask.ndim, connectivity)
    labels, _ = ndimage.label(mask, structure)
    return Components(labels, np.bincount(labels.ravel())[1:])


def largest_component(mask: np.ndarray, *, connectivity: int) -> np.ndarray:
    """The connected component of a bool mask with the most voxels, of equals the first; the mask if it has only one."""
    components = connected_components(mask, connectivity=connectivity)
    return mask if len(components.sizes) < 2 else components.labels == 1 + components.sizes.argmax()


def crop_to_common_box(*masks: Mask) -> list[np.ndarray]:
    """Crop masks of one grid to the bounding box of their union.

    Returns:
        bool (d, h, w) each, all of one shape; (0, 0, 0) if every mask is empty.
    """
    filled = [mask for mask in masks if mask.voxels.size]
    if not filled:
        return [mask.voxels for mask in masks]
    start = np.min([mask.corner_zyx for mask in filled], axis=0)
    stop = np.max([np.add(mask.corner_zyx, mask.voxels.shape) for mask in filled], axis=0)
    joined = [np.zeros(stop - start, dtype=bool) for _ in masks]
    for target, mask in zip(joined, masks, strict=True):
        target[mask._replace(corner_zyx=np.subtract(mask.corner_zyx, start)).box] = mask.voxels
    return joined


def resample_mask(mask: Mask, geometry: Geometry) -> Mask:
    """Resample a mask to another grid, which cuts it off, by linear interpolation and a threshold of one half.

    A mask on a grid that matches the other is returned as it is.
    """
    if mask.geometry.matches(geometry):
        return mask
    if not mask.voxels.size:
        return empty_mask(geometry)
    matrix = mask.geometry.index_from(geometry)
    to_own, shift = matrix[:, :3], matrix[:, 3]
    corners = np.array(list(itertools.product(*[(axis.start - 1, axis.stop) for axis in mask.box])))
    reached = np.linalg.solve(to_own, (corners - shift).T).T
    start = np.clip(np.floor(reached.min(axis=0)).astype(int), 0, geometry.size_zyx)
    stop = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 1, 0, geometry.size_zyx)
    if np.any(stop <= start):
        return empty_mask(geometry)
    interpolated = ndimage.affine_transform(
        np.pad(mask.voxels, 1).astype(np.float32),
        to_own,
        offset=to_own @ start + shift - mask.corner_zyx + 1,
        output_shape=tuple(stop - start),
        order=1,
    )
    return crop_mask(interpolated >= 0.5, tuple(start.tolist()), geometry)

"""The patient's bounding box, from the CT alone: never from labels, so that it exists for an unlabelled CT."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from utils.mask_grids import Mask

BODY_HU = -300
COARSE_MM = 4.0
OPENING_MM = 12.0
"""Thinner things are cut off: the table's shell, a mask, tubes."""
MARGIN_MM = 10.0
PHASE = 0.37
"""Where between two voxels the coarse grid's origin is rounded; few scans lie just there."""

Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]


class CoarseGrid(NamedTuple):
    """Every so many-th voxel of a CT, about 4 mm apart, since boxes need no finer."""

    first_vox: tuple[int, int, int]
    stride_vox: tuple[int, int, int]
    spacing_zyx_mm: Triple

    def sample(self, image: np.ndarray) -> np.ndarray:
        """The voxels of `image` (D, H, W) that lie on the grid, a view."""
        return image[tuple(slice(a, None, n) for a, n in zip(self.first_vox, self.stride_vox, strict=True))]

    def to_voxel(self, index: int, axis: int) -> int:
        """The CT's voxel index of a sample."""
        return int(self.first_vox[axis] + index * self.stride_vox[axis])


def coarse_grid(spacing_zyx_mm: Triple, origin_vox: Triple = (0.0, 0.0, 0.0)) -> CoarseGrid:
    """Lay the coarse grid over a CT.

    Args:
        spacing_zyx_mm: of the CT.
        origin_vox: where the CT's first voxel lies in the patient, in voxels: two cut-outs of one scan get samples at
            the same places.
    """
    stride = tuple(max(1, int(COARSE_MM / spacing)) for spacing in spacing_zyx_mm)
    first = tuple(-int(np.floor(o + PHASE)) % n for o, n in zip(origin_vox, stride, strict=True))
    return CoarseGrid(first, stride, tuple(np.multiply(stride, spacing_zyx_mm).tolist()))


@dataclass(frozen=True)
class CoarseBody:
    """The body on a grid of about 4 mm: neither a box nor a check of masks needs a finer one.

    Attributes:
        inside: bool (d, h, w).
        stride: voxels of the CT per voxel here, (z, y, x).
        size_zyx: of the CT.
        spacing_zyx_mm: of the CT.
    """

    inside: np.ndarray
    stride: tuple[int, int, int]
    size_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]

    @property
    def box(self) -> Box:
        """Bounding box of the body in the CT, with a margin."""
        return tuple(self._extent(axis) for axis in range(3))

    def share_outside(self, mask: Mask) -> float:
        """Share of a mask's voxels that lie outside of the body, cavities and a voxel of the coarse grid forgiven."""
        voxels = (np.argwhere(mask.voxels) + mask.corner_zyx) // self.stride
        return float(1 - self._filled[tuple(voxels.T)].mean())

    @cached_property
    def _filled(self) -> np.ndarray:
        """The body with its cavities, a voxel wider all round."""
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in self.inside])
        return ndimage.binary_dilation(filled, np.ones((3, 3, 3)))

    def _extent(self, axis: int) -> slice:
        first, last = occupied_range(self.inside, axis)
        margin = int(np.ceil(MARGIN_MM / self.spacing_zyx_mm[axis]))
        start, stop = first * self.stride[axis] - margin, (last + 1) * self.stride[axis] + margin
        return slice(max(0, start), min(self.size_zyx[axis], stop))


def find_body(image: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> Box:
    """Bounding box of the largest object denser than air, with a margin: see `outline_body`."""
    return outline_body(image, spacing_zyx_mm).box


def outline_body(image: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> CoarseBody:
    """The largest object denser than air.

    Args:
        image: (D, H, W), HU.
        spacing_zyx_mm: its spacing.

    Raises:
        ValueError: nothing in the volume is denser than air.
    """
    grid = coarse_grid(spacing_zyx_mm)
    inside = body_mask(dense_voxels(image, grid), grid.spacing_zyx_mm)
    return CoarseBody(inside, grid.stride_vox, image.shape, spacing_zyx_mm)


def dense_voxels(image: np.ndarray, grid: CoarseGrid) -> np.ndarray:
    """Which samples are denser than air, bool.

    Raises:
        ValueError: none is.
    """
    dense = grid.sample(image) > BODY_HU
    if not dense.any():
        raise ValueError(f"expected a patient, but no voxel is denser than {BODY_HU} HU: is this a CT in HU?")
    return dense


def body_mask(dense: np.ndarray, spacing_zyx_mm: Triple) -> np.ndarray:
    """The largest dense object without what is thin, bool.

    Args:
        dense: (D, H, W) bool, not empty.
        spacing_zyx_mm: its spacing.
    """
    return _largest_component(open_mask(dense, spacing_zyx_mm, OPENING_MM / 2))


def occupied_range(mask: np.ndarray, axis: int) -> tuple[int, int]:
    """First and last index along an axis at which a mask that is not empty has voxels."""
    occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(occupied[0]), int(occupied[-1])


def open_mask(mask: np.ndarray, spacing_zyx_mm: Triple, radius_mm: float) -> np.ndarray:
    """Opening with a ball; a mask with nothing that thick is returned as it is."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="constant")
    padded = np.pad(padded, ((1, 1), (0, 0), (0, 0)), mode="edge")  # the neck goes on beyond the last slice
    ball = _ball(spacing_zyx_mm, radius_mm)
    core = ndimage.binary_erosion(padded, ball, border_value=True)
    if not core.any():
        return mask
    return ndimage.binary_dilation(core, ball)[1:-1, 1:-1, 1:-1]


def _ball(spacing_zyx_mm: Triple, radius_mm: float) -> np.ndarray:
    """The voxels no further than a radius from the middle one, bool."""
    reach = [int(radius_mm // spacing) for spacing in spacing_zyx_mm]
    axes = [np.arange(-n, n + 1) * spacing for n, spacing in zip(reach, spacing_zyx_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return z**2 + y**2 + x**2 <= radius_mm**2


def _largest_component(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components == sizes.argmax()

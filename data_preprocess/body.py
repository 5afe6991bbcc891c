"""The patient's bounding box, from the CT alone: never from labels, so that it exists for an unlabelled CT."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from utils.mask_grids import Mask

BODY_HU = -300
COARSE_MM = 4.0
OPENING_MM = 12.0
"""Thinner things are cut off: the table's shell, a mask, tubes."""
MARGIN_MM = 10.0

Box = tuple[slice, slice, slice]


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
        occupied = np.flatnonzero(self.inside.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN_MM / self.spacing_zyx_mm[axis]))
        start = occupied[0] * self.stride[axis] - margin
        stop = (occupied[-1] + 1) * self.stride[axis] + margin
        return slice(max(0, int(start)), min(self.size_zyx[axis], int(stop)))


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
    stride = tuple(max(1, int(COARSE_MM / spacing)) for spacing in spacing_zyx_mm)
    coarse_mm = np.multiply(stride, spacing_zyx_mm)
    dense = image[:: stride[0], :: stride[1], :: stride[2]] > BODY_HU
    if not dense.any():
        raise ValueError(f"expected a patient, but no voxel is denser than {BODY_HU} HU: is this a CT in HU?")
    return CoarseBody(_largest_component(_open(dense, coarse_mm)), stride, image.shape, spacing_zyx_mm)


def _open(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Opening with a ball, by distances; a mask with nothing that thick is returned as it is."""
    radius = OPENING_MM / 2
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="constant")
    padded = np.pad(padded, ((1, 1), (0, 0), (0, 0)), mode="edge")  # the neck goes on beyond the last slice
    core = ndimage.distance_transform_edt(padded, spacing_mm) > radius
    if not core.any():
        return mask
    opened = ndimage.distance_transform_edt(~core, spacing_mm) <= radius
    return (opened & padded)[1:-1, 1:-1, 1:-1]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components == sizes.argmax()

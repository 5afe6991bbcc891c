"""The patient's bounding box, from the CT alone: never from labels, so that it exists for an unlabelled CT."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.imaging.masks import Mask, bounding_box, connected_components, largest_component

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
        return tuple(self._extent(axis, occupied) for axis, occupied in enumerate(bounding_box(self.inside)))

    def share_outside(self, mask: Mask) -> float:
        """Share of a mask's voxels that lie outside of the body, cavities and a voxel of the coarse grid forgiven."""
        voxels = (np.argwhere(mask.voxels) + mask.corner_zyx) // self.stride
        return float(1 - self._filled[tuple(voxels.T)].mean())

    @cached_property
    def _filled(self) -> np.ndarray:
        """The body with its cavities, a voxel wider all round."""
        filled = np.stack([ndimage.binary_fill_holes(plane) for plane in self.inside])
        return ndimage.binary_dilation(filled, np.ones((3, 3, 3)))

    def _extent(self, axis: int, occupied: slice) -> slice:
        margin = int(np.ceil(MARGIN_MM / self.spacing_zyx_mm[axis]))
        start, stop = occupied.start * self.stride[axis] - margin, occupied.stop * self.stride[axis] + margin
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
        UserError: nothing in the volume is denser than air.
    """
    grid = coarse_grid(spacing_zyx_mm)
    inside = body_mask(dense_voxels(image, grid), grid.spacing_zyx_mm)
    return CoarseBody(inside, grid.stride_vox, image.shape, spacing_zyx_mm)


def dense_voxels(image: np.ndarray, grid: CoarseGrid) -> np.ndarray:
    """Which samples are denser than air, bool.

    Raises:
        UserError: none is.
    """
    dense = grid.sample(image) > BODY_HU
    if not dense.any():
        raise UserError(f"expected a patient, but no voxel is denser than {BODY_HU} HU: is this a CT in HU?")
    return dense


def body_mask(dense: np.ndarray, spacing_zyx_mm: Triple) -> np.ndarray:
    """The largest dense object without what is thin, bool.

    Args:
        dense: (D, H, W) bool, not empty.
        spacing_zyx_mm: its spacing.
    """
    return largest_component(morphological_opening(dense, spacing_zyx_mm, OPENING_MM / 2), connectivity=1)


def morphological_opening(mask: np.ndarray, spacing_zyx_mm: Triple, radius_mm: float) -> np.ndarray:
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


LUNG_OPENING_MM = 10.0
"""Radius; airways, sinuses, the table's core and gaps under a mask are thinner."""
MIN_LUNG_ML = 30.0
MIN_LUNGS_ML = 100.0
"""Of all lungs together: a scan that shows less of them hardly reaches below head and neck."""
LUNG_TOP_MM2 = 500.0
"""Cross-section at which a lung begins."""
MIN_ABOVE_LUNGS_MM = 40.0
FLAT_END_MM2 = 2500.0
"""A body that ends with so large a cross-section goes on beyond the scan."""


class Region(NamedTuple):
    """A box around the patient that may reach beyond the CT."""

    start_zyx: tuple[int, int, int]
    """First voxel, as an index into the CT; may be negative."""
    stop_zyx: tuple[int, int, int]
    """One past the last; may lie beyond the CT."""
    cut_mm: float
    """How much of a long scan was cut off below."""

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        return tuple(b - a for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))

    def crop(self, image: np.ndarray, fill: int = AIR_HU) -> np.ndarray:
        """The region's voxels; beyond the CT they are `fill`."""
        padding = [
            (max(0, -a), max(0, b - n)) for a, b, n in zip(self.start_zyx, self.stop_zyx, image.shape, strict=True)
        ]
        inside = image[self._inside(image.shape)]
        return np.pad(inside, padding, constant_values=fill) if np.any(padding) else inside

    def paste(self, part: np.ndarray, size_zyx: tuple[int, int, int]) -> np.ndarray:
        """A volume of the CT's size with the region's voxels in their place and 0 elsewhere."""
        whole = np.zeros(size_zyx, dtype=part.dtype)
        inside = self._inside(size_zyx)
        own = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, self.start_zyx, strict=True))
        whole[inside] = part[own]
        return whole

    def _inside(self, size_zyx: tuple[int, int, int]) -> tuple[slice, slice, slice]:
        bounds = zip(self.start_zyx, self.stop_zyx, size_zyx, strict=True)
        return tuple(slice(max(0, a), min(n, b)) for a, b, n in bounds)


def find_region(image: np.ndarray, geometry: Geometry, below_lung_apex_mm: float) -> Region:
    """Find the head and neck of a patient.

    Args:
        image: (D, H, W), HU, axes in LPS order.
        geometry: its grid.
        below_lung_apex_mm: how far the network's training scans reach below the lung tops; negative ends above them.

    Raises:
        UserError: nothing is denser than air, or the scan begins at the lungs.
    """
    spacing = geometry.spacing_zyx_mm
    grid = coarse_grid(spacing, geometry.origin_vox())
    dense = dense_voxels(image, grid)
    occupied = bounding_box(dense)[0]  # empty slices say nothing of the patient
    dense = dense[occupied]
    grid = grid._replace(first_vox=(grid.to_voxel(occupied.start, 0), *grid.first_vox[1:]))
    cut = _cut_below_lungs(dense, grid, below_lung_apex_mm)
    body = body_mask(dense[cut or 0 :], grid.spacing_zyx_mm)
    grid = grid._replace(first_vox=(grid.to_voxel(cut or 0, 0), *grid.first_vox[1:]))
    start, stop = [], []
    for axis, occupied in enumerate(bounding_box(body)):
        margin = int(np.ceil(MARGIN_MM / spacing[axis]))
        start.append(grid.to_voxel(occupied.start, axis) - margin)
        stop.append(grid.to_voxel(occupied.stop, axis) + margin)
    start[0], stop[0] = _ends(image, body, grid, start[0], stop[0], cut is not None)
    return Region(tuple(start), tuple(stop), start[0] * spacing[0] if cut is not None else 0.0)


def find_lung_apex(dense: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> int | None:
    """The topmost slice with lung, or None where the scan shows none.

    Args:
        dense: (D, H, W) bool, denser than air; z up.
        spacing_zyx_mm: its spacing, a few mm.
    """
    air = np.stack([ndimage.binary_fill_holes(plane) for plane in dense]) & ~dense
    if not air.any():
        return None
    components = connected_components(morphological_opening(air, spacing_zyx_mm, LUNG_OPENING_MM), connectivity=1)
    volumes_ml = components.sizes * (np.prod(spacing_zyx_mm) / 1000)
    is_lung = volumes_ml >= MIN_LUNG_ML
    if volumes_ml[is_lung].sum() < MIN_LUNGS_ML:
        return None
    lungs = components.select(is_lung)
    areas_mm2 = lungs.sum(axis=(1, 2)) * (spacing_zyx_mm[1] * spacing_zyx_mm[2])
    return int(np.flatnonzero(areas_mm2 >= LUNG_TOP_MM2)[-1])


def _cut_below_lungs(dense: np.ndarray, grid: CoarseGrid, below_lung_apex_mm: float) -> int | None:
    """The lowest coarse slice to keep, or None to keep all."""
    top = find_lung_apex(dense, grid.spacing_zyx_mm)
    if top is None:
        return None
    step = grid.spacing_zyx_mm[0]
    above_mm = (len(dense) - 1 - top) * step
    if above_mm < MIN_ABOVE_LUNGS_MM:
        raise UserError(
            f"expected head and neck, but the lungs begin {above_mm:.0f} mm below the top of the patient in this scan: "
            "give a scan that shows the neck"
        )
    cut = top - round(below_lung_apex_mm / step)
    return cut if cut > 0 else None


def _ends(
    image: np.ndarray, body: np.ndarray, grid: CoarseGrid, start: int, stop: int, is_cut: bool
) -> tuple[int, int]:
    """Slices at which the region begins and ends: no margin of air where the patient goes on beyond the scan."""
    slices = bounding_box(body)[0]
    first, last = slices.start, slices.stop - 1
    area_mm2 = grid.spacing_zyx_mm[1] * grid.spacing_zyx_mm[2]
    if is_cut:
        start = max(0, grid.to_voxel(first, 0))
    elif body[first].sum() * area_mm2 > FLAT_END_MM2:
        start = _flat_end(image, body[first], grid, grid.to_voxel(first, 0), -1)
    if body[last].sum() * area_mm2 > FLAT_END_MM2:
        stop = _flat_end(image, body[last], grid, grid.to_voxel(last, 0), 1) + 1
    return start, stop


def _flat_end(image: np.ndarray, section: np.ndarray, grid: CoarseGrid, z: int, direction: int) -> int:
    """The last slice, going on from z, that still shows most of a cross-section."""
    while 0 <= z + direction < len(image):
        plane = image[z + direction][grid.first_vox[1] :: grid.stride_vox[1], grid.first_vox[2] :: grid.stride_vox[2]]
        if (plane[section] > AIR_HU / 2).mean() < 0.5:
            break
        z += direction
    return z

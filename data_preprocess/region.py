"""The part of a CT that a network for head and neck should see: the body, cut off below the lung tops.

The lungs are what no scan of head and neck alone has: much air inside of the body, in few pieces. They are found
whatever the arms do and wherever the scan begins, and a scan without them has nothing to cut.

The region does not depend on how much air or table surrounds the patient, so a scan and a cut-out of it are segmented
alike: samples lie at the same places in the patient, and where air is missing at the sides it is added.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_preprocess.body import (
    MARGIN_MM,
    CoarseGrid,
    body_mask,
    coarse_grid,
    dense_voxels,
    occupied_range,
    open_mask,
)
from utils.geometry import Geometry
from utils.intensity import AIR_HU

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

    def crop(self, image: np.ndarray) -> np.ndarray:
        """The region's voxels, air beyond the CT."""
        padding = [
            (max(0, -a), max(0, b - n)) for a, b, n in zip(self.start_zyx, self.stop_zyx, image.shape, strict=True)
        ]
        inside = image[self._inside(image.shape)]
        return np.pad(inside, padding, constant_values=AIR_HU) if np.any(padding) else inside

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


def find_region(image: np.ndarray, geometry: Geometry, below_lung_tops_mm: float) -> Region:
    """Find the head and neck of a patient.

    Args:
        image: (D, H, W), HU, axes in LPS order.
        geometry: its grid.
        below_lung_tops_mm: how far the network's training scans reach below the lung tops; negative ends above them.

    Raises:
        ValueError: nothing is denser than air, or the scan begins at the lungs.
    """
    spacing = geometry.spacing_zyx_mm
    grid = coarse_grid(spacing, geometry.origin_vox())
    dense = dense_voxels(image, grid)
    low, high = occupied_range(dense, axis=0)  # empty slices say nothing of the patient
    dense = dense[low : high + 1]
    grid = grid._replace(first_vox=(grid.to_voxel(low, 0), *grid.first_vox[1:]))
    cut = _cut_below_lungs(dense, grid, below_lung_tops_mm)
    body = body_mask(dense[cut or 0 :], grid.spacing_zyx_mm)
    grid = grid._replace(first_vox=(grid.to_voxel(cut or 0, 0), *grid.first_vox[1:]))
    start, stop = [], []
    for axis in range(3):
        first, last = occupied_range(body, axis)
        margin = int(np.ceil(MARGIN_MM / spacing[axis]))
        start.append(grid.to_voxel(first, axis) - margin)
        stop.append(grid.to_voxel(last + 1, axis) + margin)
    start[0], stop[0] = _ends(image, body, grid, start[0], stop[0], cut is not None)
    return Region(tuple(start), tuple(stop), start[0] * spacing[0] if cut is not None else 0.0)


def find_lung_tops(dense: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> int | None:
    """The topmost slice with lung, or None where the scan shows none.

    Args:
        dense: (D, H, W) bool, denser than air; z up.
        spacing_zyx_mm: its spacing, a few mm.
    """
    air = np.stack([ndimage.binary_fill_holes(plane) for plane in dense]) & ~dense
    if not air.any():
        return None
    components, _ = ndimage.label(open_mask(air, spacing_zyx_mm, LUNG_OPENING_MM))
    volumes_ml = np.bincount(components.ravel()) * (np.prod(spacing_zyx_mm) / 1000)
    volumes_ml[0] = 0
    if volumes_ml[volumes_ml >= MIN_LUNG_ML].sum() < MIN_LUNGS_ML:
        return None
    lungs = (volumes_ml >= MIN_LUNG_ML)[components]
    areas_mm2 = lungs.sum(axis=(1, 2)) * (spacing_zyx_mm[1] * spacing_zyx_mm[2])
    return int(np.flatnonzero(areas_mm2 >= LUNG_TOP_MM2)[-1])


def _cut_below_lungs(dense: np.ndarray, grid: CoarseGrid, below_lung_tops_mm: float) -> int | None:
    """The lowest coarse slice to keep, or None to keep all."""
    top = find_lung_tops(dense, grid.spacing_zyx_mm)
    if top is None:
        return None
    step = grid.spacing_zyx_mm[0]
    above_mm = (len(dense) - 1 - top) * step
    if above_mm < MIN_ABOVE_LUNGS_MM:
        raise ValueError(
            f"expected head and neck, but the lungs begin {above_mm:.0f} mm below the top of the patient in this scan: "
            "give a scan that shows the neck"
        )
    cut = top - round(below_lung_tops_mm / step)
    return cut if cut > 0 else None


def _ends(
    image: np.ndarray, body: np.ndarray, grid: CoarseGrid, start: int, stop: int, is_cut: bool
) -> tuple[int, int]:
    """Slices at which the region begins and ends: no margin of air where the patient goes on beyond the scan."""
    first, last = occupied_range(body, axis=0)
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

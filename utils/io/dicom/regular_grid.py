"""The regular grid of a CT whose slices do not lie on one: its voxels, and the way back onto the slices.

The slices of the grid are parallel to the stored ones. Those of a tilted gantry with equal distances stay where they
are: rows and columns are added around them, until they lie straight above each other. Between slices at unequal
distances it is interpolated.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.imaging.masks import Mask, crop_mask, empty_mask
from utils.io.dicom.geometry import Stack, finest_distance_mm

MIN_DISTANCE_MM = 1.0
"""The grid of slices with unequal distances is not finer than this, unless most of them are closer."""
SAME_SLICE_VOX = 0.02
"""A slice of the grid this close to a stored one takes its values without interpolation."""
SAME_PIXEL_VOX = 1e-3


class SlicePart(NamedTuple):
    """Values on the stored slices, in a box that holds all that is not zero."""

    corner_zyx: tuple[int, int, int]
    """Number of the first slice, and its first row and column."""
    values: np.ndarray
    """(slices, rows, columns) float32."""


@dataclass(frozen=True, kw_only=True)
class RegularGrid:
    """A grid over a stack of slices."""

    stack: Stack
    geometry: Geometry
    """Slices ascend along the normal; air is added around tilted slices."""

    @classmethod
    def over(cls, stack: Stack) -> "RegularGrid":
        """The grid that holds every slice, with the slices' own pixel spacing.

        Its slices have the smallest distance of the stored ones, and as many of them as possible lie on stored ones. It
        ends less than half a distance beyond the first and the last slice.
        """
        heights, places = stack.heights_mm, stack.places_mm
        if stack.is_even:
            spacing = float(np.ptp(heights)) / (len(heights) - 1)
            first, number = heights[0], len(heights)
        else:
            steps = np.diff(heights)
            spacing = max(finest_distance_mm(heights), min(MIN_DISTANCE_MM, float(np.median(steps))))
            phases = [np.count_nonzero(_off_grid(heights, h, spacing) < SAME_SLICE_VOX) for h in heights]
            anchor = heights[int(np.argmax(phases))]
            first = anchor - spacing * np.floor((anchor - heights[0]) / spacing + 0.5 - SAME_SLICE_VOX)
            number = int(np.floor((heights[-1] - first) / spacing + 0.5 - SAME_SLICE_VOX)) + 1
        low, high = places.min(axis=0), places.max(axis=0)
        if not stack.tilt_deg:  # rounding alone moves them
            low = high = np.median(places, axis=0)
        spacing_xy = np.array(stack.spacing_yx_mm[::-1])
        rows, columns = (np.ceil((high - low) / spacing_xy - SAME_SLICE_VOX).astype(int) + stack.size_yx[::-1])[::-1]
        origin = stack.positions_mm[0] if stack.is_regular else low @ stack.axes + first * stack.normal
        geometry = Geometry(
            size_zyx=(number, int(rows), int(columns)),
            spacing_zyx_mm=(spacing, *stack.spacing_yx_mm),
            origin_xyz_mm=tuple(origin.tolist()),
            direction=stack.direction,
        )
        return cls(stack=stack, geometry=geometry)

    @functools.cached_property
    def slice_index(self) -> np.ndarray:
        """(N,) where the stored slices lie on the grid's first axis, fractional."""
        if self.stack.is_even:
            return np.arange(len(self.stack.order), dtype=float)
        return self.geometry.index_zyx(self.stack.positions_mm)[:, 0]

    @functools.cached_property
    def corners_vox(self) -> np.ndarray:
        """(N, 2) where the first pixels of the stored slices lie on the grid: row and column, fractional."""
        return self.geometry.index_zyx(self.stack.positions_mm)[:, 1:] * bool(self.stack.tilt_deg)

    def resample(self, planes: Sequence[np.ndarray]) -> np.ndarray:
        """Interpolate the CT: cubic in the plane of the slices, linear between them; air beyond them.

        Args:
            planes: (rows, columns) float32 HU of each stored slice.

        Returns:
            (D, H, W) float32 HU.
        """
        placed = functools.lru_cache(maxsize=2)(lambda i: self._place(planes[i], i))
        grid = np.empty(self.geometry.size_zyx, dtype=np.float32)
        for target, (below, above, weight) in zip(grid, self._neighbors(), strict=True):
            target[:] = placed(below) if not weight else (1 - weight) * placed(below) + weight * placed(above)
        return grid

    def interpolate_mask(self, mask: Mask) -> Mask:
        """Interpolate the shape of a structure between the slices that it was contoured on.

        Between two contoured slices, its border moves linearly: the signed distances to it are interpolated. At its
        ends it reaches half-way to the slice without contours, as a contour stands for the slice around it.

        Args:
            mask: on the grid of `straighten`.

        Returns:
            The mask on this grid.
        """
        if not mask.voxels.size:
            return empty_mask(self.geometry)
        first, row, column = mask.corner_zyx
        voxels = np.pad(mask.voxels, ((0, 0), (1, 1), (1, 1)))
        nothing = np.zeros(voxels.shape[1:], dtype=bool)
        planes = {first + index: plane for index, plane in enumerate(voxels) if plane.any()}
        distance = functools.lru_cache(maxsize=2)(lambda i: _signed_distance(planes[i], self.stack.spacing_yx_mm))
        found = []
        for below, above, weight in self._neighbors():
            if weight and below in planes and above in planes:
                found.append((1 - weight) * distance(below) + weight * distance(above) > 0)
            else:
                found.append(planes.get(above if weight > 0.5 else below, nothing))
        return crop_mask(np.stack(found)[:, 1:-1, 1:-1], (0, row, column), self.geometry)

    def straighten(self, contours: Iterable[np.ndarray]) -> tuple[list[np.ndarray], Geometry]:
        """Move contours with the slices that they lie on to where these would lie if they were slices of a grid.

        Args:
            contours: (N, 3) points each, (x, y, z) in mm, LPS.

        Returns:
            The contours, and the grid: as many slices as are stored, with this grid's rows and columns.
        """
        number, distance = len(self.stack.order), float(np.diff(self.stack.heights_mm).mean())
        size, spacing = (number, *self.geometry.size_zyx[1:]), (distance, *self.stack.spacing_yx_mm)
        straight = Geometry(size_zyx=size, spacing_zyx_mm=spacing)
        moved = []
        for points in contours:
            index = self.geometry.index_zyx(points)
            index[:, 0] = _extrapolate(index[:, 0], self.slice_index)
            moved.append((index * spacing)[:, ::-1])
        return moved, straight

    def on_slices(self, values: np.ndarray) -> SlicePart:
        """Interpolate values (D, H, W) of the grid linearly on the stored slices, around those that are positive."""
        box = ndimage.find_objects(values > 0, max_label=1)[0]
        if box is None:
            return SlicePart((0, 0, 0), np.zeros((0, 0, 0), dtype=np.float32))
        depth, *plane = box
        inside = np.flatnonzero((self.slice_index > depth.start - 1) & (self.slice_index < depth.stop))
        corners = self.corners_vox[inside]
        starts = np.floor([axis.start for axis in plane] - corners.max(axis=0, initial=0)).astype(int) - 1
        stops = np.ceil([axis.stop for axis in plane] - corners.min(axis=0, initial=np.inf)).astype(int) + 1
        starts, stops = np.maximum(starts, 0), np.minimum(stops, self.stack.size_yx)
        part = np.empty((len(inside), *(stops - starts)), dtype=np.float32)
        for target, index, corner in zip(part, self.slice_index[inside], corners, strict=True):
            offset = (np.clip(index, 0, len(values) - 1), *(corner + starts))
            ndimage.affine_transform(
                values, np.ones(3), offset, (1, *target.shape), output=target[None], order=1, mode="nearest"
            )
        return SlicePart((int(inside[0]) if len(inside) else 0, *starts.tolist()), part)

    def _neighbors(self) -> list[tuple[int, int, float]]:
        """For each slice of the grid the stored ones below and above it, and the weight of the one above."""
        found = []
        for index in range(self.geometry.size_zyx[0]):
            above = int(np.clip(np.searchsorted(self.slice_index, index), 1, len(self.slice_index) - 1))
            low, high = self.slice_index[above - 1 : above + 1]
            if min(abs(index - low), abs(index - high)) < SAME_SLICE_VOX:
                nearest = above - 1 if abs(index - low) < abs(index - high) else above
                found.append((nearest, nearest, 0.0))
            else:
                found.append((above - 1, above, float(np.clip((index - low) / (high - low), 0, 1))))
        return found

    def _place(self, plane: np.ndarray, number: int) -> np.ndarray:
        """A stored slice among the grid's rows and columns."""
        corner = self.corners_vox[number]
        if np.abs(corner - np.rint(corner)).max() < SAME_PIXEL_VOX:
            row, column = np.rint(corner).astype(int)
            whole = np.full(self.geometry.size_zyx[1:], AIR_HU, dtype=np.float32)
            whole[row : row + plane.shape[0], column : column + plane.shape[1]] = plane
            return whole
        moved = ndimage.affine_transform(
            plane, np.ones(2), -corner, self.geometry.size_zyx[1:], order=3, mode="constant", cval=AIR_HU
        )
        return moved.clip(min(plane.min(), AIR_HU), plane.max())


def _off_grid(heights: np.ndarray, anchor: float, spacing: float) -> np.ndarray:
    """How far heights (N,) lie from those of a grid, in its spacings."""
    index = (heights - anchor) / spacing
    return np.abs(index - np.rint(index))


def _signed_distance(mask: np.ndarray, spacing_yx_mm: tuple[float, float]) -> np.ndarray:
    """Distance to the border of a mask (H, W) in mm, positive within it."""
    inside, outside = (ndimage.distance_transform_edt(side, sampling=spacing_yx_mm) for side in (mask, ~mask))
    return (inside - outside).astype(np.float32)


def _extrapolate(index: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Numbers, fractional, of places `index` among slices at `known` (N,), ascending; equal steps lead beyond them."""
    steps = np.arange(len(known), dtype=float)
    number = np.interp(index, known, steps)
    number += np.minimum(index - known[0], 0) / (known[1] - known[0])
    return number + np.maximum(index - known[-1], 0) / (known[-1] - known[-2])

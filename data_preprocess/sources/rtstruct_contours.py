"""DICOM contours to masks, filled at the contours' own accuracy: vertices are not rounded to whole pixels."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from skimage.measure import grid_points_in_poly

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask, crop_mask, empty_mask

OFF_PLANE_VOX = 0.5
SAME_PLANE_VOX = 0.05
VERTEX_DIGITS = 2
"""Vertices are rounded to a hundredth of a pixel, so that those drawn on pixel centers lie on them exactly."""


class Rasterized(NamedTuple):
    """A structure on a voxel grid."""

    mask: Mask
    num_outside: int
    """Contours above or below the grid; they are left out."""
    num_between: int
    """Contours between slices, left out because another plane of contours is nearer to the same slice."""


def rasterize(contours: Iterable[np.ndarray], grid: Geometry) -> Rasterized:
    """Fill closed contours on the slices that they lie on.

    A voxel belongs to the structure if its center lies within an odd number of the slice's contours, so that inner
    contours are holes; centers on a contour belong to it.

    Args:
        contours: (N, 3) points each, (x, y, z) in mm, LPS; each in one plane parallel to the slices.
        grid: whose first axis counts the slices.

    Raises:
        UserError: a contour is not parallel to the slices.
    """
    by_plane: dict[float, list[np.ndarray]] = defaultdict(list)
    num_outside = 0
    for points in contours:
        index = grid.index_zyx(points)
        if np.ptp(index[:, 0]) > OFF_PLANE_VOX:
            raise UserError("has contours that are not parallel to the CT's slices; contour it on these slices")
        height = float(index[:, 0].mean())
        if not -OFF_PLANE_VOX <= height < grid.size_zyx[0] - 1 + OFF_PLANE_VOX:
            num_outside += 1
            continue
        by_plane[round(height / SAME_PLANE_VOX) * SAME_PLANE_VOX].append(index[:, 1:].round(VERTEX_DIGITS))
    nearest: dict[int, float] = {}
    for height in sorted(by_plane):
        slice_ = min(max(int(np.floor(height + OFF_PLANE_VOX)), 0), grid.size_zyx[0] - 1)
        if slice_ not in nearest or abs(height - slice_) < abs(nearest[slice_] - slice_):
            nearest[slice_] = height
    num_between = sum(len(polygons) for height, polygons in by_plane.items() if height not in nearest.values())
    filled = {slice_: by_plane[height] for slice_, height in nearest.items()}
    return Rasterized(_fill(filled, grid), num_outside, num_between)


def _fill(polygons: dict[int, list[np.ndarray]], grid: Geometry) -> Mask:
    """Fill the polygons of each slice, (N, 2) vertices (y, x) in voxels, cut off at the slice's border."""
    vertices = [vertex for of_slice in polygons.values() for vertex in of_slice]
    if not vertices:
        return empty_mask(grid)
    points = np.concatenate(vertices)
    low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, grid.size_zyx[1:])
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, low, grid.size_zyx[1:])
    first, last = min(polygons), max(polygons)
    voxels = np.zeros((last - first + 1, *(high - low)), dtype=bool)
    for slice_, of_slice in polygons.items():
        voxels[slice_ - first] = _fill_slice(of_slice, low, voxels.shape[1:])
    return crop_mask(voxels, (first, *low.tolist()), grid)


def _fill_slice(polygons: Sequence[np.ndarray], corner: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    inside = np.zeros(shape, dtype=bool)
    edge = np.zeros(shape, dtype=bool)
    # Repetitions are left out: a contour that is stored twice would be its own hole.
    for polygon in {polygon.tobytes(): polygon for polygon in polygons}.values():
        location = grid_points_in_poly(shape, polygon - corner, binarize=False)  # 0 outside, 1 inside, 2 vertex, 3 edge
        inside ^= location == 1
        edge |= location > 1
    return inside | edge

"""DICOM contours to masks, filled at the contours' own accuracy: vertices are not rounded to whole pixels."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask, crop_mask, empty_mask
from utils.imaging.polygons import (
    centers_on_spurs,
    even_odd_area,
    locate_centers,
    perimeter,
    twofold_area,
    without_repeated_points,
)

OFF_PLANE_VOX = 0.5
SAME_PLANE_VOX = 0.05
HEIGHT_DIGITS = 3
"""Contours halfway between two slices all go to the upper one, however their heights are rounded."""
BEYOND_VOX = 0.05
"""A contour that reaches less far beyond the slice's border ends there: coordinates are rounded."""
MAX_COORDINATE_MM = 1e5
VERTEX_STEPS = 128
"""Vertices are rounded to this fraction of a pixel, so that those drawn on pixel centers lie on them exactly. With a
power of two the coordinates and their products have no rounding errors: an edge through a center holds it."""
COVERED = 0.95
"""A contour lies inside another one if it shares this fraction of its area; if both do, one repeats the other."""
RIM_VOX = 0.5
"""A rim between two contours that is narrower than this is no rim: one contour repeats the other."""
NO_AREA_VOX = 1e-6
AREA_DIGITS = 6
"""Of contours whose areas differ by rounding alone, the one that is stored first is the larger one."""
STRICTLY = 0.995
"""A contour that shares more of its area than this is enclosed all around. The two bound a rim, such as skin."""


class Rasterized(NamedTuple):
    """A structure on a voxel grid, and how many of its contours needed a decision."""

    mask: Mask
    counts: Counter[str]
    """
    outside: contours beyond the grid; they are left out.
    cut: contours that reach beyond the grid at its sides, where they are cut off.
    between: contours between slices, left out because another plane of contours is nearer to the same slice.
    repeated: contours that repeat another one of their slice; they are left out.
    crossing: contours that partly overlap another one of their slice.
    twofold: contours that go around a part of what they enclose more than once; twice is left out.
    hollow: contours whose holes take more than half of their area.
    small: outlines that enclose no voxel's center, so that nothing is left of them.
    skipped: slices without a contour between slices with one.
    """


def rasterize(contours: Sequence[np.ndarray], grid: Geometry, *, exclusive_or: bool = False) -> Rasterized:
    """Fill closed contours on the slices that they lie on.

    A voxel belongs to a contour if its center lies within it or on it. Contours that repeat each other count once. A
    contour within another one is a hole, one within a hole an island. Contours that partly overlap are united.

    Args:
        contours: (N, 3) points each, (x, y, z) in mm, LPS; each in one plane parallel to the slices.
        grid: whose first axis counts the slices.
        exclusive_or: voxels within an even number of contours do not belong to the structure, even where contours
            partly overlap: DICOM's CLOSEDPLANAR_XOR.

    Raises:
        UserError: a contour is not parallel to the slices, or a coordinate is not finite or far from any patient.
    """
    counts: Counter[str] = Counter()
    of_slice: dict[int, list[tuple[float, np.ndarray]]] = defaultdict(list)
    limits = np.subtract(grid.size_zyx, 0.5)
    for points in contours:
        if not np.isfinite(points).all():
            raise UserError("has a contour with coordinates that are not numbers; export it again")
        if np.abs(points).max() > MAX_COORDINATE_MM:
            raise UserError(
                f"has a contour with a coordinate of {points.flat[np.abs(points).argmax()]:.3g} mm, where no patient "
                "is; export it again"
            )
        index = grid.index_zyx(points)
        if np.ptp(index[:, 0]) > OFF_PLANE_VOX:
            raise UserError("has contours that are not parallel to the CT's slices; contour it on these slices")
        height = round(float(index[:, 0].mean()), HEIGHT_DIGITS)
        low, high = np.array([height, *index[:, 1:].min(axis=0)]), np.array([height, *index[:, 1:].max(axis=0)])
        if np.any(high < -0.5) or np.any(low >= limits):
            counts["outside"] += 1
            continue
        counts["cut"] += int(np.any(low < -0.5 - BEYOND_VOX) or np.any(high > limits + BEYOND_VOX))
        slice_ = min(max(int(np.floor(height + OFF_PLANE_VOX)), 0), grid.size_zyx[0] - 1)
        of_slice[slice_].append((height, index[:, 1:]))
    polygons = {}
    for slice_, planes in of_slice.items():
        nearest = min((height for height, _ in planes), key=lambda height: abs(height - slice_))
        polygons[slice_] = [polygon for height, polygon in planes if abs(height - nearest) <= SAME_PLANE_VOX]
        counts["between"] += len(planes) - len(polygons[slice_])
    counts["skipped"] = max(polygons, default=-1) - min(polygons, default=0) + 1 - len(polygons)
    mask = _fill(polygons, grid, counts, exclusive_or)
    return Rasterized(mask, +counts)  # without zeros


def _fill(polygons: dict[int, list[np.ndarray]], grid: Geometry, counts: Counter[str], exclusive_or: bool) -> Mask:
    """Fill the polygons of each slice, (N, 2) vertices (y, x) in voxels, cut off at the slice's border."""
    if not polygons:
        return empty_mask(grid)
    points = np.concatenate([vertex for of_slice in polygons.values() for vertex in of_slice])
    low = np.clip(np.floor(points.min(axis=0)).astype(int), 0, grid.size_zyx[1:])
    high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 1, low, grid.size_zyx[1:])
    first, last = min(polygons), max(polygons)
    voxels = np.zeros((last - first + 1, *(high - low)), dtype=bool)
    for slice_, of_slice in polygons.items():
        nested = _nest([_once_around(without_repeated_points(polygon), counts) for polygon in of_slice], counts)
        _fill_slice(voxels[slice_ - first], nested, low, counts, exclusive_or)
    return crop_mask(voxels, (first, *low.tolist()), grid)


def _once_around(polygon: np.ndarray, counts: Counter[str]) -> np.ndarray:
    """The first round of a contour that goes around twice, or there and back, even if its rounds differ a little."""
    area = even_odd_area(polygon)
    is_twofold = twofold_area(polygon) > (1 - COVERED) * area + NO_AREA_VOX
    if (area > NO_AREA_VOX and not is_twofold) or len(polygon) < 4:
        return polygon
    lengths = np.hypot(*np.diff(polygon, axis=0, append=polygon[:1]).T).cumsum()
    half = int(np.searchsorted(lengths, lengths[-1] / 2 * (1 - 1e-9))) + 1
    rounds = [_Nested(points, even_odd_area(points), 0) for points in (polygon[:half], polygon[half:])]
    smaller, larger = sorted(rounds, key=lambda nested: nested.area_vox)
    if _relation(larger, smaller.polygon, smaller.area_vox) == "repeated":
        counts["repeated"] += 1
        return larger.polygon
    counts["twofold"] += int(is_twofold)
    return polygon


class _Nested(NamedTuple):
    polygon: np.ndarray
    area_vox: float
    depth: int
    """How many contours lie around it, one within the other: 0 an outline, 1 a hole, 2 an island in a hole."""


def _nest(polygons: Sequence[np.ndarray], counts: Counter[str]) -> list[_Nested]:
    """Leave out repetitions and find which contour of a slice lies within which; outer ones come first."""
    if len(polygons) == 1:
        return [_Nested(polygons[0], even_odd_area(polygons[0]), 0)]
    kept: list[_Nested] = []
    holes_vox: list[float] = []
    for area, polygon in sorted(
        ((even_odd_area(p), p) for p in polygons), key=lambda pair: -round(pair[0], AREA_DIGITS)
    ):
        relations = [_relation(outer, polygon, area) for outer in kept]
        if "repeated" in relations:
            counts["repeated"] += 1
            continue
        counts["crossing"] += "crossing" in relations
        around = [index for index, relation in enumerate(relations) if relation == "inside"]
        depth = 1 + max((kept[index].depth for index in around), default=-1)
        for index in around:
            holes_vox[index] += area * (kept[index].depth == depth - 1)
        kept.append(_Nested(polygon, area, depth))
        holes_vox.append(0.0)
    counts["hollow"] += sum(
        outer.depth % 2 == 0 and holes > outer.area_vox / 2 for outer, holes in zip(kept, holes_vox, strict=True)
    )
    return sorted(kept, key=lambda nested: nested.depth)


def _relation(larger: _Nested, polygon: np.ndarray, area_vox: float) -> str:
    """How a polygon lies to one of at least its area: apart, crossing, inside or repeated."""
    apart = np.any(larger.polygon.max(axis=0) < polygon.min(axis=0)) or np.any(
        polygon.max(axis=0) < larger.polygon.min(axis=0)
    )
    if apart or not area_vox:
        return "apart"
    difference = even_odd_area(larger.polygon, polygon)
    shared = (larger.area_vox + area_vox - difference) / 2
    rim_vox = difference / perimeter(larger.polygon)
    if shared >= COVERED * larger.area_vox and (shared < STRICTLY * area_vox or rim_vox < RIM_VOX):
        return "repeated"
    if shared < COVERED * area_vox:
        return "crossing" if shared > (1 - COVERED) * area_vox else "apart"
    return "repeated" if shared > larger.area_vox / 2 and rim_vox < RIM_VOX else "inside"


def _fill_slice(
    voxels: np.ndarray, nested: Sequence[_Nested], corner: np.ndarray, counts: Counter[str], exclusive_or: bool
) -> None:
    """Fill a slice, (h, w) bool, in place; a hole does not take the voxels on its edge, which belong to the organ."""
    edge = np.zeros_like(voxels)
    for polygon, _, depth in nested:
        vertices = ((polygon - corner) * VERTEX_STEPS).round() / VERTEX_STEPS
        location = locate_centers(voxels.shape, vertices)
        for row, column in centers_on_spurs(vertices):
            if 0 <= row < voxels.shape[0] and 0 <= column < voxels.shape[1]:
                location[row, column] = location[row, column] or 3
        if exclusive_or:
            voxels ^= location == 1
            edge |= location > 1
        elif depth % 2:
            voxels &= location != 1
        else:
            voxels |= location > 0
        counts["small"] += int(depth % 2 == 0 and not location.any())
    voxels |= edge

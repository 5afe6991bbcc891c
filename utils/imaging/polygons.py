"""Polygons around masks, and areas of polygons under the even-odd rule: a ray from a point inside crosses the edges an
odd number of times.

A polygon is an (N, 2) array of vertices; the last one is joined to the first.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours, grid_points_in_poly

from utils.imaging.masks import connected_components

MAX_LEVELS = 256
MIN_DISTANCE = 0.05
"""Of a contour from the centers of pixels, in pixels: coordinates in files are rounded."""
BAND_ROWS = 4
CENTER_DIGITS = 9
"""Coordinates are rounded to these digits, so that a difference of two of them hits a center exactly."""
ALMOST_ZERO = 1e-3
"""Keeps every vertex strictly between two centers."""


def trace_polygons(mask: np.ndarray, margin: np.ndarray) -> list[np.ndarray]:
    """One closed polygon per connected component of a mask, between the pixels inside and those outside.

    It runs where the linearly interpolated margin is 0, but at least `MIN_DISTANCE` away from the centers of pixels.
    The centers within the polygons are exactly those of the mask, and no polygon crosses another one or itself. A cut
    of no width joins each hole to the outline on its left: both readers that fill every contour and readers that count
    crossings understand it.

    Args:
        mask: (h, w) bool.
        margin: (h, w), -1..1, above 0 in the mask and below 0 outside, for example by how much an organ's probability
            exceeds that of everything else. Where it contradicts the mask, it counts as almost 0.

    Returns:
        (n, 2) vertices (row, column) each. Index 0 is the center of the first pixel.
    """
    size = np.clip(np.where(mask, margin, -margin), ALMOST_ZERO, 1)
    field = np.pad(np.where(mask, size, -size), 1, mode="edge")
    labels = np.pad(connected_components(mask, connectivity=1).labels, 1)
    polygons = []
    for value, box in enumerate(ndimage.find_objects(labels), 1):
        around = tuple(slice(axis.start - 1, axis.stop + 1) for axis in box)
        component = np.where(labels[around] == value, field[around], -np.abs(field[around]))
        outlines = [_keep_distance(outline[:-1]) for outline in find_contours(component, 0, fully_connected="low")]
        outer, *holes = sorted(outlines, key=lambda outline: -np.ptp(outline, axis=0).sum())
        polygons.append(_join_holes(outer, holes) + [axis.start - 1 for axis in around])
    return polygons


def _keep_distance(vertices: np.ndarray) -> np.ndarray:
    """Move vertices, each of which lies on a line between two neighboring centers, away from both."""
    whole = np.floor(vertices)
    fraction = vertices - whole
    return whole + np.where(fraction > 0, fraction.clip(MIN_DISTANCE, 1 - MIN_DISTANCE), 0)


def _join_holes(outer: np.ndarray, holes: Sequence[np.ndarray]) -> np.ndarray:
    """One polygon of an outline and the holes in it.

    From the hole's first vertex on a row of pixel centers, a cut runs to the left to the next vertex on that row, and
    back. It passes the centers, which all belong to the organ, closer than any contour does. The next vertex belongs to
    the outline or to a hole that begins further left, which is part of the polygon already.
    """
    starts = [min((column, index) for index, (row, column) in enumerate(hole) if row % 1 == 0) for hole in holes]
    for hole, (column, start) in sorted(zip(holes, starts, strict=True), key=lambda pair: pair[1][0]):
        row = hole[start, 0]
        on_row = np.flatnonzero((outer[:, 0] == row) & (outer[:, 1] < column))
        end = on_row[outer[on_row, 1].argmax()]
        cut = np.array([(row + MIN_DISTANCE / 2, np.ceil(outer[end, 1])), (row + MIN_DISTANCE / 2, np.floor(column))])
        outer = np.concatenate([outer[: end + 1], cut, hole[start:], hole[: start + 1], cut[::-1], outer[end:]])
    return outer


def even_odd_area(*polygons: np.ndarray) -> float:
    """The area that lies within an odd number of polygons, in squares of the vertices' unit.

    It is exact where no edges cross and at most `MAX_LEVELS` rows hold vertices, else approximated on so many rows.
    """
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    levels = np.unique(starts[:, 0])
    if len(levels) > MAX_LEVELS:
        levels = np.linspace(levels[0], levels[-1], MAX_LEVELS)
    rows = ((levels[:-1] + levels[1:]) / 2)[:, None]
    crosses = (starts[:, 0] <= rows) != (ends[:, 0] <= rows)
    run, rise = (ends - starts)[:, 1], (ends - starts)[:, 0]
    row, edge = np.nonzero(crosses)
    columns = starts[edge, 1] + (rows[row, 0] - starts[edge, 0]) / rise[edge] * run[edge]
    order = np.lexsort((columns, row))
    signs = np.resize((-1.0, 1.0), len(order))  # every row is crossed an even number of times: in, out, in, out
    return float((signs * columns[order] * np.diff(levels)[row[order]]).sum())


def locate_centers(shape: tuple[int, int], polygon: np.ndarray) -> np.ndarray:
    """How the centers of pixels lie to a polygon of (row, column) vertices.

    It equals `skimage.measure.grid_points_in_poly`, which compares every center with every edge. Here a band of rows is
    compared with the edges that reach it, so that contours of many thousand points take no minutes.

    Returns:
        `shape`, (h, w): 0 outside, 1 inside, 2 on a vertex, 3 on an edge.
    """
    location = np.zeros(shape, np.uint8)
    for start in range(max(int(polygon[:, 0].min()), 0), min(int(polygon[:, 0].max()) + 1, shape[0]), BAND_ROWS):
        band = location[start : start + BAND_ROWS]
        side = (polygon[:, 0] >= start + len(band)).astype(int) - (polygon[:, 0] < start)
        kept = (side == 0) | (side != np.roll(side, 1)) | (side != np.roll(side, -1))
        vertices = (polygon[kept] - (start, 0)).round(CENTER_DIGITS)
        band[:] = grid_points_in_poly(band.shape, vertices, binarize=False)
    return location


def twofold_area(polygon: np.ndarray) -> float:
    """The area that a polygon goes around twice, in squares of the vertices' unit; 0 if it goes around once."""
    (y, x), (next_y, next_x) = (polygon - polygon[0]).T, (np.roll(polygon, -1, axis=0) - polygon[0]).T
    around = abs((x * next_y - next_x * y).sum() / 2)  # what lies within two rounds counts twice
    return max((around - even_odd_area(polygon)) / 2, 0.0)


def perimeter(polygon: np.ndarray) -> float:
    """The length of all edges."""
    return float(np.hypot(*(polygon - np.roll(polygon, 1, axis=0)).T).sum())


def without_repeated_points(polygon: np.ndarray) -> np.ndarray:
    """Leave out points equal to the one before them."""
    moved = (polygon != np.roll(polygon, 1, axis=0)).any(axis=1)
    return polygon[moved] if moved.any() else polygon[:1]


def centers_on_spurs(polygon: np.ndarray) -> np.ndarray:
    """Centers of pixels where a polygon goes along a line and straight back, so that it encloses nothing.

    Programs that draw through the centers draw lines of single pixels so, often with the two ends as only vertices.

    Returns:
        (N, 2) int.
    """
    found = [np.empty((0, 2))]
    while len(polygon) > 1:
        to_last, to_next = np.roll(polygon, 1, axis=0) - polygon, np.roll(polygon, -1, axis=0) - polygon
        turn = to_last[:, 0] * to_next[:, 1] - to_last[:, 1] * to_next[:, 0]
        tips = np.flatnonzero((np.abs(turn) < ALMOST_ZERO) & ((to_last * to_next).sum(axis=1) > 0))
        if not len(tips):
            break
        tip = tips[0]
        back = min(to_last[tip], to_next[tip], key=np.linalg.norm)
        found.append(polygon[tip] + np.linspace(0, 1, round(np.abs(back).max()) + 1)[:, None] * back)
        polygon = without_repeated_points(np.delete(polygon, tip, axis=0))
    points = np.concatenate(found)
    return np.rint(points[np.abs(points - np.rint(points)).max(axis=1) < ALMOST_ZERO]).astype(int)

"""Areas of polygons under the even-odd rule: a ray from a point inside crosses the edges an odd number of times.

A polygon is an (N, 2) array of vertices; the last one is joined to the first.
"""

import numpy as np

MAX_LEVELS = 256
SAME_POINT_VOX = 0.01


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
    fraction = np.divide(rows - starts[:, 0], rise, out=np.zeros(crosses.shape), where=crosses)
    columns = np.sort(np.where(crosses, starts[:, 1] + fraction * run, np.inf), axis=1)
    columns = columns[:, : 2 * (int(crosses.sum(axis=1).max(initial=0)) // 2)]
    columns[np.isinf(columns)] = 0  # rows with fewer crossings than others; always a whole number of pairs
    widths = (columns[:, 1::2] - columns[:, ::2]).sum(axis=1)
    return float((widths * np.diff(levels)).sum())


def perimeter(polygon: np.ndarray) -> float:
    """The length of all edges."""
    return float(np.hypot(*(polygon - np.roll(polygon, 1, axis=0)).T).sum())


def without_repeated_points(polygon: np.ndarray) -> np.ndarray:
    """Leave out points that repeat the one before them, and the second round of a polygon that goes around twice."""
    moved = np.abs(polygon - np.roll(polygon, 1, axis=0)).max(axis=1) > SAME_POINT_VOX
    once = polygon[moved] if moved.any() else polygon[:1]
    half, odd = divmod(len(once), 2)
    twice = half > 1 and not odd and np.allclose(once[:half], once[half:], rtol=0, atol=SAME_POINT_VOX)
    return once[:half] if twice else once

"""Outlines of masks."""

import numpy as np


def trace_outlines(mask: np.ndarray) -> list[np.ndarray]:
    """Closed outlines of a mask along the edges of its pixels.

    Args:
        mask: (h, w) bool.

    Returns:
        One (n, 2) array of corners (row, column) per outline, outer ones clockwise in a picture, holes the other way.
        Pixel (0, 0) has the corners (0, 0) and (1, 1).
    """
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    sides = (  # neighbor beyond the edge, start and end corner of the edge with the mask on its right
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (1, 0)),
        (padded[1:-1, :-2], (1, 0), (0, 0)),
    )
    next_corners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbor, start, end in sides:
        for row, column in np.argwhere(inside & ~neighbor).tolist():
            corner = (row + start[0], column + start[1])
            next_corners.setdefault(corner, []).append((row + end[0], column + end[1]))
    outlines = []
    while next_corners:
        first = corner = next(iter(next_corners))
        outline = []
        while not outline or corner != first:
            outline.append(corner)
            ends = next_corners[corner]
            corner = ends.pop()
            if not ends:
                del next_corners[outline[-1]]
        outlines.append(np.array(outline, dtype=float))
    return outlines

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
    steps = (  # neighbour beyond the edge, start and end corner of the edge with the mask on its right
        (padded[:-2, 1:-1], (0, 0), (0, 1)),
        (padded[1:-1, 2:], (0, 1), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (1, 0)),
        (padded[1:-1, :-2], (1, 0), (0, 0)),
    )
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for neighbour, start, end in steps:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            corner = (row + start[0], column + start[1])
            following.setdefault(corner, []).append((row + end[0], column + end[1]))
    outlines = []
    while following:
        first = corner = next(iter(following))
        outline = []
        while not outline or corner != first:
            outline.append(corner)
            ends = following[corner]
            corner = ends.pop()
            if not ends:
                del following[outline[-1]]
        outlines.append(np.array(outline, dtype=float))
    return outlines

"""Contours of masks."""

import numpy as np
from scipy import ndimage

from utils.imaging.masks import connected_components


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


def trace_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One closed polygon per connected component of a mask, along the edges of its pixels.

    A cut of no width joins each hole to the outline around it: both readers that fill every contour and readers that
    count crossings understand such a polygon.

    Returns:
        Polygons like the outlines of `trace_outlines`.
    """
    components = connected_components(mask, connectivity=1).labels
    polygons = []
    for value, box in enumerate(ndimage.find_objects(components), 1):
        outlines = [_without_midpoints(outline) for outline in trace_outlines(components[box] == value)]
        outer, *holes = sorted(outlines, key=lambda outline: -np.ptp(outline, axis=0).sum())
        for hole in holes:
            outer = _join(outer, hole)
        polygons.append(outer + [axis.start for axis in box])
    return polygons


def _without_midpoints(outline: np.ndarray) -> np.ndarray:
    """Corners at which the outline turns."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    return outline[(before != after).any(axis=1)]


def _join(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One polygon of an outline and a hole in it, joined by a cut between their closest corners and back."""
    distances = np.abs(outer[:, None] - hole[None]).sum(axis=-1)
    o, h = np.unravel_index(distances.argmin(), distances.shape)
    there_and_back = np.concatenate([hole[h:], hole[: h + 1]])
    return np.concatenate([outer[: o + 1], there_and_back, outer[o:]])

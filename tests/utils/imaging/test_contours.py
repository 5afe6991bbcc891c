"""utils/imaging/contours.py: outlines run along the edges of pixels."""

import numpy as np
from matplotlib.path import Path as Polygon

from utils.imaging.contours import trace_outlines, trace_polygons


def outline_area(outline: np.ndarray) -> float:
    """Enclosed area, positive if clockwise in a picture (columns to the right, rows downwards)."""
    row, column = outline.T
    return float((column * np.roll(row, -1) - np.roll(column, -1) * row).sum() / 2)


def test_outline_of_one_pixel():
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    (outline,) = trace_outlines(mask)
    assert {tuple(corner) for corner in outline} == {(1, 2), (1, 3), (2, 3), (2, 2)}
    assert outline_area(outline) == 1


def test_outlines_enclose_the_mask():
    mask = np.random.default_rng(0).random((9, 13)) > 0.4
    outlines = trace_outlines(mask)
    assert sum(outline_area(outline) for outline in outlines) == mask.sum()
    ring = np.ones((5, 6), bool)
    ring[1:-1, 2:4] = False
    assert sorted(outline_area(outline) for outline in trace_outlines(ring)) == [-6, 30]


def test_a_hole_is_cut_open_to_one_polygon():
    ring = np.ones((5, 6), dtype=bool)
    ring[1:-1, 2:4] = False
    (polygon,) = trace_polygons(np.pad(ring, 1))
    rows, columns = polygon.T
    area = (columns * np.roll(rows, -1) - np.roll(columns, -1) * rows).sum() / 2
    assert abs(area) == 30 - 6
    steps = np.abs(np.diff(np.concatenate([polygon, polygon[:1]]), axis=0))
    assert (
        steps.sum() == 22 + 10 + 2 * 2 + 2
    )  # outline, hole, and the cut there and back, 1 or 2 pixels along each axis


def test_random_masks_are_exactly_their_polygons():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((11, 14)) > 0.45
        filled = np.zeros((11, 14), dtype=bool)
        rows, columns = np.indices(mask.shape)
        centers = np.column_stack([rows.ravel(), columns.ravel()]) + 0.5
        for polygon in trace_polygons(mask):
            filled ^= Polygon(polygon).contains_points(centers).reshape(mask.shape)
        np.testing.assert_array_equal(filled, mask)

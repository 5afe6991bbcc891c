"""utils/imaging/contours.py: outlines run along the edges of pixels."""

import numpy as np

from utils.imaging.contours import trace_outlines


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

"""utils/imaging/polygons.py: polygons between the centers of pixels, and areas that a person can check."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.path import Path as Polygon
from skimage.measure import grid_points_in_poly

from utils.imaging import polygons as module
from utils.imaging.masks import connected_components
from utils.imaging.polygons import (
    even_odd_area,
    locate_centers,
    perimeter,
    trace_polygons,
    twofold_area,
    without_repeated_points,
)

SQUARE = np.array([(1, 2), (1, 6), (5, 6), (5, 2)], dtype=float)
KEYHOLE = np.array([(1, 2), (2, 3), (4, 3), (4, 5), (2, 5), (2, 3), (1, 2), (1, 6), (5, 6), (5, 2)], dtype=float)
"""The square with a hole of 2 x 2, joined to its corner."""


def circle(radius, center=(0.0, 0.0), num_points=400):
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return radius * np.column_stack([np.sin(angles), np.cos(angles)]) + center


@pytest.mark.parametrize("polygon", [SQUARE, SQUARE[::-1], np.roll(SQUARE, 1, axis=0), np.repeat(SQUARE, 2, axis=0)])
def test_area_of_a_square(polygon):
    assert even_odd_area(polygon) == 16
    assert perimeter(polygon) == 16


def test_areas_within_an_odd_number_of_polygons():
    assert even_odd_area(KEYHOLE) == 16 - 4
    assert even_odd_area(SQUARE, SQUARE[::-1]) == 0
    assert even_odd_area(SQUARE, SQUARE + (0, 10)) == 32
    assert even_odd_area(SQUARE, SQUARE + (2, 0)) == 16
    assert even_odd_area(SQUARE, SQUARE / 2 + (1.5, 2)) == 16 - 4
    assert even_odd_area(SQUARE, KEYHOLE) == 4


def test_areas_of_round_polygons_are_close():
    assert even_odd_area(circle(7)) == pytest.approx(np.pi * 49, rel=2e-3)
    assert even_odd_area(circle(7), circle(6.5)) == pytest.approx(np.pi * (49 - 6.5**2), rel=5e-3)
    assert even_odd_area(circle(7), circle(7, (0.02, 0.0))) == pytest.approx(4 * 7 * 0.02, rel=0.1)


def test_the_area_that_a_polygon_goes_around_twice():
    assert twofold_area(np.concatenate([SQUARE, SQUARE[:1], SQUARE])) == pytest.approx(16)
    assert twofold_area(KEYHOLE) == 0


def test_polygons_without_an_area():
    assert even_odd_area(SQUARE[:1]) == 0
    assert even_odd_area(SQUARE[:2]) == 0
    assert even_odd_area(np.zeros((5, 2))) == 0


def test_points_that_repeat_are_left_out():
    closed = np.concatenate([SQUARE, SQUARE[:1]])
    for polygon in (SQUARE, closed, np.repeat(SQUARE, 2, axis=0)):
        assert len(without_repeated_points(polygon)) == 4
        assert even_odd_area(without_repeated_points(polygon)) == 16
    assert len(without_repeated_points(np.ones((3, 2)))) == 1
    np.testing.assert_array_equal(without_repeated_points(KEYHOLE), KEYHOLE)
    assert len(without_repeated_points(circle(7, num_points=50_001))) == 50_001


def fill(polygons, shape, inside):
    """Pixels whose centers lie within an odd number of polygons."""
    filled = np.zeros(shape, dtype=bool)
    for polygon in polygons:
        filled ^= inside(polygon, shape)
    return filled


def by_winding(polygon, shape):
    """As matplotlib fills it: by the number of turns around a point."""
    rows, columns = np.indices(shape)
    return Polygon(polygon).contains_points(np.column_stack([rows.ravel(), columns.ravel()])).reshape(shape)


def by_crossings(polygon, shape):
    return grid_points_in_poly(shape, polygon)


def cross_themselves(polygons) -> bool:
    """Whether the inner parts of two edges of any polygons intersect in one point."""
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])

    def side(points):  # (edges, points): positive on the left of an edge
        along, to_point = ends - starts, points[None] - starts[:, None]
        cross = along[:, None, 0] * to_point[..., 1] - along[:, None, 1] * to_point[..., 0]
        return np.where(np.abs(cross) < 1e-9, 0, cross)

    separated = side(starts) * side(ends) < 0
    return bool((separated & separated.T).any())


def test_contours_run_where_the_interpolated_field_is_zero():
    margin = np.full((4, 5), -0.25)
    margin[1, 2] = 0.75
    (polygon,) = trace_polygons(margin > 0, margin)
    assert {tuple(vertex) for vertex in polygon} == {(0.25, 2), (1, 2.75), (1.75, 2), (1, 1.25)}


def test_contours_keep_a_distance_from_centers_and_from_what_contradicts_the_mask():
    margin = np.full((4, 5), -1.0)
    margin[1, 2] = 0.0
    margin[0, 2] = 0.8  # not in the mask
    (polygon,) = trace_polygons(np.arange(20).reshape(4, 5) == 7, margin)
    assert {tuple(vertex) for vertex in polygon} == {(0.5, 2), (1, 2.05), (1.05, 2), (1, 1.95)}


def test_contours_end_half_a_pixel_beyond_the_border():
    (polygon,) = trace_polygons(np.ones((2, 3), dtype=bool), np.full((2, 3), 0.4))
    np.testing.assert_allclose(polygon.min(axis=0), -0.5)
    np.testing.assert_allclose(polygon.max(axis=0), (1.5, 2.5))


def test_a_hole_is_cut_open_to_one_polygon():
    ring = np.ones((5, 6), dtype=bool)
    ring[1:-1, 2:4] = False
    ring = np.pad(ring, 1)
    (polygon,) = trace_polygons(ring, np.where(ring, 1, -1))
    area = 5 * 6 - 4 / 8 - (3 * 2 - 4 / 8)  # corners are cut off
    assert even_odd_area(polygon) == area
    repeated, counts = np.unique(polygon, axis=0, return_counts=True)
    assert repeated[counts == 2].tolist() == [[2, 0.5], [2, 2.5], [2.025, 1], [2.025, 2]]  # the cut passes the centers


def test_holes_in_a_row_are_joined_one_to_the_next():
    mask = np.ones((3, 9), dtype=bool)
    mask[1, 1::2] = False
    (polygon,) = trace_polygons(mask, np.where(mask, 1, -1))
    np.testing.assert_array_equal(fill([polygon], mask.shape, by_crossings), mask)
    assert len(polygon) == 24 + 4 * (4 + 2 + 4)


FIELDS = hnp.arrays(np.float64, (9, 12), elements=st.floats(-1, 1), fill=st.nothing())


@pytest.mark.parametrize("inside", [by_winding, by_crossings])
@given(field=FIELDS)
@settings(deadline=None, max_examples=50)
def test_the_pixels_above_zero_are_those_within_the_polygons(inside, field):
    polygons = trace_polygons(field > 0, field)
    np.testing.assert_array_equal(fill(polygons, field.shape, inside), field > 0)
    assert len(polygons) == connected_components(field > 0, connectivity=1).sizes.size


@given(field=FIELDS)
@settings(deadline=None, max_examples=50)
def test_polygons_cross_neither_themselves_nor_each_other(field):
    polygons = trace_polygons(field > 0, field)
    assert not polygons or not cross_themselves(polygons)
    for polygon in polygons:
        assert np.abs(polygon - polygon.round()).max(axis=1).min() > 0.02  # away from the centers


def test_the_test_for_crossings_finds_one():
    bow_tie = np.array([(0, 0), (2, 2), (2, 0), (0, 2)], dtype=float)
    assert cross_themselves([bow_tie])
    assert not cross_themselves([bow_tie[[0, 2, 1, 3]]])


def test_contours_of_a_smooth_organ_are_smooth():
    rows, columns = np.indices((30, 34))
    radius = np.hypot(rows - 14.3, columns - 16.8)
    (polygon,) = trace_polygons(radius < 9.4, (9.4 - radius) / 20)
    distances = np.hypot(*(polygon - (14.3, 16.8)).T)
    assert np.abs(distances - 9.4).max() < 0.06


HALVES = st.integers(-6, 50).map(lambda number: number / 2)
"""Many vertices and edges go through centers, and some lie outside."""


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(HALVES, HALVES), min_size=1, max_size=40))
def test_centers_lie_to_a_polygon_as_skimage_says(vertices):
    shape, polygon = (21, 19), np.array(vertices, dtype=float)
    np.testing.assert_array_equal(locate_centers(shape, polygon), grid_points_in_poly(shape, polygon, binarize=False))


def test_the_work_does_not_grow_with_the_square_of_a_contours_detail(monkeypatch):
    """Three contours of 20,000 points took minutes, when every center was compared with every edge."""
    work = []

    def counting(shape, vertices, **options):
        work.append(shape[0] * shape[1] * len(vertices))
        return grid_points_in_poly(shape, vertices, **options)

    monkeypatch.setattr(module, "grid_points_in_poly", counting)
    shape, polygon = (200, 200), circle(90, (100.0, 100.0), num_points=8000).round(2)
    expected = grid_points_in_poly(shape, polygon, binarize=False)
    np.testing.assert_array_equal(locate_centers(shape, polygon), expected)
    assert sum(work) < 200 * 200 * 8000 / 20

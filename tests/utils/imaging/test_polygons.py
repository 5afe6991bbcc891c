"""utils/imaging/polygons.py: areas that a person can check."""

import numpy as np
import pytest

from utils.imaging.polygons import even_odd_area, perimeter, without_repeated_points

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


def test_polygons_without_an_area():
    assert even_odd_area(SQUARE[:1]) == 0
    assert even_odd_area(SQUARE[:2]) == 0
    assert even_odd_area(np.zeros((5, 2))) == 0


def test_points_and_rounds_that_repeat_are_left_out():
    closed = np.concatenate([SQUARE, SQUARE[:1]])
    for polygon in (SQUARE, closed, np.repeat(SQUARE, 2, axis=0), np.concatenate([closed, closed + 0.001])):
        found = without_repeated_points(polygon)
        assert len(found) == 4
        assert even_odd_area(found) == pytest.approx(16, abs=0.01)
    assert len(without_repeated_points(np.ones((3, 2)))) == 1
    np.testing.assert_array_equal(without_repeated_points(KEYHOLE), KEYHOLE)

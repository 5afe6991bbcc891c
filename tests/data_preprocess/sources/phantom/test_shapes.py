import numpy as np
import pytest

from data_preprocess.sources.phantom.shapes import (
    Box,
    BrainCase,
    Column,
    Difference,
    Ellipsoid,
    Folds,
    Overlap,
    Plate,
    Ribbon,
    Shape,
    Transformed,
    Tube,
    Union,
    arch,
    smooth_min,
)

BALL = Ellipsoid((1.0, 2.0, 3.0), (5.0, 5.0, 5.0))
SQUARE = ((0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0))
SHAPES = (
    BALL,
    Ellipsoid((0.0, 0.0, 0.0), (3.0, 9.0, 6.0)),
    Tube(((0.0, 0.0, 0.0), (8.0, -6.0, 4.0)), (2.0, 3.0), (1.0, 1.5, 0.7)),
    Column(((10.0, 0.0, 4.0, 6.0), (-10.0, 3.0, 5.0, 3.0)), x=2.0, power=2.5),
    Ribbon(((0.0, 8.0, -4.0, 4.0, 2.0), (-8.0, 0.0, -5.0, 3.0, 1.5))),
    Plate(SQUARE, 5.0, 0.2, 1.5),
    Union((BALL, Ellipsoid((1.0, 2.0, 9.0), (4.0, 4.0, 4.0)))),
    Difference(BALL, Ellipsoid((1.0, 2.0, 3.0), (3.0, 3.0, 3.0))),
    Overlap(BALL, Box((0.0, 0.0, 0.0), (9.0, 9.0, 9.0))),
    Folds(BALL, (8.0, 8.0, 8.0), 0.5, 3.0),
    BrainCase(2.0, 1.0),
    Transformed(BALL, (0.0, 0.0, 0.0), (1.2, 0.8, 1.0), (1.0, 0.0, -2.0), mirrored=True),
)


def at(shape: Shape, *point: float) -> float:
    return float(shape.distance(*(np.array([p], np.float32) for p in point))[0])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: type(shape).__name__)
def test_box_holds_the_shape(shape: Shape):
    grid = np.meshgrid(*(np.linspace(-120, 120, 97, dtype=np.float32),) * 3, indexing="ij")
    if not isinstance(shape, BrainCase):
        grid = [axis / 6 for axis in grid]
    distance = shape.distance(*grid)
    assert distance.dtype == np.float32
    inside = distance < 0
    assert inside.any()
    for axis, low, high in zip(grid, *shape.bounds, strict=True):
        assert axis[inside].min() >= low - 1e-4
        assert axis[inside].max() <= high + 1e-4


def test_ball_is_exact():
    assert at(BALL, 1, 2, 11) == pytest.approx(3, abs=1e-4)
    assert at(BALL, 1, 0, 3) == pytest.approx(-3, abs=1e-4)


def test_tube_is_round_between_its_points_and_at_its_ends():
    tube = Tube(((0, 0, 0), (0, 10, 0)), (2.0, 4.0))
    assert at(tube, 0, 5, 5) == pytest.approx(2)
    assert at(tube, -4, 0, 0) == pytest.approx(2)
    assert at(tube, 0, 16, 0) == pytest.approx(2)


def test_column_section_follows_its_height():
    column = Column(((10, 0, 2, 4), (0, 0, 4, 8)))
    assert at(column, 5, 0, 9) == pytest.approx(3, abs=0.01)
    assert at(column, 5, 5, 0) == pytest.approx(2, abs=0.01)
    assert at(column, 13, 0, 0) == pytest.approx(3)


def test_arch_is_symmetric():
    jaw = arch(((0, 20, -5, 5, 2), (-20, 10, -5, 5, 2), (-25, 0, -5, 5, 2)))
    assert len(jaw.posts) == 5
    for point in ((0, -10, 16), (3, -22, 8), (7, 1, 20)):
        assert at(jaw, *point) == pytest.approx(at(jaw, point[0], point[1], -point[2]), abs=1e-5)
    assert at(jaw, 0, -25, 0) == pytest.approx(-2)


def test_plate_leans_sideways_with_height():
    plate = Plate(SQUARE, 5, 0.5, 1)
    assert at(plate, 2, 5, 6) == pytest.approx(-1)
    assert at(plate, 8, 5, 9) == pytest.approx(-1)
    assert at(plate, 5, 13, 7.5) == pytest.approx(3)


def test_the_right_side_mirrors_the_left():
    place = {"pivot": (0, 0, 2), "scale": (1, 1, 2), "shift": (0, 1, 0)}
    left, right = Transformed(BALL, **place, mirrored=False), Transformed(BALL, **place, mirrored=True)
    assert at(left, 1, 3, 4) == pytest.approx(-5, abs=1e-4)  # the ball's center 3 moves to (3 - 2) * 2 + 2 = 4
    assert at(right, 1, 3, -4) == pytest.approx(-5, abs=1e-4)


def test_smooth_min_only_rounds_the_corner():
    assert smooth_min(np.array([1.0]), np.array([9.0]), 4.0) == 1.0
    assert smooth_min(np.array([2.0]), np.array([2.0]), 4.0) == 1.0

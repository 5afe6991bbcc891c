import numpy as np
import pytest

from data_preprocess.sources.phantom.head import brain_case
from data_preprocess.sources.phantom.shapes import (
    Shape,
    arch,
    box,
    column,
    ellipsoid,
    folds,
    plate,
    ribbon,
    smooth_min,
    tube,
    union,
)

BALL = ellipsoid((1.0, 2.0, 3.0), (5.0, 5.0, 5.0))
SQUARE = ((0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0))
SHAPES = {
    "ball": BALL,
    "ellipsoid": ellipsoid((0.0, 0.0, 0.0), (3.0, 9.0, 6.0)),
    "tube": tube(((0.0, 0.0, 0.0), (8.0, -6.0, 4.0)), (2.0, 3.0), (1.0, 1.5, 0.7)),
    "column": column(((10.0, 0.0, 4.0, 6.0), (-10.0, 3.0, 5.0, 3.0)), x=2.0, power=2.5),
    "ribbon": ribbon(((0.0, 8.0, -4.0, 4.0, 2.0), (-8.0, 0.0, -5.0, 3.0, 1.5))),
    "plate": plate(SQUARE, 5.0, 0.2, 1.5),
    "union": union(BALL, ellipsoid((1.0, 2.0, 9.0), (4.0, 4.0, 4.0))),
    "difference": BALL - ellipsoid((1.0, 2.0, 3.0), (3.0, 3.0, 3.0)),
    "intersection": BALL & box((0.0, 0.0, 0.0), (9.0, 9.0, 9.0)),
    "folds": folds(BALL, (8.0, 8.0, 8.0), 0.5, 3.0),
    "brain_case": brain_case(2.0, 1.0),
    "moved": BALL.moved(scale=(1.2, 0.8, 1.0), shift=(1.0, 0.0, -2.0)),
    "mirrored": BALL.mirrored(),
}


def at(shape: Shape, *point: float) -> float:
    return float(shape.distance(*(np.array([p], np.float32) for p in point))[0])


@pytest.mark.parametrize("name", SHAPES)
def test_bounds_hold_the_shape(name: str):
    shape = SHAPES[name]
    grid = np.meshgrid(*(np.linspace(-120, 120, 97, dtype=np.float32),) * 3, indexing="ij")
    if name != "brain_case":
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
    cone = tube(((0, 0, 0), (0, 10, 0)), (2.0, 4.0))
    assert at(cone, 0, 5, 5) == pytest.approx(2)
    assert at(cone, -4, 0, 0) == pytest.approx(2)
    assert at(cone, 0, 16, 0) == pytest.approx(2)


def test_column_section_follows_its_height():
    pillar = column(((10, 0, 2, 4), (0, 0, 4, 8)))
    assert at(pillar, 5, 0, 9) == pytest.approx(3, abs=0.01)
    assert at(pillar, 5, 5, 0) == pytest.approx(2, abs=0.01)
    assert at(pillar, 13, 0, 0) == pytest.approx(3)


def test_arch_is_symmetric():
    left = ((0, 20, -5, 5, 2), (-20, 10, -5, 5, 2), (-25, 0, -5, 5, 2))
    jaw, whole = arch(left), ribbon((*left, (-20, -10, -5, 5, 2), (0, -20, -5, 5, 2)))
    assert at(jaw, 2, -9, 14) == at(whole, 2, -9, 14)
    for point in ((0, -10, 16), (3, -22, 8), (7, 1, 20)):
        assert at(jaw, *point) == pytest.approx(at(jaw, point[0], point[1], -point[2]), abs=1e-5)
    assert at(jaw, 0, -25, 0) == pytest.approx(-2)


def test_plate_leans_sideways_with_height():
    wall = plate(SQUARE, 5, 0.5, 1)
    assert at(wall, 2, 5, 6) == pytest.approx(-1)
    assert at(wall, 8, 5, 9) == pytest.approx(-1)
    assert at(wall, 5, 13, 7.5) == pytest.approx(3)


def test_the_right_side_mirrors_the_left():
    left = BALL.moved(pivot=(0, 0, 2), scale=(1, 1, 2), shift=(0, 1, 0))
    assert at(left, 1, 3, 4) == pytest.approx(-5, abs=1e-4)  # the ball's center 3 moves to (3 - 2) * 2 + 2 = 4
    assert at(left.mirrored(), 1, 3, -4) == pytest.approx(-5, abs=1e-4)


def test_smooth_min_only_rounds_the_corner():
    assert smooth_min(np.array([1.0]), np.array([9.0]), 4.0) == 1.0
    assert smooth_min(np.array([2.0]), np.array([2.0]), 4.0) == 1.0

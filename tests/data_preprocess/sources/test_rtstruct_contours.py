"""sources/rtstruct_contours.py: polygons in mm to voxels."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_preprocess.sources.rtstruct_contours import VERTEX_STEPS, rasterize
from tests.dicom_files import trace
from utils.imaging.geometry import Geometry
from utils.imaging.polygons import trace_polygons

SIZE = (5, 20, 30)
GRID = Geometry(size_zyx=SIZE, spacing_zyx_mm=(3.0, 1.5, 0.8), origin_xyz_mm=(-10.0, 5.0, 40.0))


def contour(slice_, *points_yx):
    """Corners given in voxels."""
    return np.array([GRID.world_mm((slice_, y, x)) for y, x in points_yx])


def square(slice_, low, high):
    return contour(slice_, (low, low), (low, high), (high, high), (high, low))


def drawn(*contours):
    return rasterize(contours, GRID).mask.dense()


def test_voxels_whose_centers_lie_within_are_filled():
    expected = np.zeros(SIZE, dtype=bool)
    expected[2, 4:8, 4:8] = True
    np.testing.assert_array_equal(drawn(square(2, 3.6, 7.4)), expected)


def test_centers_on_the_contour_belong_to_it():
    expected = np.zeros(SIZE, dtype=bool)
    expected[2, 4:9, 4:9] = True
    np.testing.assert_array_equal(drawn(square(2, 4, 8)), expected)


def test_inner_contours_are_holes_and_islands_in_them_are_not():
    mask = drawn(square(1, 2.5, 14.5), square(1, 4.5, 12.5), square(1, 7.5, 9.5))
    assert mask.sum() == 12 * 12 - 8 * 8 + 2 * 2
    assert mask[1, 8, 8]
    assert not mask[1, 6, 6]


def test_a_hole_drawn_on_the_organs_voxels_spares_them():
    """Some programs draw it so: both contours run through centers of voxels that belong to the organ."""
    mask = drawn(square(1, 3, 13), square(1, 6, 10))
    assert mask.sum() == 11 * 11 - 3 * 3


AGAIN = {
    "as it is": lambda points: points,
    "reversed": lambda points: points[::-1],
    "from another start": lambda points: np.roll(points, 7, axis=0),
    "closed": lambda points: np.concatenate([points, points[:1]]),
    "moved by 0.02 voxel": lambda points: points + 0.02 * np.array(GRID.spacing_zyx_mm)[::-1] * (1, 1, 0),
    "thinned": lambda points: points[::2],
    "with midpoints": lambda points: np.stack([points, (points + np.roll(points, -1, axis=0)) / 2], 1).reshape(-1, 3),
}
"""How programs repeat a contour."""


def ring(slice_, radius, center=(9.2, 14.7), num_points=60):
    """A circle in voxels."""
    angles = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
    return contour(slice_, *np.column_stack([np.sin(angles), np.cos(angles)]) * radius + center)


@pytest.mark.parametrize("again", AGAIN.values(), ids=AGAIN.keys())
@pytest.mark.parametrize("radius", [1.8, 7.0])
def test_a_contour_stored_twice_is_not_a_hole(radius, again):
    once = rasterize([ring(2, radius)], GRID)
    twice = rasterize([again(ring(2, radius)), ring(2, radius), again(again(ring(2, radius)))], GRID)
    np.testing.assert_array_equal(twice.mask.dense(), once.mask.dense())
    assert twice.counts["repeated"] == 2
    around_twice = np.concatenate([ring(2, radius)] * 2)
    np.testing.assert_array_equal(drawn(around_twice), once.mask.dense())


@pytest.mark.parametrize(
    "second",
    [ring(2, 7.0, num_points=61), ring(2, 7.0) + (0.02, 0.02, 0), ring(2, 7.0)[::-1], ring(2, 6.9, num_points=45)],
    ids=["other points", "moved", "back", "other radius"],
)
def test_a_contour_that_goes_around_twice_is_filled(second):
    found = rasterize([np.concatenate([ring(2, 7.0), second])], GRID)
    np.testing.assert_array_equal(found.mask.dense(), drawn(ring(2, 7.0)))
    assert found.counts == {"repeated": 1}


@pytest.mark.parametrize(
    ("points", "num_voxels"),
    [
        ([(5, 5), (5, 15)], 11),
        ([(4, 5), (9, 10), (9, 16), (9, 10)], 12),
        ([(5, 5), (5, 10), (8, 10), (8, 20), (8, 10), (10, 10), (10, 5)], 6 * 6 + 10),
        ([(5, 5), (5, 20), (5, 10), (10, 10), (10, 5)], 6 * 6 + 10),
    ],
    ids=["line", "bent line", "spur", "spur along an edge"],
)
def test_lines_of_single_pixels_have_their_pixels(points, num_voxels):
    """Drawn through the centers of pixels with the ends alone as vertices, as OpenCV does."""
    assert drawn(contour(1, *points)).sum() == num_voxels


def test_what_a_contour_goes_around_twice_is_noted():
    overdrawn = contour(1, (2, 2), (2, 20), (15, 20), (15, 2), (2, 2), (2, 12), (15, 12), (15, 2))
    found = rasterize([overdrawn], GRID)
    assert found.counts == {"twofold": 1}
    assert not found.mask.dense()[1, 8, 8]


def test_contours_at_the_border_are_not_cut_and_halfway_ones_go_up():
    whole = contour(0, (-0.5, -0.5), (-0.5, 29.5), (19.5, 29.5), (19.5, -0.5))
    found = rasterize([whole + 0.0004], GRID)
    assert found.mask.voxels.all()
    assert found.mask.voxels.size == 20 * 30
    assert not found.counts
    halfway = [square(s + 0.5, 3.5, 9.5) + (0, 0, 1e-7 * (-1) ** s) for s in range(4)]
    found = rasterize(halfway, GRID)
    assert found.mask.dense().any(axis=(1, 2)).tolist() == [False, True, True, True, True]
    assert not found.counts


def test_holes_and_islands_stored_twice_stay():
    circles = [ring(2, radius) for radius in (8.5, 5.5, 2.5)]
    found = rasterize([*circles, *(points[::-1] for points in circles)], GRID)
    np.testing.assert_array_equal(found.mask.dense(), drawn(*circles))
    assert found.counts == {"repeated": 3}
    assert 0 < drawn(*circles).sum() < drawn(circles[0]).sum() - 50


def test_skin_is_a_rim_and_no_repetition():
    """The inside of a skin of one voxel covers 95 % of a large body."""
    wide = Geometry(size_zyx=(1, 90, 90), spacing_zyx_mm=(3.0, 1.0, 1.0))
    body, inside = (
        np.array([wide.world_mm((0, y, x)) for y, x in corners])
        for corners in (
            ((2.5, 2.5), (2.5, 86.5), (86.5, 86.5), (86.5, 2.5)),
            ((3.5, 3.5), (3.5, 85.5), (85.5, 85.5), (85.5, 3.5)),
        )
    )
    found = rasterize([body, inside], wide)
    assert found.mask.voxels.sum() == 84**2 - 82**2
    assert found.counts == {"hollow": 1}


def test_contours_that_cross_are_united():
    left, right = ring(1, 6, center=(9, 10)), ring(1, 6, center=(9, 16))
    found = rasterize([left, right], GRID)
    np.testing.assert_array_equal(found.mask.dense(), drawn(left) | drawn(right))
    assert found.counts == {"crossing": 1}
    hole = ring(1, 1.5, center=(9, 13))  # in both
    np.testing.assert_array_equal(drawn(left, right, hole), (drawn(left) | drawn(right)) & ~drawn(hole))


def test_exclusive_or_leaves_out_what_crossing_contours_share():
    left, right = square(1, 2.5, 8.5), square(1, 5.5, 12.5)
    found = rasterize([left, right, left[::-1]], GRID, exclusive_or=True)
    np.testing.assert_array_equal(found.mask.dense(), drawn(left) ^ drawn(right))
    assert found.counts == {"crossing": 1, "repeated": 1}


def test_planes_that_differ_by_rounding_are_one():
    low, high = square(2, 2.5, 6.5), square(2, 9.5, 12.5)
    heights = ((0.024, 0.026), (-0.026, -0.024))
    for a, b in heights:
        shifted = [points + (0, 0, 3 * height) for points, height in ((low, a), (high, b))]
        assert rasterize(shifted, GRID).mask.voxels.sum() == 16 + 9


def test_contours_that_leave_no_voxel_are_counted():
    tiny = [square(0, 3.2, 3.8), square(1, 3.2, 3.8)]
    found = rasterize([*tiny, square(2, 2.5, 5.5)], GRID)
    assert found.mask.voxels.sum() == 9
    assert found.counts == {"small": 2}


def test_points_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="not numbers"):
        rasterize([square(1, 3, 8) * (1, np.nan, 1)], GRID)


@pytest.mark.parametrize("factor", [1e9, -1e30])
def test_points_where_no_patient_is_are_refused(factor):
    """One such point made all contours of the structure leave no voxel."""
    far = square(2, 3, 8)
    far[1, 0] *= factor
    with pytest.raises(ValueError, match=r"has a contour with a coordinate of -?\d.*e\+\d+ mm, where no patient is"):
        rasterize([square(1, 3, 8), far], GRID)


def test_slices_without_a_contour_between_others_are_counted():
    assert rasterize([square(s, 3, 8) for s in (0, 1, 4)], GRID).counts == {"skipped": 2}


def on_edges(point, polygon):
    """On how many edges a point lies; all numbers are whole."""
    pairs = list(zip(polygon, [*polygon[1:], polygon[0]], strict=True))
    return sum(
        (b[0] - a[0]) * (point[1] - a[1]) == (b[1] - a[1]) * (point[0] - a[0])
        and all(min(p, q) <= c <= max(p, q) for p, q, c in zip(a, b, point, strict=True))
        for a, b in pairs
    )


def is_within(point, polygon):
    """Whether a ray from a point crosses the edges an odd number of times; all numbers are whole."""
    inside = False
    for (y, x), (next_y, next_x) in zip(polygon, [*polygon[1:], polygon[0]], strict=True):
        if (y > point[0]) != (next_y > point[0]):
            side = (point[1] - x) * (next_y - y) - (point[0] - y) * (next_x - x)
            inside ^= side < 0 if next_y > y else side > 0
    return inside


STEPS = st.one_of(
    st.integers(-3 * VERTEX_STEPS, 23 * VERTEX_STEPS),
    st.integers(-6, 46).map(lambda n: VERTEX_STEPS // 2 * n),
    st.integers(0, 20).map(lambda n: VERTEX_STEPS * n),
)
"""Anywhere, or so that many vertices and edges go through centers of voxels."""


@given(st.lists(st.tuples(STEPS, STEPS), min_size=3, max_size=12, unique=True))
@example([(0, 0), (324, 722), (2424, 92)])  # an edge through the center (8, 4), between vertices that are on none
@settings(max_examples=60, deadline=None)
def test_any_contour_has_the_centers_within_it_or_on_it(polygon):
    """Compared with a test of each center in whole numbers, also for contours that cross themselves.

    A center through which two edges pass may lie on either side: there the contour has no width.
    """
    found = rasterize([contour(2, *(np.array(polygon) / VERTEX_STEPS))], GRID)
    if found.counts["repeated"]:
        return
    mask = found.mask.dense()[2]
    for row, column in np.ndindex(SIZE[1:]):
        point = (VERTEX_STEPS * row, VERTEX_STEPS * column)
        edges = on_edges(point, polygon)
        if edges < 2:
            assert mask[row, column] == (edges == 1 or is_within(point, polygon)), (row, column)


MASKS = hnp.arrays(bool, (1, 9, 12))
"""Holes, islands in holes, corners that touch, single voxels."""


@pytest.mark.parametrize("keyholes", [False, True])
@given(mask=MASKS, data=st.data())
@settings(deadline=None, max_examples=60)
def test_any_mask_comes_back_however_its_contours_are_repeated(keyholes, mask, data):
    grid = Geometry(size_zyx=mask.shape, spacing_zyx_mm=(3.0, 1.5, 0.8), origin_xyz_mm=(-10.0, 5.0, 40.0))
    if keyholes:
        polygons = trace_polygons(mask[0], np.where(mask[0], 1, -1))
        contours = [np.array([grid.world_mm((0, y, x)) for y, x in polygon]) for polygon in polygons]
    else:
        contours = list(trace(mask, grid))
    extra = []
    if contours:
        exact = [way for name, way in AGAIN.items() if name != "thinned"]  # these contours have no points to spare
        pairs = st.tuples(st.sampled_from(range(len(contours))), st.sampled_from(exact))
        extra = [way(contours[i]) for i, way in data.draw(st.lists(pairs, max_size=6))]
    shuffled = data.draw(st.permutations([*contours, *extra]))
    found = rasterize(shuffled, grid)
    np.testing.assert_array_equal(found.mask.dense(), mask)
    assert found.counts["repeated"] + found.counts["crossing"] <= len(extra)


@given(
    st.lists(st.tuples(st.floats(2, 17), st.floats(2, 27), st.floats(2, 8), st.integers(3, 40)), min_size=1, max_size=5)
)
@settings(deadline=None, max_examples=100)
def test_circles_anywhere_lose_no_voxels_but_those_of_holes(circles):
    contours = [ring(2, radius, center=(y, x), num_points=n) for y, x, radius, n in circles]
    found = rasterize(contours, GRID)
    united = np.any([drawn(points) for points in contours], axis=0)
    assert not (found.mask.dense() & ~united).any()
    if not found.counts["hollow"]:
        assert found.mask.dense().sum() >= 0.4 * max(drawn(points).sum() for points in contours)


def test_contours_beyond_the_grid_are_cut_off_or_counted():
    found = rasterize([square(0, -4.0, 3.5), square(-2, 3, 8), square(7, 3, 8)], GRID)
    assert found.counts == {"outside": 2, "cut": 1}
    assert found.mask.dense().sum() == 4 * 4
    assert rasterize([square(-2, 3, 8)], GRID).mask.voxels.size == 0


def test_planes_between_slices_do_not_punch_holes():
    """Contours on every half slice of the CT: the nearest plane counts, not all of them one upon the other."""
    found = rasterize([square(s / 2, 3.5, 9.5) for s in range(9)], GRID)
    assert found.counts["between"] == 4
    assert found.mask.dense().sum() == 5 * 6 * 6


def test_contours_across_the_slices_are_refused():
    upright = np.array([GRID.world_mm(index) for index in [(0, 3, 5), (4, 3, 5), (4, 3, 9)]])
    with pytest.raises(ValueError, match="not parallel to the CT's slices"):
        rasterize([upright], GRID)


def test_no_contours_are_an_empty_mask():
    assert rasterize([], GRID).mask.voxels.shape == (0, 0, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_contours_around_any_mask_give_it_back(seed):
    mask = np.random.default_rng(seed).random(SIZE) > 0.4  # holes, islands and corners that touch
    np.testing.assert_array_equal(drawn(*trace(mask, GRID)), mask)

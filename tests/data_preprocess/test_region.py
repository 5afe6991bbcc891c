"""region.py: the box is the patient's head and neck, however long the scan and whatever surrounds the patient."""

import numpy as np
import pytest

from data_preprocess.region import find_region
from data_preprocess.sources.phantom import draw_phantom
from utils.geometry import Geometry

SPACING = (4.0, 3.0, 2.5)
SIZE = (90, 70, 100)
TRUNK_TOP, LUNG_TOP = 50, 38


def trunk(lungs=True):
    """A cylinder of 80 mm (head and neck, up to slice 84) on one of 160 mm with two lungs of 60 mm below slice 38."""
    z, y, x = np.ogrid[: SIZE[0], : SIZE[1], : SIZE[2]]
    radius = np.hypot((y - 35) * SPACING[1], (x - 50) * SPACING[2])
    image = np.full(SIZE, -1000, dtype=np.int16)
    image[np.broadcast_to((radius < 40) & (z < 85), SIZE)] = 40
    image[np.broadcast_to((radius < 80) & (z < TRUNK_TOP), SIZE)] = 40
    if lungs:
        for middle in (35, 65):
            lung = (np.hypot((y - 35) * SPACING[1], (x - middle) * SPACING[2]) < 28) & (z <= LUNG_TOP)
            image[np.broadcast_to(lung, SIZE)] = -850
    return image


def region_of(image, below_mm=0.0, start=(0, 0, 0)):
    whole = Geometry(size_zyx=image.shape, spacing_zyx_mm=SPACING, origin_xyz_mm=(-31.7, 12.9, 250.3))
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=SPACING, origin_xyz_mm=whole.world_mm(start))
    return find_region(image, geometry, below_mm)


@pytest.mark.parametrize(("below_mm", "bottom"), [(0, LUNG_TOP), (60, LUNG_TOP - 15), (-20, LUNG_TOP + 5)])
def test_a_long_scan_is_cut_relative_to_the_lung_tops(below_mm, bottom):
    region = region_of(trunk(), below_mm)
    assert abs(region.start_zyx[0] - bottom) <= 1
    assert region.cut_mm == region.start_zyx[0] * SPACING[0]
    assert region.stop_zyx[0] == 85  # so flat an end is where the scan ends: no margin of air


def test_above_the_shoulders_the_box_is_as_narrow_as_the_neck():
    region = region_of(trunk(), -60)
    assert region.size_zyx[2] * SPACING[2] == pytest.approx(80 + 20, abs=8)
    assert region_of(trunk(), 0).size_zyx[2] * SPACING[2] == pytest.approx(160 + 20, abs=8)


def test_without_lungs_nothing_is_cut():
    region = region_of(trunk(lungs=False))
    assert region.start_zyx[0] == 0
    assert region.cut_mm == 0


def test_air_table_and_a_cut_out_do_not_move_the_region():
    image = trunk()
    bare = region_of(image)
    pads = ((5, 7), (11, 3), (6, 2))
    before = tuple(a for a, _ in pads)
    padded = np.pad(image, pads, constant_values=-1000)
    padded[:, -2:] = 100  # a table, 6 mm thick
    moved = region_of(padded, start=tuple(-a for a in before))
    assert tuple(a - b for a, b in zip(moved.start_zyx, before, strict=True)) == bare.start_zyx
    assert tuple(a - b for a, b in zip(moved.stop_zyx, before, strict=True)) == bare.stop_zyx

    narrow = region_of(np.ascontiguousarray(image[:, 7:63, 15:85]), start=(0, 7, 15))
    assert narrow.start_zyx[1] + 7 == bare.start_zyx[1]  # it reaches out of the scan
    assert narrow.start_zyx[1] < 0
    assert narrow.stop_zyx[2] + 15 == bare.stop_zyx[2]


def test_cropping_adds_air_and_pasting_leaves_it_out():
    image = np.ascontiguousarray(trunk()[:, 7:63, 15:85])
    region = region_of(image)
    part = region.crop(image)
    assert part.shape == region.size_zyx
    assert (part[:, 0] == -1000).all()
    back = region.paste(part, image.shape)
    inside = np.s_[region.start_zyx[0] : region.stop_zyx[0]]
    np.testing.assert_array_equal(back[inside], image[inside])
    assert (back[: region.start_zyx[0]] == 0).all()


def test_a_scan_that_begins_at_the_lungs_is_refused():
    with pytest.raises(ValueError, match="lungs begin 24 mm below the top .* give a scan that shows the neck"):
        region_of(trunk()[: LUNG_TOP + 7])


@pytest.mark.parametrize("seed", [2, 4])
def test_a_phantom_with_a_chest_is_cut_where_the_phantom_without_ends(seed):
    spacing = (5.0, 4.0, 4.0)
    short = draw_phantom(seed, spacing_zyx_mm=spacing).volume
    long = draw_phantom(seed, spacing_zyx_mm=spacing, extent_zyx_mm=(520.0, 330.0, 420.0)).volume
    usual = find_region(short.array, short.geometry, -40)
    cut = find_region(long.array, long.geometry, -40)
    height, usual_height = (long.array.shape[0], short.array.shape[0])
    assert usual.cut_mm == 0
    assert cut.cut_mm > 200
    assert abs((height - cut.start_zyx[0]) - usual_height) <= 4  # slices from the top of the scan
    assert abs((height - cut.stop_zyx[0]) - (usual_height - usual.stop_zyx[0])) <= 1
    assert abs(cut.size_zyx[2] - usual.size_zyx[2]) <= 2

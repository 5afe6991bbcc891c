"""field_of_view.py: the region holds the head and neck and nothing else."""

import numpy as np
import pytest

from data_preprocess.anchor import find_anchor
from data_preprocess.field_of_view import CoarseGrid, Region, region_around, segment_body
from data_preprocess.sources.phantom.source import generate_phantom
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask

SPACING = (5.0, 3.0, 2.5)
SIZE = (24, 60, 80)
CENTER_MM, RADIUS_MM = (60.0, 75.0, 100.0), (45.0, 42.0, 60.0)
MARGIN_MM = 10


def scan(size=SIZE, spacing=SPACING, radius_mm=RADIUS_MM):
    """An ellipsoid of soft tissue in air; coordinates are index * spacing."""
    image = np.full(size, -1000, dtype=np.int16)
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(size, spacing, strict=True)), indexing="ij")
    inside = sum(((p - c) / r) ** 2 for p, c, r in zip((z, y, x), CENTER_MM, radius_mm, strict=True)) < 1
    image[inside] = 40
    return image


def body_of(image, spacing, below_mm):
    return segment_body(image, CoarseGrid.through(find_anchor(image, spacing), spacing), below_mm)


def find_region(image, spacing, below_mm):
    return region_around(body_of(image, spacing, below_mm), image)


def find_box(image, spacing=SPACING):
    """The region as slices, which may reach beyond the image."""
    region = find_region(image, spacing, 0)
    return tuple(map(slice, region.start_zyx, region.stop_zyx))


def box_mm(box, spacing=SPACING):
    return [(axis.start * s, axis.stop * s) for axis, s in zip(box, spacing, strict=True)]


def test_box_is_the_patient_and_a_margin():
    for (low, high), center, radius in zip(box_mm(find_box(scan(), SPACING)), CENTER_MM, RADIUS_MM, strict=True):
        assert center - radius - MARGIN_MM - 6 <= low <= center - radius - MARGIN_MM + 6
        assert center + radius + MARGIN_MM - 6 <= high <= center + radius + MARGIN_MM + 6


def test_patient_is_inside_the_box():
    image = scan()
    box = find_box(image, SPACING)
    outside = np.ones(image.shape, dtype=bool)
    outside[box] = False
    assert not (image[outside] > -300).any()


@pytest.mark.parametrize(("shown_mm", "doubts"), [(100, 0), (85, 0), (60, 1), (20, 1)])
def test_a_ct_without_a_whole_cross_section_is_doubted(shown_mm, doubts):
    """Of an ellipsoid with 200 cm2 only what lies near its axis is shown, up to 200, 185, 113 and 13 cm2."""
    image = scan(size=(24, 60, 96), radius_mm=(45.0, 70.0, 91.0))
    y, x = np.ogrid[:60, :96]
    image[:, np.hypot(3.0 * y - 75, 2.5 * x - 100) > shown_mm] = -1000
    found = body_of(image, SPACING, 0).doubts()
    assert len(found) == doubts
    assert all(
        text.startswith("no slice shows a whole head or neck: the largest cross-section has 1") for text in found
    )


def test_table_under_the_patient_is_excluded():
    image = scan()
    bare = find_box(image, SPACING)
    image[:, 38:41] = 100  # 9 mm thick, in touch with the back, as wide and long as the scan
    found = find_box(image, SPACING)
    assert found[0] == bare[0]
    assert found[1].stop <= bare[1].stop + 2
    assert abs(found[2].start - bare[2].start) <= 2
    assert abs(found[2].stop - bare[2].stop) <= 2


def test_table_is_excluded_from_a_few_slices_too():
    image = scan()[11:13]  # 10 mm, narrower than the opening
    bare = find_box(image, SPACING)
    image[:, 38:41] = 100
    found = find_box(image, SPACING)
    assert bare[0] == found[0] == slice(0, 2)
    assert abs(found[2].start - bare[2].start) <= 2
    assert abs(found[2].stop - bare[2].stop) <= 2


def test_detached_couch_is_excluded():
    image = scan()
    bare = find_box(image, SPACING)
    image[:, 50:58, 10:70] = 0  # 24 mm thick, 33 mm behind the back
    assert find_box(image, SPACING) == bare


def test_thin_lines_and_small_objects_are_excluded():
    image = scan()
    bare = find_box(image, SPACING)
    image[:, 5, 5] = 500
    image[2, 30, 70:76] = 2000
    image[12, :15, 40] = 300  # a tube from the mouth to the edge of the scan
    found = find_box(image, SPACING)
    assert (found[0], found[2]) == (bare[0], bare[2])
    assert bare[1].start - 1 <= found[1].start  # all but the tube's first millimeters
    assert found[1].stop == bare[1].stop


def test_box_does_not_depend_on_the_air_around():
    image = scan()
    bare = find_box(image, SPACING)
    pads = ((3, 2), (7, 8), (9, 4))
    padded = find_box(np.pad(image, pads, constant_values=-1000), SPACING)
    for axis, other, (before, _) in zip(bare, padded, pads, strict=True):
        assert (other.start - before, other.stop - before) == (axis.start, axis.stop)


def test_fine_slices_shift_the_box_by_less_than_a_coarse_voxel():
    spacing = (1.0, 1.0, 1.5)
    image = scan((120, 150, 120), spacing, radius_mm=(40.0, 45.0, 60.0))
    bare = find_box(image, spacing)
    assert (image[bare] > -300).sum() == (image > -300).sum()
    for axis, center, radius, step in zip(bare, CENTER_MM, (40.0, 45.0, 60.0), spacing, strict=True):
        assert axis.start * step == pytest.approx(center - radius - MARGIN_MM, abs=4)
        assert axis.stop * step == pytest.approx(center + radius + MARGIN_MM, abs=4)
    padded = find_box(np.pad(image, ((3, 0), (5, 0), (1, 0)), constant_values=-1000), spacing)
    for axis, other, before, step in zip(bare, padded, (3, 5, 1), spacing, strict=True):
        assert abs(other.start - before - axis.start) * step < 4
        assert abs(other.stop - before - axis.stop) * step < 4


def test_neck_that_leaves_the_scan_reaches_the_last_slice():
    image = scan()
    neck = (slice(0, 12), slice(18, 32), slice(30, 50))  # 42 x 50 mm
    image[neck] = 40
    assert find_box(image, SPACING)[0].start == -MARGIN_MM / SPACING[0]  # so thin an end may be the patient's own
    image = image[:12]
    assert find_box(image, SPACING)[0] == slice(-2, 12)  # cut through the head, which continues beyond the scan


def test_thin_patient_is_still_found():
    image = np.full((4, 20, 20), -1000, dtype=np.int16)
    image[:, 9:11, 8:12] = 0  # nothing survives the opening
    box = find_box(image, SPACING)
    assert box[1].start <= 9
    assert box[1].stop >= 11


def test_nothing_but_air_is_an_error():
    with pytest.raises(ValueError, match="expected a patient with voxels above -300 HU, got at most"):
        find_box(np.full((4, 6, 8), -1000, dtype=np.int16), SPACING)


TRUNK_SPACING = (4.0, 3.0, 2.5)
TRUNK_SIZE = (90, 70, 100)
TRUNK_TOP, LUNG_APEX = 50, 38


def trunk(lungs=True):
    """A cylinder of 80 mm (head and neck, up to slice 84) on one of 160 mm with two lungs of 60 mm below slice 38."""
    z, y, x = np.ogrid[: TRUNK_SIZE[0], : TRUNK_SIZE[1], : TRUNK_SIZE[2]]
    radius = np.hypot((y - 35) * TRUNK_SPACING[1], (x - 50) * TRUNK_SPACING[2])
    image = np.full(TRUNK_SIZE, -1000, dtype=np.int16)
    image[np.broadcast_to((radius < 40) & (z < 85), TRUNK_SIZE)] = 40
    image[np.broadcast_to((radius < 80) & (z < TRUNK_TOP), TRUNK_SIZE)] = 40
    if lungs:
        for middle in (35, 65):
            lung = (np.hypot((y - 35) * TRUNK_SPACING[1], (x - middle) * TRUNK_SPACING[2]) < 28) & (z <= LUNG_APEX)
            image[np.broadcast_to(lung, TRUNK_SIZE)] = -850
    return image


def region_of(image, below_mm=0.0):
    return find_region(image, TRUNK_SPACING, below_mm)


@pytest.mark.parametrize(("below_mm", "bottom"), [(0, LUNG_APEX), (60, LUNG_APEX - 15), (-20, LUNG_APEX + 5)])
def test_a_long_scan_is_cut_relative_to_the_lung_apex(below_mm, bottom):
    region = region_of(trunk(), below_mm)
    assert abs(region.start_zyx[0] - bottom) <= 1
    assert region.cut_mm == region.start_zyx[0] * TRUNK_SPACING[0]
    assert region.stop_zyx[0] == 85  # so flat an end is where the scan ends: no margin of air


def test_above_the_shoulders_the_box_is_as_narrow_as_the_neck():
    region = region_of(trunk(), -60)
    assert region.size_zyx[2] * TRUNK_SPACING[2] == pytest.approx(80 + 20, abs=8)
    assert region_of(trunk(), 0).size_zyx[2] * TRUNK_SPACING[2] == pytest.approx(160 + 20, abs=8)


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
    moved = region_of(padded)
    assert tuple(a - b for a, b in zip(moved.start_zyx, before, strict=True)) == bare.start_zyx
    assert tuple(a - b for a, b in zip(moved.stop_zyx, before, strict=True)) == bare.stop_zyx

    narrow = region_of(np.ascontiguousarray(image[:, 7:63, 15:85]))
    assert narrow.start_zyx[1] + 7 == bare.start_zyx[1]  # it reaches out of the scan
    assert narrow.start_zyx[1] < 0
    assert narrow.stop_zyx[2] + 15 == bare.stop_zyx[2]


def test_a_thin_couch_that_goes_on_beyond_a_cut_end_does_not_lengthen_the_region():
    image = np.full(
        (60, 100, 120), -1000, dtype=np.int16
    )  # voxels of 3 x 1.5 x 1.5 mm, of which samples are 3 mm apart
    z, y, x = np.ogrid[:60, :100, :120]
    radius_mm = 1.5 * np.hypot(y - 45, x - 60)
    image[np.broadcast_to((radius_mm < 60) & (z >= 20) & (z < 50), image.shape)] = 40
    spacing = (3.0, 1.5, 1.5)
    bare = find_region(image, spacing, 0)
    assert (bare.start_zyx[0], bare.stop_zyx[0]) == (20, 50)
    for gap_mm in (0, 1.5, 3):
        couch = (radius_mm >= 60 + gap_mm) & (radius_mm < 66 + gap_mm) & (y > 60)
        held = np.where(np.broadcast_to(couch, image.shape), 60, image).astype(np.int16)
        moved = find_region(held, spacing, 0)
        assert (moved.start_zyx[0], moved.stop_zyx[0]) == (20, 50), gap_mm


def test_fragments_of_a_patient_in_line_belong_to_the_body_and_a_couch_does_not():
    image = trunk(lungs=False)
    whole = region_of(image)
    image[60:64] = -1000  # between head and trunk
    image[:, 66:, 20:80] = 60  # a solid couch, 12 mm thick, 3 cm behind the neck
    image[20:, :4, 45:55] = 60  # a rail in front of it
    fragments = region_of(image)
    assert fragments.stop_zyx == whole.stop_zyx
    assert fragments.start_zyx == whole.start_zyx


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


def test_voxels_below_the_cut_do_not_count_as_outside_of_the_body():
    image = trunk()
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=TRUNK_SPACING)
    body = body_of(image, TRUNK_SPACING, 0)
    region = region_around(body, image)
    bottom = region.start_zyx[0]
    cord = np.zeros(image.shape, dtype=bool)
    cord[bottom - 10 : 80, 34:36, 50] = True
    mask = crop_mask(cord, (0, 0, 0), geometry)
    assert region.fraction_outside(mask) == pytest.approx(10 / (90 - bottom))
    kept = region.cut(mask)
    assert kept.corner_zyx == (bottom, 34, 50)
    assert region.fraction_outside(kept) == body.fraction_outside(kept) == 0
    assert not region.cut(crop_mask(cord[:bottom], (0, 0, 0), geometry)).voxels.size
    assert Region((0, 0, 0), image.shape).cut(mask) is not None
    couch = np.zeros(image.shape, dtype=bool)
    couch[:, 66:, 40:60] = True
    assert body.fraction_outside(crop_mask(couch, (0, 0, 0), geometry)) == 1


def test_a_scan_that_begins_at_the_lungs_is_refused():
    with pytest.raises(ValueError, match="lungs begin 24 mm below the top .* give a scan that shows the neck"):
        region_of(trunk()[: LUNG_APEX + 7])


def test_blanked_slices_within_the_skin_are_no_lungs():
    """Some scans of OpenKBP hold nothing but the skin of their uppermost slices."""
    image = trunk(lungs=False)
    z, y, x = np.ogrid[: TRUNK_SIZE[0], : TRUNK_SIZE[1], : TRUNK_SIZE[2]]
    inner = (np.hypot((y - 35) * TRUNK_SPACING[1], (x - 50) * TRUNK_SPACING[2]) < 34) & (z >= 70) & (z < 84)
    image[np.broadcast_to(inner, TRUNK_SIZE)] = -1000
    region = region_of(image)
    assert region.start_zyx[0] == region.cut_mm == 0
    assert region.stop_zyx[0] >= 70
    image[np.broadcast_to(inner, TRUNK_SIZE)] = -850
    with pytest.raises(UserError, match="lungs begin"):
        region_of(image)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 4])
def test_a_phantom_with_a_chest_is_cut_where_the_phantom_without_ends(seed):
    spacing = (5.0, 4.0, 4.0)
    short = generate_phantom(seed, spacing_zyx_mm=spacing).volume
    long = generate_phantom(seed, spacing_zyx_mm=spacing, extent_zyx_mm=(520.0, 330.0, 420.0)).volume
    usual = find_region(short.array, spacing, -40)
    cut = find_region(long.array, spacing, -40)
    height, usual_height = (long.array.shape[0], short.array.shape[0])
    assert usual.cut_mm == 0
    assert cut.cut_mm > 200
    assert abs((height - cut.start_zyx[0]) - usual_height) <= 4  # slices from the top of the scan
    assert abs((height - cut.stop_zyx[0]) - (usual_height - usual.stop_zyx[0])) <= 1
    assert abs(cut.size_zyx[2] - usual.size_zyx[2]) <= 2

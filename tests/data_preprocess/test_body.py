"""body.py: the box holds the patient and nothing else."""

import numpy as np
import pytest

from data_preprocess.body import find_body

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


def box_mm(box, spacing=SPACING):
    return [(axis.start * s, axis.stop * s) for axis, s in zip(box, spacing, strict=True)]


def test_box_is_the_patient_and_a_margin():
    for (low, high), center, radius in zip(box_mm(find_body(scan(), SPACING)), CENTER_MM, RADIUS_MM, strict=True):
        assert center - radius - MARGIN_MM - 6 <= low <= center - radius - MARGIN_MM + 6
        assert center + radius + MARGIN_MM - 6 <= high <= center + radius + MARGIN_MM + 6


def test_patient_is_inside_the_box():
    image = scan()
    box = find_body(image, SPACING)
    outside = np.ones(image.shape, dtype=bool)
    outside[box] = False
    assert not (image[outside] > -300).any()


def test_table_under_the_patient_is_excluded():
    image = scan()
    bare = find_body(image, SPACING)
    image[:, 38:41] = 100  # 9 mm thick, in touch with the back, as wide and long as the scan
    found = find_body(image, SPACING)
    assert found[0] == bare[0]
    assert found[1].stop <= bare[1].stop + 2
    assert abs(found[2].start - bare[2].start) <= 2
    assert abs(found[2].stop - bare[2].stop) <= 2


def test_table_is_excluded_from_a_few_slices_too():
    image = scan()[11:13]  # 10 mm, thinner than the opening
    bare = find_body(image, SPACING)
    image[:, 38:41] = 100
    found = find_body(image, SPACING)
    assert bare[0] == found[0] == slice(0, 2)
    assert abs(found[2].start - bare[2].start) <= 2
    assert abs(found[2].stop - bare[2].stop) <= 2


def test_detached_couch_is_excluded():
    image = scan()
    bare = find_body(image, SPACING)
    image[:, 50:58, 10:70] = 0  # 24 mm thick, 33 mm behind the back
    assert find_body(image, SPACING) == bare


def test_thin_lines_and_specks_are_excluded():
    image = scan()
    bare = find_body(image, SPACING)
    image[:, 5, 5] = 500
    image[2, 30, 70:76] = 2000
    image[12, :15, 40] = 300  # a tube from the mouth to the edge of the scan
    found = find_body(image, SPACING)
    assert (found[0], found[2]) == (bare[0], bare[2])
    assert bare[1].start - 1 <= found[1].start  # all but the tube's first millimetres
    assert found[1].stop == bare[1].stop


def test_box_does_not_depend_on_the_air_around():
    image = scan()
    bare = find_body(image, SPACING)
    pads = ((3, 2), (7, 8), (9, 4))
    padded = find_body(np.pad(image, pads, constant_values=-1000), SPACING)
    for axis, other, (before, _) in zip(bare, padded, pads, strict=True):
        assert (other.start - before, other.stop - before) == (axis.start, axis.stop)


def test_fine_slices_shift_the_box_by_less_than_a_coarse_voxel():
    spacing = (1.0, 1.0, 1.5)
    image = scan((120, 150, 120), spacing, radius_mm=(40.0, 45.0, 60.0))
    bare = find_body(image, spacing)
    assert (image[bare] > -300).sum() == (image > -300).sum()
    for axis, center, radius, step in zip(bare, CENTER_MM, (40.0, 45.0, 60.0), spacing, strict=True):
        assert axis.start * step == pytest.approx(center - radius - MARGIN_MM, abs=4)
        assert axis.stop * step == pytest.approx(center + radius + MARGIN_MM, abs=4)
    padded = find_body(np.pad(image, ((3, 0), (5, 0), (1, 0)), constant_values=-1000), spacing)
    for axis, other, before, step in zip(bare, padded, (3, 5, 1), spacing, strict=True):
        assert abs(other.start - before - axis.start) * step < 4
        assert abs(other.stop - before - axis.stop) * step < 4


def test_neck_that_leaves_the_scan_reaches_the_last_slice():
    image = scan()
    neck = (slice(0, 12), slice(18, 32), slice(30, 50))  # 42 x 50 mm
    image[neck] = 40
    assert find_body(image, SPACING)[0].start == 0
    image = image[:12]
    assert find_body(image, SPACING)[0] == slice(0, 12)


def test_thin_patient_is_still_found():
    image = np.full((4, 20, 20), -1000, dtype=np.int16)
    image[:, 9:11, 8:12] = 0  # nothing survives the opening
    box = find_body(image, SPACING)
    assert box[1].start <= 9
    assert box[1].stop >= 11


def test_nothing_but_air_is_an_error():
    with pytest.raises(ValueError, match="no voxel is denser than -300 HU: is this a CT in HU"):
        find_body(np.full((4, 6, 8), -1000, dtype=np.int16), SPACING)

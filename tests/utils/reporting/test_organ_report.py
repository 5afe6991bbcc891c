"""utils/reporting/organ_report.py: measurements and flags that a person can work out."""

from itertools import combinations

import numpy as np
import pytest

from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.imaging.geometry import Geometry
from utils.reporting.organ_report import UNUSUAL_PLACE, UNUSUAL_VOLUME, OrganConfidence, build_organ_report

SIZE = (8, 10, 12)
GEOMETRY = Geometry(size_zyx=SIZE, spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(100.0, -50.0, 7.0))
NO_ARRANGEMENT = Arrangement(())
BRAINSTEM, CHIASM, LEFT, RIGHT = 1, 2, 6, 7
"""Labels; the last two are the parotids."""


@pytest.fixture
def label():
    label = np.zeros(SIZE, dtype=np.uint8)
    label[2:4, 3:6, 4:6] = BRAINSTEM
    label[6, 8, 2] = BRAINSTEM
    label[4, 4, 5] = CHIASM
    label[1:3, 1:3, 8:10] = LEFT
    label[1:3, 1:3, 1:3] = RIGHT
    return label


def test_measurements_are_those_by_hand(label, tiny_preset):
    report = build_organ_report(label, GEOMETRY, tiny_preset, {}, NO_ARRANGEMENT)
    brainstem = report["brainstem"]
    assert (brainstem["label"], brainstem["num_voxels"], brainstem["components"]) == (BRAINSTEM, 13, 2)
    assert brainstem["volume_ml"] == pytest.approx(13 * 6 / 1000)
    z, y, x = (12 * 2.5 + 6) / 13, (12 * 4 + 8) / 13, (12 * 4.5 + 2) / 13
    np.testing.assert_allclose(brainstem["center_xyz_mm"], [100 + x, -50 + 2 * y, 7 + 3 * z], atol=0.01)
    assert list(report) == list(tiny_preset.organ_names)


def test_voxels_that_touch_by_a_corner_are_one_component(label, tiny_preset):
    label[:] = 0
    label[2, 2, 2] = label[3, 3, 3] = CHIASM
    assert build_organ_report(label, GEOMETRY, tiny_preset, {}, NO_ARRANGEMENT)["chiasm"]["components"] == 1


def test_a_missing_organ_is_reported(label, tiny_preset):
    mandible = build_organ_report(
        label, GEOMETRY, tiny_preset, {"mandible": OrganConfidence(peak=0.1)}, NO_ARRANGEMENT
    )["mandible"]
    assert mandible["flags"] == ["not found"]
    assert mandible["num_voxels"] == mandible["components"] == 0
    assert mandible["peak"] == 0.1
    assert "center_xyz_mm" not in mandible


@pytest.mark.parametrize(
    ("confidence", "flags"),
    [
        (OrganConfidence(), []),
        (OrganConfidence(confidence=0.9, peak=0.7, plausibility=0.8), []),
        (OrganConfidence(confidence=0.59), ["low confidence"]),
        (OrganConfidence(confidence=0.9, peak=0.1, peak_found=False), ["low confidence"]),
        (OrganConfidence(plausibility=0.59), ["implausible shape"]),
        (OrganConfidence(confidence=0.5, plausibility=0.1), ["low confidence", "implausible shape"]),
    ],
)
def test_flags_follow_the_confidence(confidence, flags, label, tiny_preset):
    report = build_organ_report(label, GEOMETRY, tiny_preset, {"chiasm": confidence}, NO_ARRANGEMENT)
    assert report["chiasm"]["flags"] == [*flags, UNUSUAL_VOLUME]  # 0.006 ml


@pytest.mark.parametrize("voxel", [(0, 4, 5), (7, 4, 5), (4, 0, 5), (4, 9, 5), (4, 4, 0), (4, 4, 11)])
def test_an_organ_at_any_face_touches_the_border(voxel, label, tiny_preset):
    label[voxel] = CHIASM
    assert build_organ_report(label, GEOMETRY, tiny_preset, {}, NO_ARRANGEMENT)["chiasm"]["flags"] == [
        "touches the border of the scan"
    ]


def test_sides_are_those_of_the_patient(label, tiny_preset):
    report = build_organ_report(label, GEOMETRY, tiny_preset, {}, NO_ARRANGEMENT)
    assert report["parotid_left"]["flags"] == report["parotid_right"]["flags"] == [UNUSUAL_VOLUME]

    turned = Geometry(size_zyx=SIZE, spacing_zyx_mm=(3.0, 2.0, 1.0), direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1))
    report = build_organ_report(label, turned, tiny_preset, {}, NO_ARRANGEMENT)  # x grows to the right in this file
    assert (
        report["parotid_left"]["flags"]
        == report["parotid_right"]["flags"]
        == [UNUSUAL_VOLUME, "left and right swapped"]
    )


def test_confidence_is_reported_in_numbers(label, tiny_preset):
    known = OrganConfidence(confidence=0.91234, peak=0.5, peak_xyz_mm=(1.234, 2.0, 3.0), segmented_by="SOS-Net")
    chiasm = build_organ_report(label, GEOMETRY, tiny_preset, {"chiasm": known}, NO_ARRANGEMENT)["chiasm"]
    assert (chiasm["confidence"], chiasm["peak"], chiasm["segmented_by"]) == (0.9123, 0.5, "SOS-Net")
    assert chiasm["peak_xyz_mm"] == [1.23, 2.0, 3.0]
    assert "plausibility" not in chiasm


def test_the_organ_in_a_wrong_place_is_flagged_and_not_the_others(tiny_preset):
    """The chiasm lies 12 mm too high; the offsets of the other organs to it are wrong too, but not to each other."""
    label = np.zeros(SIZE, dtype=np.uint8)
    label[2, 2, 2], label[2, 4, 6], label[2, 6, 8] = BRAINSTEM, LEFT, RIGHT
    label[6, 2, 6] = CHIASM
    places_mm = {"brainstem": (13, -46, 102), "parotid_left": (13, -42, 106), "parotid_right": (13, -38, 108)}
    places_mm["chiasm"] = (13, -46, 106)
    offsets = [
        OrganOffset(a, b, tuple(np.subtract(places_mm[a], places_mm[b]).tolist()), (3.9, 3.0, 3.0))
        for a, b in combinations(places_mm, 2)
    ]
    report = build_organ_report(label, GEOMETRY, tiny_preset, {}, Arrangement(offsets))
    assert [name for name in places_mm if UNUSUAL_PLACE in report[name]["flags"]] == ["chiasm"]
    assert report["chiasm"]["displacement"] == pytest.approx(12 / 3.9, abs=0.01)
    assert report["brainstem"]["displacement"] == 0
    assert "displacement" not in report["mandible"]

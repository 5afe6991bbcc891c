"""measurements.py and outliers.py: what is measured of a case, and which findings a person is shown."""

import numpy as np
import pytest

from data_preprocess.field_of_view import CoarseGrid, segment_body
from data_preprocess.quality_control.measurements import (
    CaseQuality,
    OrganQuality,
    format_ml,
    measure_case,
    read_quality,
    write_quality,
)
from data_preprocess.quality_control.outliers import check_cases, not_compared
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask

SIZE, SPACING = (20, 40, 50), (4.0, 2.0, 2.5)
GEOMETRY = Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING)
PAIRS = (("parotid_left", "parotid_right"),)
USUAL = {
    "brainstem": ((60, 50, 60), 25.0),
    "parotid_left": ((40, 40, 90), 27.0),
    "parotid_right": ((40, 40, 30), 27.0),
    "mandible": ((20, 10, 60), 60.0),
}
"""Organ to center (z, y, x) in mm and volume in ml."""


def box_mask(*boxes):
    mask = np.zeros(SIZE, dtype=bool)
    for box in boxes:
        mask[tuple(slice(*axis) for axis in box)] = True
    return crop_mask(mask, (0, 0, 0), GEOMETRY)


def body():
    """A body of 40 HU from voxel (2, 8, 10) to (18, 32, 40), with a cavity of air."""
    image = np.full(SIZE, -1000, dtype=np.int16)
    image[2:18, 8:32, 10:40] = 40
    image[8:12, 16:22, 20:28] = -1000
    return image


def quality(organs=USUAL, **changed):
    values = {"lowest_hu": -1000.0, "highest_hu": 1500.0, "body_hu": 40.0} | changed
    return CaseQuality(
        **values,
        organs={
            name: OrganQuality(num_voxels=900, volume_ml=ml, center_mm=center, num_components=1, fraction_outside=0.0)
            for name, (center, ml) in organs.items()
        },
    )


def cohort(**extra):
    """Nine patients of different sizes who lie in different places, and some more."""
    rng = np.random.default_rng(0)
    cases = {}
    for i in range(9):
        place, scale = rng.uniform(-40, 40, 3), rng.uniform(0.95, 1.05)
        organs = {
            n: (tuple(scale * np.array(c) + rng.uniform(-2, 2, 3) + place), ml * rng.uniform(0.9, 1.1))
            for n, (c, ml) in USUAL.items()
        }
        cases[f"case_{i}"] = quality(organs)
    return cases | extra


def findings_of(**changed):
    found = check_cases(cohort(odd=quality(USUAL | changed)), PAIRS)
    assert not any(findings for case_id, findings in found.items() if case_id != "odd")
    return [str(finding) for finding in found["odd"]]


def test_measured_by_hand():
    masks = {
        "whole": box_mask(((4, 8), (10, 20), (12, 16))),
        "in_two": box_mask(((4, 6), (10, 12), (12, 20)), ((4, 6), (24, 28), (12, 20))),
        "with_a_crumb": box_mask(((4, 8), (10, 20), (12, 16)), ((16, 17), (30, 31), (30, 32))),
        "in_the_cavity": box_mask(((9, 11), (17, 20), (22, 26))),
        "outside": box_mask(((9, 11), (8, 10), (0, 20))),
    }
    image = body()
    measured = measure_case(
        masks, image, segment_body(image, CoarseGrid.through((0, 0, 0), GEOMETRY.spacing_zyx_mm), 0)
    )
    assert (measured.lowest_hu, measured.highest_hu, measured.body_hu) == (-1000, 40, 40)
    whole = measured.organs["whole"]
    assert whole.num_voxels == 160
    assert whole.volume_ml == pytest.approx(160 * 20 / 1000)
    assert whole.center_mm == pytest.approx((6 * 4, 15 * 2, 14 * 2.5))
    assert [organ.num_components for organ in measured.organs.values()] == [1, 2, 1, 1, 1]
    assert [round(organ.fraction_outside, 1) for organ in measured.organs.values()] == [0, 0, 0, 0, 0.4]


def test_measurements_of_earlier_versions_are_read(tmp_path):
    measured = measure_case({"whole": box_mask(((4, 8), (10, 20), (12, 16)))}, None, None)
    write_quality(tmp_path, measured)
    text = (tmp_path / "quality.json").read_text(encoding="utf-8")
    old = text.replace("num_components", "num_pieces").replace("fraction_outside", "outside_share")
    assert old != text
    (tmp_path / "quality.json").write_text(old, encoding="utf-8")
    assert read_quality(tmp_path) == measured


def test_masks_alone_are_measured_too(tmp_path):
    measured = measure_case({"whole": box_mask(((4, 8), (10, 20), (12, 16)))}, None, None)
    assert measured.body_hu is None
    assert measured.organs["whole"].fraction_outside == 0
    write_quality(tmp_path, measured)
    assert read_quality(tmp_path) == measured
    assert read_quality(tmp_path / "nowhere") is None
    (tmp_path / "quality.json").write_text('{"organs": {"whole": {}}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"quality\.json: is damaged"):
        read_quality(tmp_path)


def test_usual_cases_have_no_findings():
    assert findings_of() == []


def test_an_organ_of_unusual_size_is_found():
    (finding,) = findings_of(parotid_left=((40, 40, 90), 60.0))
    assert finding == "parotid_left: volume 60 ml, median 26.8 ml (+6.0 standard deviations)"


def test_an_organ_in_an_unusual_place_is_found_wherever_the_patient_lies():
    (finding,) = findings_of(mandible=((20, 45, 60), 60.0))
    assert finding.startswith("mandible: lies 3")
    assert "mm too far posterior relative to the other organs" in finding


def test_swapped_sides_are_found():
    swapped = findings_of(parotid_left=USUAL["parotid_right"], parotid_right=USUAL["parotid_left"])
    assert "parotid_left: left and right are swapped: it lies to the right of parotid_right" in swapped


def test_one_side_alone_on_the_wrong_side_is_found():
    organs = {name: value for name, value in USUAL.items() if name != "parotid_right"}
    organs["parotid_left"] = USUAL["parotid_right"]
    findings = check_cases(cohort(odd=quality(organs)), PAIRS)["odd"]
    assert any("parotid_left: lies" in str(finding) and "too far right" in str(finding) for finding in findings)


def test_more_components_than_usual_are_found():
    def in_components(count):
        usual = quality()
        organs = {n: OrganQuality(**{**o.__dict__, "num_components": count}) for n, o in usual.organs.items()}
        return CaseQuality(**{**usual.__dict__, "organs": organs})

    few = check_cases({"a": in_components(2), "b": in_components(1)}, PAIRS)
    assert len(few["a"]) == 4
    assert few["b"] == []
    many = check_cases({f"case_{i}": in_components(2) for i in range(9)} | {"odd": in_components(3)}, PAIRS)
    assert [case_id for case_id, findings in many.items() if findings] == ["odd"]


def test_a_mask_outside_the_body_is_found():
    usual = quality()
    outside = OrganQuality(**{**usual.organs["mandible"].__dict__, "fraction_outside": 0.4})
    odd = CaseQuality(**{**usual.__dict__, "organs": usual.organs | {"mandible": outside}})
    assert [str(finding) for finding in check_cases({"odd": odd}, PAIRS)["odd"]] == [
        "mandible: 40% of it lies outside the body"
    ]


def test_few_cases_and_cases_without_organs_are_no_trouble():
    cases = {"a": quality(), "b": quality({"mandible": ((20, 10, 60), 160.0)}), "c": quality({})}
    assert not any(check_cases(cases, PAIRS).values())
    assert check_cases(cohort(c=quality({})), PAIRS)["c"] == []
    assert check_cases({}, PAIRS) == {}


@pytest.mark.parametrize("volume_ml", [422.0, 0.2])
def test_a_single_case_is_compared_with_known_volumes(volume_ml):
    findings = check_cases({"odd": quality({"spinal_cord": ((0, 0, 0), volume_ml), "lips": ((0, 0, 0), 999.0)})}, ())
    assert list(map(str, findings["odd"])) == [f"spinal_cord: volume {volume_ml:.3g} ml, known volumes 2.5 to 90 ml"]


def test_what_was_not_compared_is_said():
    few = {"a": quality({"brainstem": ((0, 0, 0), 25.0), "lips": ((0, 0, 0), 30.0)}), "b": quality({})}
    between = "volume and position not compared between cases, because fewer than 8 have the organ: "
    unknown = "volume not compared with known volumes, because there are none: lips"
    assert not_compared(few, ("brainstem", "lips", "mandible")) == [between + "all organs", unknown]
    assert not_compared(cohort(), tuple(USUAL)) == []
    assert not_compared(cohort() | few, (*USUAL, "lips")) == [between + "lips", unknown]


def test_volumes_are_written_without_powers_of_ten():
    assert [format_ml(v) for v in (0.05512, 8.914, 62.0, 1392.4)] == ["0.0551", "8.91", "62", "1392"]

"""utils/imaging/arrangement.py: what is usual is measured, and what cannot be is said in words."""

import numpy as np
import pytest

from data_preprocess.sources import SOURCES
from utils.config.preset import load_preset
from utils.imaging.arrangement import MIN_CASES, Arrangement, OrganOffset

NAMES = ("brainstem", "larynx", "parotid_left", "parotid_right", "eye")
USUAL = {"brainstem": (120, 40, 0), "larynx": (0, 0, 0), "parotid_left": (80, 15, 58), "parotid_right": (80, 15, -58)}


def cases(count, spread_mm=2.0):
    """Patients anywhere in their scans; the eye is contoured in one case less than is needed."""
    rng = np.random.default_rng(0)
    centers = np.array([*USUAL.values(), (130, -60, 30)]) + rng.normal(0, spread_mm, (count, 5, 3))
    centers[MIN_CASES - 1 :, 4] = np.nan
    return centers + rng.uniform(-300, 300, (count, 1, 3))


@pytest.fixture(scope="module")
def arrangement():
    return Arrangement.of(NAMES, cases(40))


def test_offsets_and_deviations_are_those_of_the_cases():
    centers = np.zeros((27, 2, 3))
    centers[:, 0, 0] = 3 * [100, 100, 102, 104, 110, 116, 118, 120, 900]  # median 110, median absolute deviation 8
    centers[:, 0, 1] = -7
    [offset] = Arrangement.of(("a", "b"), centers).offsets
    assert offset == OrganOffset("a", "b", (110.0, -7.0, 0.0), (11.9, 3.0, 3.0))


def test_pairs_of_few_cases_are_left_out(arrangement):
    assert len(arrangement.offsets) == 6
    assert not any("eye" in (offset.organ, offset.other) for offset in arrangement.offsets)


def test_usual_places_contradict_nothing_wherever_the_patient_lies(arrangement):
    for shift in (0, 500):
        assert arrangement.contradictions({name: tuple(np.add(at, shift)) for name, at in USUAL.items()}) == []
    assert arrangement.contradictions({"brainstem": (0, 0, 0), "eye": (0, 0, 0)}) == []
    assert arrangement.contradictions({"brainstem": (0, 0, 0)}) == []


@pytest.mark.parametrize(
    ("organ", "place", "text"),
    [
        ("brainstem", (-40, 40, 0), "brainstem lies 40 mm below larynx, expected 103 to 139 mm above"),
        ("larynx", (0, 100, 0), "brainstem lies 60 mm in front of larynx, expected 21 to 57 mm behind"),
        (
            "parotid_left",
            (80, 15, -90),
            "parotid_left lies 32 mm to the right of parotid_right, expected 98 to 134 mm to the left",
        ),
    ],
)
def test_impossible_places_are_said(organ, place, text, arrangement):
    said = arrangement.contradictions(USUAL | {organ: place})
    assert any(line.startswith(text) for line in said), said
    assert 1 <= len(said) <= 3


def test_a_range_on_both_sides_is_said_with_both():
    arrangement = Arrangement([OrganOffset("mandible", "brainstem", (-50.0, -70.0, 1.0), (9.0, 8.0, 3.0))])
    said = arrangement.contradictions({"brainstem": (0, 0, 0), "mandible": (-50, -70, 42)})
    assert said == ["mandible lies 42 mm to the left of brainstem, expected 17 mm to the right to 19 mm to the left"]


def test_heights_of_organs_that_the_scan_cuts_off_are_not_compared(arrangement):
    centers = USUAL | {"brainstem": (-40, 40, 0)}
    assert arrangement.contradictions(centers, ["brainstem"]) == []
    assert arrangement.contradictions(USUAL | {"brainstem": (-40, 140, 0)}, ["brainstem"]) != []


def test_a_table_of_plain_values_holds_all(arrangement):
    table = arrangement.to_table()
    assert table[0].keys() == {"organ", "other", "median_mm", "deviation_mm"}
    assert Arrangement.from_table(table).offsets == arrangement.offsets


@pytest.mark.slow
def test_real_patients_agree_and_exchanged_organs_do_not(real_data):
    """In 25 patients the rule is learned, in five it is tried."""
    source, preset = SOURCES["openkbp"], load_preset("openkbp")
    handles = [h for h in source.list_cases(real_data / "openkbp" / "train-pats")][:30]
    centers = np.full((30, len(preset.organs), 3), np.nan)
    for own, handle in zip(centers, handles, strict=True):
        for name, mask in source.read_case(handle, preset).masks.items():
            index = np.argwhere(mask.voxels).mean(axis=0) + mask.corner_zyx
            organ = preset.find_organ(name)
            own[organ] = index * mask.geometry.spacing_zyx_mm
    arrangement = Arrangement.of(preset.organ_names, centers[:25])
    for own in centers[25:]:
        found = {name: tuple(at) for name, at in zip(preset.organ_names, own, strict=True) if np.isfinite(at[0])}
        assert arrangement.contradictions(found) == []
        for first, second in (("parotid_left", "parotid_right"), ("brainstem", "spinal_cord")):
            if first in found and second in found:
                exchanged = found | {first: found[second], second: found[first]}
                assert arrangement.contradictions(exchanged)

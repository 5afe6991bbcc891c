"""utils/config/organ_volumes.py: which volumes an organ can have."""

import re
from pathlib import Path

import pytest

from utils.config.organ_names import common_key, is_organ_name
from utils.config.organ_volumes import KNOWN_VOLUMES_ML, known_volume
from utils.config.preset import load_preset


@pytest.mark.parametrize("preset", ["openkbp", "pddca", "phantom", "tcia_hn"])
def test_every_organ_of_the_presets_has_known_volumes(preset):
    assert all(known_volume(name) for name in load_preset(preset).organ_names)


def test_every_spelling_and_both_sides_have_the_same_range():
    ranges = {known_volume(name) for name in ("parotid_left", "Parotid_R", "Glnd_Parotid_R", "RightParotid")}
    assert ranges == {(2.5, 120)}
    assert known_volume("orbit_left") == known_volume("Eye_R") == (3, 18)


@pytest.mark.parametrize("name", ["Parotid", "Parotid_L+R", "carotid_left", "cervical_esophagus", "eye_anterior_left"])
def test_both_glands_together_and_unlisted_organs_have_none(name):
    assert known_volume(name) is None


@pytest.mark.parametrize("organ", KNOWN_VOLUMES_ML)
def test_a_range_rises_and_its_organ_is_known(organ):
    assert is_organ_name(organ)
    low, high = known_volume(organ)
    assert 0 < low < high


@pytest.mark.parametrize(
    ("organ", "volume_ml", "is_known"),
    [("spinal_cord", 25, True), ("spinal_cord", 422, False), ("spinal_cord", 0.2, False), ("brainstem", 27, True)],
)
def test_a_volume_lies_in_the_range_or_not(organ, volume_ml, is_known):
    assert (volume_ml in known_volume(organ)) is is_known


def test_the_documentation_lists_the_same_ranges():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z ]+) \| ([\d.]+) to ([\d.]+) \|", text, re.MULTILINE)
    listed = {common_key(organ): (float(low), float(high)) for organ, low, high in rows}
    assert listed == {common_key(organ.removesuffix("_L")): known_volume(organ) for organ in KNOWN_VOLUMES_ML}

"""utils/evaluation/tolerances.py: the source of each tolerance."""

import pytest

from utils.config.preset import load_preset
from utils.evaluation.tolerances import DEFAULT_TOLERANCE_MM, NIKOLOV_2021, Tolerances


def test_published_tolerances_hold_for_either_side_and_any_spelling():
    tolerances = Tolerances([], None)
    for name in ("Parotid-Lt", "parotid_right", "LeftParotid"):
        assert tolerances.of(name) == (2.85, NIKOLOV_2021)
    assert tolerances.of("Spinal_Cord").value_mm == 2.93
    assert tolerances.of("Larynx") == (DEFAULT_TOLERANCE_MM, "default")


def test_the_preset_goes_before_the_published_and_the_command_line_before_both():
    preset = load_preset("pddca", ["organs.brainstem.tolerance_mm=1.5"])
    assert Tolerances([], preset).of("brainstem") == (1.5, "preset pddca")
    assert Tolerances(["3"], preset).of("brainstem") == (3, "command line")
    tolerances = Tolerances(["3", "Brain-Stem=0.5"], preset)
    assert tolerances.of("brainstem").value_mm == 0.5
    assert tolerances.of("chiasm").value_mm == 3


def test_tolerances_of_unknown_organs_are_named():
    assert Tolerances(["liver=2", "lens=1"], None).unused(["Lens"]) == ["liver"]


@pytest.mark.parametrize("word", ["wide", "lens=", "lens=-1", "inf", "=2mm"])
def test_anything_but_millimeters_is_refused(word):
    with pytest.raises(ValueError, match="expected millimeters"):
        Tolerances([word], None)

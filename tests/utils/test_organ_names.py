"""utils/organ_names.py: spellings of one organ."""

import pytest

from utils.organ_names import organ_key


@pytest.mark.parametrize(
    "spelling",
    ["optic_nerve_left", "Optic-Nerve-Lt", "Optic_Nerve_Lt", "OpticNerve_L", "LeftOpticNerve", "optic nerve L"],
)
def test_spellings_of_an_organ_are_one(spelling):
    assert organ_key(spelling) == "opticnerve left"


@pytest.mark.parametrize("other", ["OpticNerve_R", "optic_nerve", "Optic-Chiasm"])
def test_other_organs_are_others(other):
    assert organ_key(other) != organ_key("OpticNerve_L")


def test_a_name_that_is_only_a_side_stays_a_name():
    assert organ_key("L") == "l"
    assert organ_key("label 7") == "label7"

"""utils/config/organ_names.py: spellings of one organ."""

import pytest

from utils.config.organ_names import SYNONYMS, common_key, is_organ_name, organ_key
from utils.evaluation.tolerances import PUBLISHED_TOLERANCES_MM


@pytest.mark.parametrize(
    "spelling",
    ["optic_nerve_left", "Optic-Nerve-Lt", "Optic_Nerve_Lt", "OpticNerve_L", "LeftOpticNerve", "optic nerve L"],
)
def test_spellings_of_an_organ_are_one(spelling):
    assert organ_key(spelling) == "opticnerve left"


@pytest.mark.parametrize("other", ["OpticNerve_R", "optic_nerve", "Optic-Chiasm", "OpticNerve_L+R"])
def test_other_organs_are_others(other):
    assert organ_key(other) != organ_key("OpticNerve_L")


def test_an_umlaut_is_the_same_in_one_character_and_in_two():
    composed, decomposed = "R\u00fcckenmark", "Ru\u0308ckenmark"
    assert organ_key(composed) == organ_key(decomposed) == "r\u00fcckenmark"


def test_a_name_that_is_only_a_side_stays_a_name():
    assert organ_key("L") == "l"
    assert organ_key("label 7") == "label7"


@pytest.mark.parametrize(
    ("tg_263", "other_name"),
    [
        ("Glnd_Submand_L", "submandibular_left"),
        ("OpticNrv_R", "Right optic nerve"),
        ("Bone_Mandible", "MANDIBLE"),
        ("OpticChiasm", "chiasm"),
        ("Eye_L", "orbit-lt"),
        ("Cavity_Oral", "oral cavity"),
    ],
)
def test_names_of_tg_263_are_known(tg_263, other_name):
    assert common_key(tg_263) == common_key(other_name)


def test_no_name_stands_for_two_organs():
    keys = [{organ_key(name) for name in names} for names in SYNONYMS]
    assert sum(map(len, keys)) == len(set().union(*keys))


def test_parts_are_not_the_whole():
    assert len({common_key(name) for name in ("Larynx", "Larynx_SG", "Glottis")}) == 3
    assert common_key("SpinalCanal") != common_key("SpinalCord")


@pytest.mark.parametrize("name", ["Brainstem", "spinal_canal", "Parotid_R", "optic-nerve-lt", "Lung"])
def test_names_of_organs_are_told_from_names_of_cases(name):
    assert is_organ_name(name)
    assert not is_organ_name(f"{name}_case_7")


@pytest.mark.parametrize("organ", PUBLISHED_TOLERANCES_MM)
def test_every_organ_with_a_published_tolerance_is_known(organ):
    assert is_organ_name(organ)

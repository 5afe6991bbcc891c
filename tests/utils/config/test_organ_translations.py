"""utils/config/organ_translations.py: organs and sides in other languages."""

import pytest

from utils.config.organ_names import SYNONYMS, common_key, is_organ_name, tg263_name
from utils.config.organ_translations import LANGUAGES, translate
from utils.config.preset import load_preset


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("Parotis li", "Parotid_L"),
        ("Parotis_re", "Parotid_R"),
        ("Parotis L", "Parotid_L"),
        ("Ohrspeicheldrüse rechts", "Parotid_R"),
        ("N. opticus li", "OpticNrv_L"),
        ("Rückenmark", "SpinalCord"),
        ("Rueckenmark", "SpinalCord"),
        ("R\u0075\u0308ckenmark", "SpinalCord"),
        ("Myelon", "SpinalCord"),
        ("Hirnstamm", "Brainstem"),
        ("Parotide_G", "Parotid_L"),
        ("ParotideD", "Parotid_R"),
        ("glande sous-maxillaire droite", "Glnd_Submand_R"),
        ("Tronc cérébral", "Brainstem"),
        ("Tronc_Cerebral", "Brainstem"),
        ("Œsophage", "Esophagus"),
        ("Oesophage", "Esophagus"),
        ("Œil gauche", "Eye_L"),
        ("Parotida_I", "Parotid_L"),
        ("Parótida derecha", "Parotid_R"),
        ("Médula espinal", "SpinalCord"),
        ("Cristalino dcho", "Lens_R"),
        ("Parotide sx", "Parotid_L"),
        ("Nervo ottico dx", "OpticNrv_R"),
        ("Midollo spinale", "SpinalCord"),
        ("Hersenstam", "Brainstem"),
        ("Oogzenuw links", "OpticNrv_L"),
        ("Slokdarm", "Esophagus"),
        ("左腮腺", "Parotid_L"),
        ("腮腺_右", "Parotid_R"),
        ("右侧视神经", "OpticNrv_R"),
        ("腮腺（左）", "Parotid_L"),
        ("脊髓", "SpinalCord"),
        ("下颌骨", "Bone_Mandible"),
    ],
)
def test_names_of_clinics_are_known(name, standard):
    assert tg263_name(name) == standard
    assert common_key(name) == common_key(standard)
    assert is_organ_name(name)


@pytest.mark.parametrize(
    "name", ["PTV_Parotis", "Parotid_D", "Myelon_PRV", "D", "左", "Lymphknoten li", "Parotis 2", ""]
)
def test_other_names_are_not(name):
    assert tg263_name(name) is None


def test_both_sides_are_neither():
    assert tg263_name("Parotis re+li") is None
    assert common_key("Parotis re+li") == "parotid right left"


def test_a_short_word_means_a_side_in_its_language_only():
    assert translate("Parotide D").sides == ("right",)
    assert translate("Parotis D") is None
    assert translate("Parotis G") is None


def test_every_name_has_one_meaning_in_all_languages():
    standard = {names[0] for names in SYNONYMS}
    for language in LANGUAGES.values():
        assert set(language.organs) <= standard
        for organ, names in language.organs.items():
            for name in names.split(","):
                assert tg263_name(name.strip()) == organ, name


def test_sides_of_a_language_are_left_or_right():
    for language in LANGUAGES.values():
        assert not set(language.left.split()) & set(language.right.split())


def test_the_names_of_a_preset_come_first():
    preset = load_preset("hanseg", ["organs.eye_anterior_left.aliases=['Auge li']"])
    assert preset.find_organ("Auge li") == preset.organ_names.index("eye_anterior_left")
    assert preset.find_organ("Parotis li") == preset.organ_names.index("parotid_left")

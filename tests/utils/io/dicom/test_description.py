"""utils/io/dicom/description.py: names, codes and origin in DICOM objects."""

import re

import pytest

from utils.config.organ_names import SYNONYMS
from utils.config.preset import load_preset
from utils.io.dicom.description import SNOMED_CT, DicomDescription, anatomy_code, displayed_names, laterality_code


@pytest.mark.parametrize(
    ("organ", "value", "side"),
    [
        ("Parotid_L", "45289007", "Left"),
        ("parotid_right", "45289007", "Right"),
        ("OpticNrv_R", "18234004", "Right"),
        ("orbit-lt", "81745001", "Left"),
        ("brainstem", "15926001", None),
        ("Lungs", "Lungs".lower(), None),
    ],
)
def test_anatomy_is_coded_without_its_side(organ, value, side):
    laterality = laterality_code(organ)
    assert anatomy_code(organ).value == value
    assert (laterality and laterality.meaning) == side


def test_an_organ_without_a_concept_gets_a_private_code():
    code = anatomy_code("circumvallate_papillae_of_the_tongue_left")
    assert code.scheme_designator == "99FOCUSNET"
    assert code.value == "circumvallatepap"
    assert "left" not in code.meaning


def test_codes_belong_to_names_of_tg_263():
    standard = [names[0] for names in SYNONYMS]
    assert set(SNOMED_CT) <= set(standard)
    assert len({value for value, _ in SNOMED_CT.values()}) == len(SNOMED_CT)
    assert all(re.fullmatch(r"\d{6,18}", value) for value, _ in SNOMED_CT.values())


def test_names_are_those_of_tg_263_where_it_names_the_organ():
    hanseg = load_preset("hanseg")
    shown = dict(zip(hanseg.organ_names, displayed_names(hanseg, "tg263"), strict=True))
    assert shown["optic_nerve_left"] == "OpticNrv_L"
    assert shown["submandibular_right"] == "Glnd_Submand_R"
    assert shown["mandible"] == "Bone_Mandible"
    assert shown["buccal_mucosa"] == "buccal_mucosa"
    assert displayed_names(hanseg, "preset") == hanseg.organ_names


def test_the_origin_is_a_sentence_with_a_warning():
    description = DicomDescription(organ_names=(), version="0.3", model="openkbp, SHA-256 0123456789ab")
    assert description.origin == (
        "FocusNet 0.3, model openkbp, SHA-256 0123456789ab. For research only, not for clinical use."
    )

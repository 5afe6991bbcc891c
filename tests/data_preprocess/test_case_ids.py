"""data_preprocess/case_ids.py: ids of DICOM series that can name files on all systems."""

import pytest

from data_preprocess.case_ids import fit_for_file
from utils.config.file_names import is_portable_name

IDS = {
    "0815": "0815",
    "HN 12/3": "HN_12_3",
    "Müller^Eva": "Müller_Eva",
    "12:30 <a> |b|": "12_30_a_b",
    "nul": "_nul",
    "COM1.2": "_COM1.2",
    "..": "",
    " a. ": "a",
}


@pytest.mark.parametrize(("patient_id", "name"), IDS.items())
def test_a_patient_id_becomes_a_name_for_every_system(patient_id, name):
    assert fit_for_file(patient_id) == name
    assert not name or is_portable_name(name)

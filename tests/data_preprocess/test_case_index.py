"""case_index.py: what is known of cases without reading them."""

import shutil
from dataclasses import replace

import pytest

from data_preprocess.case_index import read_index, write_index
from data_preprocess.cases import read_case_info
from utils.io.files import read_json, write_json

IDS = ["case_0", "case_2", "case_3"]


@pytest.fixture
def cases(case_folder, tmp_path):
    folder = shutil.copytree(case_folder, tmp_path / "cases")
    write_index(folder, [read_case_info(folder / case_id) for case_id in IDS])
    return folder


def test_round_trip_without_the_cases(cases):
    for case_id in IDS:
        shutil.rmtree(cases / case_id)
    entries = read_index(cases, ["case_3", "case_2"])
    assert [entry.patient for entry in entries] == ["case_3", "case_2"]
    assert entries[0].organs == {"brainstem", "optic_nerve_left"}
    assert "chiasm" in entries[1].organs


def test_cases_that_the_index_lacks_are_read(cases):
    [entry] = read_index(cases, ["case_1"])
    assert "optic_nerve_right" in entry.organs
    (cases / "index.json").unlink()
    assert read_index(cases, ["case_1"]) == [entry]


def test_scans_of_one_patient_know_it(cases):
    infos = [replace(read_case_info(cases / case_id), patient="smith") for case_id in IDS[:2]]
    write_index(cases, infos)
    assert {entry.patient for entry in read_index(cases, IDS[:2])} == {"smith"}


@pytest.mark.parametrize("content", [{}, {"format_version": 2, "cases": {}}, {"format_version": 1, "cases": {"a": 3}}])
def test_a_damaged_index_is_refused(content, cases):
    write_json(cases / "index.json", content)
    with pytest.raises(
        ValueError, match=r"index\.json: (expected an index of format 1, got|is damaged).*; delete it and run"
    ):
        read_index(cases, IDS)


def test_an_index_without_pseudo_labels_is_read(cases):
    """As earlier versions wrote it."""
    content = read_json(cases / "index.json")
    for entry in content["cases"].values():
        assert entry.pop("pseudo_organs") == []
    write_json(cases / "index.json", content)
    (entry,) = read_index(cases, ["case_3"])
    assert entry.organs == {"brainstem", "optic_nerve_left"}
    assert entry.pseudo_organs == frozenset()

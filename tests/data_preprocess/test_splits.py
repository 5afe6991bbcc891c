"""splits.py: patients are assigned once; folds are of patients."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from data_preprocess.cases import HELD_OUT, CaseInfo, read_case_info
from data_preprocess.splits import leave_out_fold, read_splits, write_splits
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.files import write_json
from utils.runtime.command_line import Shard

SPLITS = {"train": [f"scan_{i}" for i in range(9)], "val": ["scan_9", "scan_10"], "test": ["scan_11"]}
PATIENTS = {f"scan_{i}": f"patient_{i // 2}" for i in range(12)}  # two scans each; scan_10 and scan_11 are of one


@pytest.fixture
def cases(tmp_path):
    entries = {case_id: {"patient": patient, "organs": [], "has_image": True} for case_id, patient in PATIENTS.items()}
    write_json(tmp_path / "cases" / "index.json", {"format_version": 1, "cases": entries})
    write_json(tmp_path / "cases" / "splits.json", SPLITS)
    return tmp_path / "cases"


def test_folds_hold_each_patient_once_and_differ_by_one_at_most(cases):
    folds = [leave_out_fold(cases, SPLITS, Shard(index, 4)) for index in range(1, 5)]
    held_out = [{PATIENTS[case_id] for case_id in fold["val"]} for fold in folds]
    assert sorted(len(patients) for patients in held_out) == [1, 1, 2, 2]
    assert sorted(patient for patients in held_out for patient in patients) == sorted(set(PATIENTS.values()))
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == sorted([*SPLITS["train"], *SPLITS["val"]])
        assert not {PATIENTS[case_id] for case_id in fold["train"]} & {PATIENTS[case_id] for case_id in fold["val"]}
        assert fold["test"] == SPLITS["test"]


def test_more_folds_than_patients_are_refused(cases):
    with pytest.raises(ValueError, match="--cross-validation 1/7: the train and val splits of .* have 6 patients"):
        leave_out_fold(cases, SPLITS, Shard(1, 7))


SIZE = (4, 6, 5)


def infos(names, split=None):
    geometry = Geometry(size_zyx=SIZE, spacing_zyx_mm=(1.0, 1.0, 1.0))
    return [
        CaseInfo(
            case_id=name,
            source="",
            split=split,
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            size_zyx=SIZE,
            original=geometry,
            crop_box=((0, 4), (0, 6), (0, 5)),
            organs={},
        )
        for name in names
    ]


def test_splits_are_disjoint_cover_and_ignore_the_order_of_cases(tmp_path):
    cases = infos([f"pt_{i}" for i in range(50)])
    write_splits(tmp_path / "a", cases)
    write_splits(tmp_path / "b", cases[::-1])
    splits = read_splits(tmp_path / "a")
    assert splits == read_splits(tmp_path / "b")
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 35, "val": 5, "test": 10}
    assert sorted(sum(splits.values(), [])) == sorted(info.case_id for info in cases)


def test_test_cases_of_the_data_set_stay_test_cases(tmp_path):
    test = infos(["pt_201", "pt_202"], split="test")
    write_splits(tmp_path, [*infos([f"pt_{i}" for i in range(25)], split="train"), *test])
    splits = read_splits(tmp_path)
    assert splits["test"] == ["pt_201", "pt_202"]
    assert len(splits["val"]) == 3
    assert len(splits["train"]) == 22


def test_training_cases_of_the_data_set_are_not_taken_for_testing(tmp_path):
    write_splits(tmp_path, infos(["pt_1", "pt_2", "pt_3"], split="train"))
    assert [len(read_splits(tmp_path)[name]) for name in ("train", "val", "test")] == [2, 1, 0]


def test_new_cases_are_appended_and_old_ones_stay(tmp_path):
    old = infos([f"pt_{i}" for i in range(20)])
    write_splits(tmp_path, old)
    before = read_splits(tmp_path)
    new = [f"pt_{i}" for i in range(60, 90)]
    write_splits(tmp_path, [*old, *infos(new), *infos(["pt_91"], split="test")])
    after = read_splits(tmp_path)
    assert set(after["train"]) == {*before["train"], *new}
    assert after["val"] == before["val"]
    assert set(after["test"]) == {*before["test"], "pt_91"}
    write_splits(tmp_path, old)
    assert read_splits(tmp_path) == after


def test_cases_of_one_patient_stay_together(tmp_path):
    cases = [replace(info, patient=f"p{i // 2}") for i, info in enumerate(infos([f"scan_{i}" for i in range(60)]))]
    write_splits(tmp_path, cases[:-1])
    splits = read_splits(tmp_path)
    place = {case_id: name for name, case_ids in splits.items() for case_id in case_ids}
    assert all(place[f"scan_{i}"] == place[f"scan_{i + 1}"] for i in range(0, 58, 2))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 41, "val": 6, "test": 12}
    write_splits(tmp_path, cases)  # the second scan of a known patient joins the first
    assert "scan_59" in read_splits(tmp_path)[place["scan_58"]]


def test_a_patient_with_one_test_case_is_a_test_patient(tmp_path):
    cases = [replace(info, patient="p") for info in [*infos(["a"], split="train"), *infos(["b"], split="test")]]
    write_splits(tmp_path, [*cases, *infos([f"pt_{i}" for i in range(9)], split="train")])
    assert read_splits(tmp_path)["test"] == ["a", "b"]


def test_held_out_cases_are_neither_for_training_nor_for_testing(tmp_path):
    write_splits(tmp_path, [*infos(["a", "b", "c"], split="train"), *infos(["d"], split=HELD_OUT)])
    splits = read_splits(tmp_path)
    assert splits[HELD_OUT] == ["d"]
    assert sorted(splits["train"] + splits["val"]) == ["a", "b", "c"]
    assert splits["test"] == []


def test_missing_splits_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"splits\.json: no such file"):
        read_splits(tmp_path)


def test_files_of_version_0_1_are_read(tmp_path, add_case):
    add_case(tmp_path, "a", np.zeros(SIZE, dtype=np.int16), np.zeros(SIZE, dtype=np.uint8))
    path = tmp_path / "a" / "case.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["unmatched_structures"]
    path.write_text(json.dumps(content | {"unknown_structures": ["PTV"], "split": "apart"}), encoding="utf-8")
    info = read_case_info(tmp_path / "a")
    assert (info.unmatched_structures, info.split) == (("PTV",), HELD_OUT)
    (tmp_path / "splits.json").write_text('{"train": ["b"], "val": [], "test": [], "apart": ["a"]}', encoding="utf-8")
    assert read_splits(tmp_path)[HELD_OUT] == ["a"]
    write_splits(tmp_path, [info, *infos(["c"], split=HELD_OUT)])
    assert json.loads((tmp_path / "splits.json").read_text(encoding="utf-8"))[HELD_OUT] == ["a", "c"]


def test_a_case_in_two_splits_is_refused(cases):
    write_json(cases / "splits.json", {**SPLITS, "test": ["scan_3"]})
    with pytest.raises(UserError, match="scan_3 occurs more than once"):
        read_splits(cases)


def test_a_split_of_another_name_is_refused(tmp_path):
    write_json(tmp_path / "splits.json", {"train": ["p1"], "validation": ["p2"]})
    with pytest.raises(UserError, match="splits.json: expected the splits train, val, test, held_out, got validation;"):
        write_splits(tmp_path, infos(["p1", "p2"]))


def test_cases_of_the_splits_that_are_not_there_are_named(tmp_path, caplog):
    write_json(tmp_path / "splits.json", {"train": ["p1"], "val": ["p02"]})
    write_splits(tmp_path, infos(["p1", "p2"]))
    assert f"{tmp_path / 'splits.json'} lists cases that are not in the folder: p02" in caplog.text
    assert read_splits(tmp_path) == {"train": ["p1", "p2"], "val": ["p02"], "test": []}


def test_a_patient_in_two_splits_is_refused(cases):
    with pytest.raises(UserError, match=r"splits\.json: scan_8 is in train and scan_9 in val, .* patient_4; keep"):
        read_splits(cases)
    apart = {"train": SPLITS["train"][:8], "val": ["scan_8", "scan_9"], "test": ["scan_10", "scan_11", "not_prepared"]}
    write_json(cases / "splits.json", apart)
    assert read_splits(cases) == apart
    write_json(cases / "splits.json", {**apart, "test": ["scan_11"], HELD_OUT: ["scan_10"]})
    with pytest.raises(UserError, match="scan_11 is in test and scan_10 in held_out"):
        read_splits(cases)


def test_a_patient_in_two_splits_is_refused_without_an_index(tmp_path):
    for case_id in ("a", "b"):
        (tmp_path / case_id).mkdir()
        info = replace(infos([case_id])[0], patient="p")
        write_json(tmp_path / case_id / "case.json", asdict(info))
    write_json(tmp_path / "splits.json", {"train": ["a"], "val": ["b"], "test": ["c"]})
    with pytest.raises(UserError, match="a is in train and b in val, but both are of patient p"):
        read_splits(tmp_path)

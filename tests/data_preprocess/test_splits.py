"""splits.py: folds by patient, and runs that keep their splits."""

import pytest

from data_preprocess.splits import choose_splits, leave_out_fold
from utils.config.preset import load_preset
from utils.io.files import write_json
from utils.training.run import TrainingOptions
from utils.training.run_log import write_configuration

SPLITS = {"train": [f"scan_{i}" for i in range(9)], "val": ["scan_9", "scan_10"], "test": ["scan_11"]}
PATIENTS = {f"scan_{i}": f"patient_{i // 2}" for i in range(12)}  # two scans each; scan_10 and scan_11 are of one


@pytest.fixture
def cases(tmp_path):
    entries = {case_id: {"patient": patient, "organs": [], "has_image": True} for case_id, patient in PATIENTS.items()}
    write_json(tmp_path / "cases" / "index.json", {"format_version": 1, "cases": entries})
    write_json(tmp_path / "cases" / "splits.json", SPLITS)
    return tmp_path / "cases"


def test_folds_hold_each_patient_once_and_differ_by_one_at_most(cases):
    folds = [leave_out_fold(cases, SPLITS, index, 4) for index in range(1, 5)]
    held_out = [{PATIENTS[case_id] for case_id in fold["val"]} for fold in folds]
    assert sorted(len(patients) for patients in held_out) == [1, 1, 2, 2]
    assert sorted(patient for patients in held_out for patient in patients) == sorted(set(PATIENTS.values()))
    for fold in folds:
        assert sorted([*fold["train"], *fold["val"]]) == sorted([*SPLITS["train"], *SPLITS["val"]])
        assert not {PATIENTS[case_id] for case_id in fold["train"]} & {PATIENTS[case_id] for case_id in fold["val"]}
        assert fold["test"] == SPLITS["test"]


def test_more_folds_than_patients_are_refused(cases):
    with pytest.raises(ValueError, match="--cross-validation 1/7: the train and val splits of .* have 6 patients"):
        leave_out_fold(cases, SPLITS, 1, 7)


def options_for(cases, run="run", **changed):
    return TrainingOptions(cases=cases, run=cases.parent / run, **changed)


def record_run(options, splits):
    preset = load_preset("phantom")
    write_configuration(options.run, stage="sol", preset=preset, options=vars(options), splits=splits)
    (options.run / "last.pt").touch()


def test_the_command_line_chooses(cases):
    assert choose_splits(options_for(cases)) == SPLITS
    assert choose_splits(options_for(cases, cross_validation="2/3")) == leave_out_fold(cases, SPLITS, 2, 3)


def test_a_run_that_goes_on_keeps_its_splits_and_its_fold(cases):
    fold = leave_out_fold(cases, SPLITS, 2, 3)
    record_run(options_for(cases, cross_validation="2/3"), fold)
    write_json(cases / "splits.json", {**SPLITS, "train": [*SPLITS["train"], "scan_20"]})
    assert choose_splits(options_for(cases, resume=True)) == fold
    assert choose_splits(options_for(cases, auto_resume=True, cross_validation="2/3")) == fold
    with pytest.raises(ValueError, match="is a run of --cross-validation 2/3, not 1/3"):
        choose_splits(options_for(cases, resume=True, cross_validation="1/3"))


def test_a_repeated_run_has_the_splits_of_the_first(cases):
    record_run(options_for(cases, "first"), {**SPLITS, "val": ["scan_9"]})
    assert choose_splits(options_for(cases, "again", repeat=cases.parent / "first"))["val"] == ["scan_9"]


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "a\\b", "..", ".hidden", "", 7])
def test_case_names_cannot_leave_their_folder(name, cases):
    write_json(cases / "splits.json", {**SPLITS, "val": [name]})
    with pytest.raises(ValueError, match=r"splits\.json: .* cannot name a file"):
        choose_splits(options_for(cases))
    record_run(options_for(cases), {**SPLITS, "test": [name]})
    with pytest.raises(ValueError, match=r"config\.json: .* cannot name a file"):
        choose_splits(options_for(cases, resume=True))


def test_a_case_in_two_splits_is_refused(cases):
    write_json(cases / "splits.json", {**SPLITS, "test": ["scan_3"]})
    with pytest.raises(ValueError, match="scan_3 is there more than once"):
        choose_splits(options_for(cases))

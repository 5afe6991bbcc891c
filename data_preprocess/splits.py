"""Which cases train and which validate: as prepared, as one fold of a cross-validation, or as another run had it."""

import hashlib
from pathlib import Path

from data_preprocess.case_index import read_index
from data_preprocess.cases import check_splits, read_splits
from utils.errors import UserError
from utils.runtime.command_line import Shard
from utils.training.run import TrainingOptions, is_resuming
from utils.training.run_log import read_configuration

Splits = dict[str, list[str]]


def choose_splits(options: TrainingOptions) -> Splits:
    """The splits of a run; one that goes on keeps its own, whatever has become of the folder of cases since.

    Raises:
        UserError: splits.json is missing or damaged, there are fewer patients than folds, or a run that goes on is of
            another fold.
    """
    if is_resuming(options):
        recorded = read_configuration(options.run)
        fold = recorded["options"].get("cross_validation")
        if options.cross_validation not in (None, fold):
            raise UserError(
                f"{options.run}: is a run of --cross-validation {fold}, not {options.cross_validation}; give each fold "
                "a --run folder of its own"
            )
        return check_splits(recorded["splits"], options.run / "config.json")
    if options.repeat is not None:
        recorded = read_configuration(options.repeat)
        if options.cross_validation == recorded["options"].get("cross_validation"):
            return check_splits(recorded["splits"], options.repeat / "config.json")
    splits = read_splits(options.cases)
    if options.cross_validation is None:
        return splits
    fold = Shard.parse(options.cross_validation)
    return leave_out_fold(options.cases, splits, fold.number, fold.count)


def leave_out_fold(folder: Path, splits: Splits, index: int, count: int) -> Splits:
    """Train without one fold of the cases that are not test cases, and validate with it.

    Patients are dealt out in the order of a hash of their names: folds differ by one patient at most, and no patient is
    in two.

    Args:
        folder: of cases.
        splits: train, val and test.
        index: of the fold that validates, from 1.
        count: of folds.

    Raises:
        UserError: there are fewer patients than folds.
    """
    pool = sorted([*splits["train"], *splits["val"]])
    patient_of = {case_id: entry.patient for case_id, entry in zip(pool, read_index(folder, pool), strict=True)}
    patients = sorted(set(patient_of.values()), key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(patients) < count:
        raise UserError(
            f"--cross-validation {index}/{count}: the train and val splits of {folder} have {len(patients)} patients; "
            "ask for fewer folds"
        )
    held_out = set(patients[index - 1 :: count])
    return {
        "train": [case_id for case_id in pool if patient_of[case_id] not in held_out],
        "val": [case_id for case_id in pool if patient_of[case_id] in held_out],
        "test": splits["test"],
    }

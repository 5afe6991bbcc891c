"""Which cases train, validate and test: splits.json, and the folds of a cross-validation."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from data_preprocess.case_index import read_index, read_patients
from data_preprocess.cases import HELD_OUT, OLD_HELD_OUT, CaseInfo
from utils.errors import UserError, shorten
from utils.io.files import read_json, validate_file_name, write_json
from utils.runtime.command_line import Shard

SPLIT_NAMES = ("train", "val", "test")
VAL_FRACTION = 0.12
TEST_FRACTION = 0.2

logger = logging.getLogger(__name__)

Splits = dict[str, list[str]]
"""Case ids by the name of their split."""


class Assignable(Protocol):
    """A raw or prepared case to assign to a split."""

    case_id: str
    split: str | None
    patient: str | None


def write_splits(folder: Path, infos: Sequence[CaseInfo]) -> None:
    """Assign the cases to train, val and test; cases that splits.json already contains keep their split.

    Patients that the raw data set calls "test" are test patients. If it names none, a fifth of the patients are. An
    eighth of the other patients chooses checkpoints (val). All cases of a patient are in one split. The order is by a
    hash of the patient's name: deterministic, and independent of the alphabet. Cases that the raw data set holds out
    are listed under "held_out".
    """
    path = folder / "splits.json"
    splits = read_splits(folder) if path.is_file() else {name: [] for name in SPLIT_NAMES}
    split_of = {case_id: name for name, case_ids in splits.items() for case_id in case_ids}
    if missing := split_of.keys() - {info.case_id for info in infos}:
        logger.warning("%s lists cases that are not in the folder: %s", path, shorten(sorted(missing)))
    for case_id, name in assign_splits(infos, split_of).items():
        if case_id not in split_of:
            splits[name] = sorted([*splits.get(name, []), case_id])
    write_json(path, splits)


def assign_splits(cases: Iterable[Assignable], split_of: Mapping[str, str]) -> dict[str, str]:
    """Choose the split of every case, by case id; those in `split_of` keep theirs, and so do their patients."""
    by_patient: dict[str, list[Assignable]] = {}
    for case in cases:
        by_patient.setdefault(case.patient or case.case_id, []).append(case)
    chosen, rest = {}, []
    for patient in sorted(by_patient, key=_hash):
        known = [split_of[case.case_id] for case in by_patient[patient] if case.case_id in split_of]
        named = {case.split for case in by_patient[patient]}
        if known:
            chosen[patient] = known[0]
        elif named & {HELD_OUT, "test"}:
            chosen[patient] = HELD_OUT if HELD_OUT in named else "test"
        else:
            rest.append(patient)
    names_none = all(case.split is None for of_patient in by_patient.values() for case in of_patient)
    num_test = round(TEST_FRACTION * len(rest)) if names_none and not split_of else 0
    num_left = len(rest) - num_test
    num_val = max(1, round(VAL_FRACTION * num_left)) if num_left > 1 and not split_of else 0
    names = ["test"] * num_test + ["val"] * num_val + ["train"] * (num_left - num_val)
    chosen |= dict(zip(rest, names, strict=True))
    return {case.case_id: chosen[patient] for patient, of_patient in by_patient.items() for case in of_patient}


def read_splits(folder: Path) -> Splits:
    """Read the splits of a folder of cases.

    Raises:
        UserError: splits.json is missing or damaged, or cases of one patient are in two splits.
    """
    source = folder / "splits.json"
    splits = validate_splits(read_json(source), source)
    require_patients_apart(splits, folder, source)
    return splits


def validate_splits(splits: dict, source: Path) -> Splits:
    """Check that each case has a safe name and is in one split; keep train, val, test and, if listed, held_out.

    Raises:
        UserError: the splits are not lists of names, or a case is in two of them.
    """
    splits = _with_new_name(splits)
    if unknown := [name for name in splits if name not in (*SPLIT_NAMES, HELD_OUT)]:
        raise UserError(
            f"{source}: expected the splits {', '.join((*SPLIT_NAMES, HELD_OUT))}, got {', '.join(unknown)}; rename "
            "or remove it"
        )
    names = (*SPLIT_NAMES, HELD_OUT) if HELD_OUT in splits else SPLIT_NAMES
    chosen = {name: splits.get(name, []) for name in names}
    if not all(isinstance(case_ids, list) for case_ids in chosen.values()):
        raise UserError(
            f"{source}: expected a list of case ids under each of {', '.join(SPLIT_NAMES)}; correct the file"
        )
    counts = Counter(validate_file_name(case_id, source) for case_ids in chosen.values() for case_id in case_ids)
    if repeated := sorted(case_id for case_id, count in counts.items() if count > 1):
        raise UserError(f"{source}: {', '.join(repeated)} occurs more than once; keep it in one split")
    return chosen


def require_patients_apart(splits: Splits, folder: Path, source: Path) -> None:
    """Check that all prepared cases of a patient are in one split: networks recognize a patient that they have seen.

    Args:
        splits: to check.
        folder: of the cases.
        source: begins the message.

    Raises:
        UserError: a patient is in two splits.
    """
    split_of = {case_id: name for name, case_ids in splits.items() for case_id in case_ids}
    first: dict[str, str] = {}
    for case_id, patient in read_patients(folder, split_of).items():
        other = first.setdefault(patient, case_id)
        if split_of[other] != split_of[case_id]:
            raise UserError(
                f"{source}: {other} is in {split_of[other]} and {case_id} in {split_of[case_id]}, but both are of "
                f"patient {patient}; keep all cases of a patient in one split"
            )


def leave_out_fold(folder: Path, splits: Splits, fold: Shard) -> Splits:
    """Validate on one fold of the train and val patients and train on the others; the test split stays.

    Patients are dealt to the folds in the order of a hash of their names: folds differ by one patient at most.

    Raises:
        UserError: there are fewer patients than folds.
    """
    pool = sorted([*splits["train"], *splits["val"]])
    patient_of = {case_id: entry.patient for case_id, entry in zip(pool, read_index(folder, pool), strict=True)}
    patients = sorted(set(patient_of.values()), key=_hash)
    if len(patients) < fold.count:
        raise UserError(
            f"--cross-validation {fold.number}/{fold.count}: the train and val splits of {folder} have "
            f"{len(patients)} patients; ask for fewer folds"
        )
    validating = set(fold.select(patients))
    return {
        "train": [case_id for case_id in pool if patient_of[case_id] not in validating],
        "val": [case_id for case_id in pool if patient_of[case_id] in validating],
        "test": splits["test"],
    }


def _with_new_name(splits: dict) -> dict:
    return {HELD_OUT if name == OLD_HELD_OUT else name: case_ids for name, case_ids in splits.items()}


def _hash(patient: str) -> str:
    return hashlib.sha256(patient.encode()).hexdigest()

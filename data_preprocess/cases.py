"""The on-disk case format: write, read, validate, split.

<cases>/dataset.json            preset and format version
<cases>/splits.json             train / val / test, disjoint by patient, written once
<cases>/index.json              patient and contoured organs of every case
<cases>/report.html             what a person should look at before training
<cases>/<id>/image.npy          int16 HU (D, H, W); missing where there are masks alone, for the shape AutoEncoder
<cases>/<id>/label.npy          uint8, same grid
<cases>/<id>/case.json          what `CaseInfo` holds
<cases>/<id>/quality.json       what `data_preprocess.quality_control.measurements` measured
<cases>/<id>/preview.png
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.config.preset import Preset, preset_from_table, preset_to_table
from utils.config.toml_dataclass import build
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.files import read_json, validate_file_name, write_json

FORMAT_VERSION = 1
SPLIT_NAMES = ("train", "val", "test")
HELD_OUT = "held_out"
"""Split of cases that the raw data set reserves: they are used neither for training nor for testing."""
HELD_OUT_BEFORE = "apart"
"""Its name in files of version 0.1."""
VAL_SHARE = 0.12
TEST_SHARE = 0.2
NUM_VOXEL_SAMPLES = 64
RENAMED_KEYS = {"box_zyx": "crop_box", "unknown_structures": "unmatched_structures"}
"""Keys of case.json in version 0.1."""


class Placeable(Protocol):
    """A case that belongs into a split, raw or prepared."""

    case_id: str
    split: str | None
    patient: str | None


@dataclass(frozen=True, kw_only=True)
class OrganInfo:
    """A contoured organ of a case, in voxels of the case's grid."""

    num_voxels: int
    center_vox: tuple[float, float, float]
    """Centroid (z, y, x)."""
    voxels: tuple[tuple[int, int, int], ...]
    """Some of its voxels, evenly spread, on which training crops are centered."""


@dataclass(frozen=True, kw_only=True)
class CaseInfo:
    """What case.json says.

    `organs` holds the contoured organs only: an organ without entry is absent from the labels, not from the patient.
    """

    case_id: str
    source: str
    split: str | None = None
    """Where the raw data set puts the case: "train", "test", `HELD_OUT` or nothing."""
    patient: str | None = None
    """Cases of one patient have it in common; None where the case is the patient."""
    has_image: bool = True
    """False for masks alone, of which only the shape AutoEncoder makes use."""
    notes: tuple[str, ...] = ()
    """What was mended or left out when the case was read."""
    unmatched_structures: tuple[str, ...] = ()
    """Names of structures in the raw data that are not an organ of the preset."""
    spacing_zyx_mm: tuple[float, float, float]
    size_zyx: tuple[int, int, int]
    original: Geometry
    """Grid of the CT as read, in LPS order."""
    crop_box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """The part of the original grid that the case covers, (start, stop) per axis; air was added beyond the grid."""
    organs: dict


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case opened for reading: `image` (D, H, W) int16 HU and `label` (D, H, W) uint8 are memory-mapped.

    `image` is None where there are masks alone.
    """

    info: CaseInfo
    organ_names: tuple[str, ...]
    image: np.ndarray | None
    label: np.ndarray

    @property
    def contoured(self) -> list[bool]:
        """For each organ of the preset, whether it was contoured."""
        return [name in self.info.organs for name in self.organ_names]

    def organ(self, name: str) -> OrganInfo:
        """An organ that index.json says is contoured.

        Raises:
            UserError: it is not.
        """
        if name not in self.info.organs:
            raise UserError(
                f"case {self.info.case_id}: case.json lacks {name}, which index.json names; run "
                "data_preprocess.prepare again to write the index anew"
            )
        return self.info.organs[name]

    @property
    def inside_fov(self) -> np.ndarray:
        """(D, H, W) bool: the voxels that lie in the CT and not in air that was added around it."""
        grids = zip(self.info.size_zyx, self.info.spacing_zyx_mm, self.info.original.spacing_zyx_mm, strict=True)
        index = [(np.arange(n) + 0.5) * new / old for n, new, old in grids]
        starts, sizes = [start for start, _ in self.info.crop_box], self.info.original.size_zyx
        z, y, x = [(i + a >= 0) & (i + a <= n) for i, a, n in zip(index, starts, sizes, strict=True)]
        return z[:, None, None] & y[:, None] & x

    @property
    def centers_vox(self) -> np.ndarray:
        """(N, 3) float32 centroids (z, y, x) in voxels; NaN where not contoured."""
        centers = np.full((len(self.organ_names), 3), np.nan, dtype=np.float32)
        for i, name in enumerate(self.organ_names):
            if name in self.info.organs:
                centers[i] = self.info.organs[name].center_vox
        return centers


def describe_organs(label: np.ndarray, organ_names: Sequence[str], contoured: Sequence[str]) -> dict[str, OrganInfo]:
    """Size, centroid and some voxels of every contoured organ that has a voxel in `label` (D, H, W)."""
    organs = {}
    for value, name in enumerate(organ_names, 1):
        if name not in contoured:
            continue
        voxels = np.argwhere(label == value)
        if len(voxels) == 0:
            continue
        picked = voxels[np.linspace(0, len(voxels) - 1, min(NUM_VOXEL_SAMPLES, len(voxels))).round().astype(int)]
        organs[name] = OrganInfo(
            num_voxels=len(voxels),
            center_vox=tuple(voxels.mean(axis=0).tolist()),
            voxels=tuple(tuple(voxel) for voxel in picked.tolist()),
        )
    return organs


def write_case(folder: Path, info: CaseInfo, image: np.ndarray | None, label: np.ndarray) -> None:
    """Write the files of one case into an existing folder.

    Raises:
        UserError: the case's id is no name of a folder, the disk is full, or nobody may write there.
    """
    validate_file_name(info.case_id, info.source)
    try:
        if image is not None:
            np.save(folder / "image.npy", image.astype(np.int16, copy=False))
        np.save(folder / "label.npy", label.astype(np.uint8, copy=False))
    except OSError as error:  # numpy says how many numbers were written, not why there are no more
        raise UserError(f"{folder}: cannot be written completely: is the disk full? ({error})") from error
    write_json(folder / "case.json", asdict(info))


def read_case_info(folder: Path) -> CaseInfo:
    """Read one case.json.

    Raises:
        UserError: the file is missing or does not follow the format.
    """
    path = folder / "case.json"
    problems: list[str] = []
    content = {RENAMED_KEYS.get(key, key): value for key, value in read_json(path).items()}
    if content.get("split") == HELD_OUT_BEFORE:
        content["split"] = HELD_OUT
    info = build(CaseInfo, content, problems)
    organs = {}
    if info is not None:
        tables = {name: organ if isinstance(organ, dict) else {} for name, organ in info.organs.items()}
        organs = {name: build(OrganInfo, table, problems, f"organs.{name}.") for name, table in tables.items()}
    if problems:
        raise UserError(f"{path}: is no case of format {FORMAT_VERSION}; prepare it again: " + "; ".join(problems))
    return CaseInfo(**{**info.__dict__, "organs": organs})


def open_case(folder: Path, info: CaseInfo, organ_names: tuple[str, ...]) -> Case:
    """Memory-map a case whose labels mean `organ_names`.

    Raises:
        UserError: an array is missing, truncated or of another shape than case.json says.
    """
    arrays = {"image": None}
    for name, dtype in (("image", np.int16), ("label", np.uint8)) if info.has_image else (("label", np.uint8),):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: cannot be read ({error}); delete the folder, prepare the case again") from error
        if arrays[name].shape != info.size_zyx or arrays[name].dtype != dtype:
            raise UserError(
                f"{path}: expected {np.dtype(dtype)} {info.size_zyx} as in case.json, got {arrays[name].dtype} "
                f"{arrays[name].shape}; delete the folder and prepare the case again"
            )
    return Case(info=info, organ_names=organ_names, **arrays)


def write_dataset(folder: Path, preset: Preset) -> None:
    """Record the preset that the cases are prepared for.

    Raises:
        UserError: the folder already holds cases of other organs or another spacing.
    """
    if (folder / "dataset.json").is_file():
        check_compatible(preset, read_dataset(folder), folder)
    write_json(folder / "dataset.json", {"format_version": FORMAT_VERSION, "preset": preset_to_table(preset)})


def read_dataset(folder: Path) -> Preset:
    """The preset that a folder of cases was prepared with.

    Raises:
        UserError: the folder holds no cases, or of another format version.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of cases; run python -m data_preprocess.prepare first")
    path = folder / "dataset.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no dataset.json, so it is no folder of cases; run data_preprocess.prepare")
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: expected case format {FORMAT_VERSION}, got {content.get('format_version')}; prepare again"
        )
    return preset_from_table(content["preset"], source=str(path))


def check_compatible(preset: Preset, prepared: Preset, folder: Path) -> None:
    """Refuse a preset whose organs or spacing differ from those that the cases in `folder` were prepared with.

    Raises:
        UserError: they differ; the message names both.
    """
    if preset.organ_names != prepared.organ_names:
        raise UserError(
            f"{folder}: was prepared with {len(prepared.organs)} organs ({', '.join(prepared.organ_names)}), preset "
            f"{preset.name} has {len(preset.organs)} ({', '.join(preset.organ_names)}); prepare into another folder"
        )
    if preset.grid.spacing_zyx_mm != prepared.grid.spacing_zyx_mm:
        raise UserError(
            f"{folder}: was prepared at {prepared.grid.spacing_zyx_mm} mm (z, y, x), preset {preset.name} says "
            f"{preset.grid.spacing_zyx_mm}; prepare into another folder"
        )


def write_splits(folder: Path, infos: Sequence[CaseInfo]) -> None:
    """Divide the cases into train, val and test, once: cases that splits.json already names keep their place.

    Patients that the raw data set calls "test" are test patients. If it names none, a fifth of the patients are. An
    eighth of the rest chooses checkpoints (val). All cases of a patient go together. Order is by a hash of the
    patient: deterministic and independent of names. Cases that the raw data set reserves are listed as held out.
    """
    path = folder / "splits.json"
    splits = _rename_held_out(read_json(path)) if path.is_file() else {name: [] for name in SPLIT_NAMES}
    place_of = {case_id: name for name, case_ids in splits.items() for case_id in case_ids}
    for case_id, name in assign_splits(infos, place_of).items():
        if case_id not in place_of:
            splits[name] = sorted([*splits.get(name, []), case_id])
    write_json(path, splits)


def assign_splits(cases: Iterable[Placeable], place_of: Mapping[str, str]) -> dict[str, str]:
    """The split of every case.

    Args:
        cases: raw or prepared.
        place_of: case id to split, for those that have one already.
    """
    patients: dict[str, list[Placeable]] = {}
    for case in cases:
        patients.setdefault(case.patient or case.case_id, []).append(case)
    places, rest = {}, []
    for patient in sorted(patients, key=_hash):
        known = [place_of[case.case_id] for case in patients[patient] if case.case_id in place_of]
        wishes = {case.split for case in patients[patient]}
        if known:
            places[patient] = known[0]
        elif wishes & {HELD_OUT, "test"}:
            places[patient] = HELD_OUT if HELD_OUT in wishes else "test"
        else:
            rest.append(patient)
    says_nothing = all(case.split is None for of_patient in patients.values() for case in of_patient)
    num_test = round(TEST_SHARE * len(rest)) if says_nothing and not place_of else 0
    num_left = len(rest) - num_test
    num_val = max(1, round(VAL_SHARE * num_left)) if num_left > 1 and not place_of else 0
    names = ["test"] * num_test + ["val"] * num_val + ["train"] * (num_left - num_val)
    places |= dict(zip(rest, names, strict=True))
    return {case.case_id: places[patient] for patient, of_patient in patients.items() for case in of_patient}


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Case ids of train, val and test.

    Raises:
        UserError: splits.json is missing or damaged.
    """
    return check_splits(read_json(folder / "splits.json"), folder / "splits.json")


def check_splits(splits: dict, source: Path) -> dict[str, list[str]]:
    """Splits whose case ids stay within the folder of cases.

    Raises:
        UserError: they are not lists of names, or a case is in two of them.
    """
    splits = _rename_held_out(splits)
    names = (*SPLIT_NAMES, HELD_OUT) if HELD_OUT in splits else SPLIT_NAMES
    chosen = {name: splits.get(name, []) for name in names}
    if not all(isinstance(case_ids, list) for case_ids in chosen.values()):
        raise UserError(f"{source}: expected a list of case ids under each of {', '.join(SPLIT_NAMES)}")
    counts = Counter(validate_file_name(case_id, source) for case_ids in chosen.values() for case_id in case_ids)
    if twice := sorted(case_id for case_id, count in counts.items() if count > 1):
        raise UserError(f"{source}: {', '.join(twice)} is there more than once; a case belongs to one split")
    return chosen


def finished_case(folder: Path, case_id: str) -> bool:
    """Whether a case was prepared completely: its folder appears only when it is."""
    return (folder / case_id / "case.json").is_file()


def _rename_held_out(splits: dict) -> dict:
    return {HELD_OUT if name == HELD_OUT_BEFORE else name: case_ids for name, case_ids in splits.items()}


def _hash(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()

"""The on-disk case format: write, read, validate, split.

<cases>/dataset.json            preset and format version
<cases>/splits.json             train / val / test, written once
<cases>/index.json              patient and contoured organs of every case
<cases>/<id>/image.npy          int16 HU (D, H, W)
<cases>/<id>/label.npy          uint8, same grid
<cases>/<id>/case.json          what `CaseInfo` holds
<cases>/<id>/preview.png
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from utils.config import build
from utils.files import read_json, write_json
from utils.geometry import Geometry
from utils.names import require_safe_name
from utils.preset import Preset, preset_from_table, preset_to_table

FORMAT_VERSION = 1
SPLIT_NAMES = ("train", "val", "test")
VAL_SHARE = 0.12
TEST_SHARE = 0.2
NUM_VOXEL_SAMPLES = 64


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
    """Where the raw data set puts the case: "train", "test" or nothing."""
    patient: str | None = None
    """Cases of one patient have it in common; None where a case is a patient."""
    spacing_zyx_mm: tuple[float, float, float]
    size_zyx: tuple[int, int, int]
    original: Geometry
    """Grid of the CT as read, in LPS order."""
    box_zyx: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """The part of the original grid that the case covers: (start, stop) per axis."""
    organs: dict


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case opened for reading: `image` (D, H, W) int16 HU and `label` (D, H, W) uint8 are memory-mapped."""

    info: CaseInfo
    organ_names: tuple[str, ...]
    image: np.ndarray
    label: np.ndarray

    @property
    def contoured(self) -> list[bool]:
        """For each organ of the preset, whether it was contoured."""
        return [name in self.info.organs for name in self.organ_names]

    def organ(self, name: str) -> OrganInfo:
        """An organ that index.json says is contoured.

        Raises:
            ValueError: it is not.
        """
        if name not in self.info.organs:
            raise ValueError(
                f"case {self.info.case_id}: case.json lacks {name}, which index.json names; run "
                "data_preprocess.prepare again to write the index anew"
            )
        return self.info.organs[name]

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


def write_case(folder: Path, info: CaseInfo, image: np.ndarray, label: np.ndarray) -> None:
    """Write the files of one case into an existing folder.

    Raises:
        ValueError: the case's id is no name of a folder.
    """
    require_safe_name(info.case_id, info.source)
    np.save(folder / "image.npy", image.astype(np.int16, copy=False))
    np.save(folder / "label.npy", label.astype(np.uint8, copy=False))
    write_json(folder / "case.json", asdict(info))


def read_case_info(folder: Path) -> CaseInfo:
    """Read one case.json.

    Raises:
        ValueError: the file is missing or does not follow the format.
    """
    path = folder / "case.json"
    problems: list[str] = []
    info = build(CaseInfo, read_json(path), problems)
    organs = {}
    if info is not None:
        tables = {name: organ if isinstance(organ, dict) else {} for name, organ in info.organs.items()}
        organs = {name: build(OrganInfo, table, problems, f"organs.{name}.") for name, table in tables.items()}
    if problems:
        raise ValueError(f"{path}: is no case of format {FORMAT_VERSION}; prepare it again: " + "; ".join(problems))
    return CaseInfo(**{**info.__dict__, "organs": organs})


def open_case(folder: Path, info: CaseInfo, organ_names: tuple[str, ...]) -> Case:
    """Memory-map a case whose labels mean `organ_names`.

    Raises:
        ValueError: an array is missing, truncated or of another shape than case.json says.
    """
    arrays = {}
    for name, dtype in (("image", np.int16), ("label", np.uint8)):
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); delete the folder, prepare the case again") from error
        if arrays[name].shape != info.size_zyx or arrays[name].dtype != dtype:
            raise ValueError(
                f"{path}: expected {np.dtype(dtype)} {info.size_zyx} as in case.json, got {arrays[name].dtype} "
                f"{arrays[name].shape}; delete the folder and prepare the case again"
            )
    return Case(info=info, organ_names=organ_names, **arrays)


def write_dataset(folder: Path, preset: Preset) -> None:
    """Record the preset that the cases are prepared for.

    Raises:
        ValueError: the folder already holds cases of other organs or another spacing.
    """
    if (folder / "dataset.json").is_file():
        check_compatible(preset, read_dataset(folder), folder)
    write_json(folder / "dataset.json", {"format_version": FORMAT_VERSION, "preset": preset_to_table(preset)})


def read_dataset(folder: Path) -> Preset:
    """The preset that a folder of cases was prepared with.

    Raises:
        ValueError: the folder holds no cases, or of another format version.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of cases; run python -m data_preprocess.prepare first")
    path = folder / "dataset.json"
    if not path.is_file():
        raise ValueError(f"{folder}: holds no dataset.json, so it is no folder of cases; run data_preprocess.prepare")
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected case format {FORMAT_VERSION}, got {content.get('format_version')}; prepare again"
        )
    return preset_from_table(content["preset"], source=str(path))


def check_compatible(preset: Preset, prepared: Preset, folder: Path) -> None:
    """Refuse a preset whose organs or spacing differ from those that the cases in `folder` were prepared with.

    Raises:
        ValueError: they differ; the message names both.
    """
    if preset.organ_names != prepared.organ_names:
        raise ValueError(
            f"{folder}: was prepared with {len(prepared.organs)} organs ({', '.join(prepared.organ_names)}), preset "
            f"{preset.name} has {len(preset.organs)} ({', '.join(preset.organ_names)}); prepare into another folder"
        )
    if preset.grid.spacing_zyx_mm != prepared.grid.spacing_zyx_mm:
        raise ValueError(
            f"{folder}: was prepared at {prepared.grid.spacing_zyx_mm} mm (z, y, x), preset {preset.name} says "
            f"{preset.grid.spacing_zyx_mm}; prepare into another folder"
        )


def write_splits(folder: Path, infos: Sequence[CaseInfo]) -> None:
    """Divide the cases into train, val and test, once: cases that splits.json already names keep their place.

    Cases that the raw data set calls "test" are test cases. If it names none, a fifth of the cases are. An eighth of
    the rest chooses checkpoints (val). Order is by a hash of the case id: deterministic and independent of names.
    """
    path = folder / "splits.json"
    splits = read_json(path) if path.is_file() else {name: [] for name in SPLIT_NAMES}
    known = {case_id for case_ids in splits.values() for case_id in case_ids}
    new = sorted((info for info in infos if info.case_id not in known), key=lambda info: _hash(info.case_id))
    test = [info.case_id for info in new if info.split == "test"]
    rest = [info.case_id for info in new if info.split != "test"]
    if not known and not test and all(info.split is None for info in new):
        count = round(TEST_SHARE * len(rest))
        test, rest = rest[:count], rest[count:]
    num_val = 0 if known else max(1, round(VAL_SHARE * len(rest))) if len(rest) > 1 else 0
    for name, added in (("train", rest[num_val:]), ("val", rest[:num_val]), ("test", test)):
        splits[name] = sorted([*splits[name], *added])
    write_json(path, splits)


def read_splits(folder: Path) -> dict[str, list[str]]:
    """Case ids of train, val and test.

    Raises:
        ValueError: splits.json is missing or damaged.
    """
    return check_splits(read_json(folder / "splits.json"), folder / "splits.json")


def check_splits(splits: dict, source: Path) -> dict[str, list[str]]:
    """Splits whose case ids stay within the folder of cases.

    Raises:
        ValueError: they are not lists of names, or a case is in two of them.
    """
    chosen = {name: splits.get(name, []) for name in SPLIT_NAMES}
    if not all(isinstance(case_ids, list) for case_ids in chosen.values()):
        raise ValueError(f"{source}: expected a list of case ids under each of {', '.join(SPLIT_NAMES)}")
    counts = Counter(require_safe_name(case_id, source) for case_ids in chosen.values() for case_id in case_ids)
    if twice := sorted(case_id for case_id, count in counts.items() if count > 1):
        raise ValueError(f"{source}: {', '.join(twice)} is there more than once; a case belongs to one split")
    return chosen


def finished_case(folder: Path, case_id: str) -> bool:
    """Whether a case was prepared completely: its folder appears only when it is."""
    return (folder / case_id / "case.json").is_file()


def _hash(case_id: str) -> str:
    return hashlib.sha256(case_id.encode()).hexdigest()

"""The format of prepared cases on disk: write, read, validate.

<cases>/dataset.json            preset and format version
<cases>/splits.json             train / val / test, disjoint by patient, written once
<cases>/index.json              patient and contoured organs of every case
<cases>/report.html             findings to review before training
<cases>/<id>/image.npy          int16 HU (D, H, W); missing if there are only masks, for the shape AutoEncoder
<cases>/<id>/label.npy          uint8, same grid
<cases>/<id>/pseudo.npy         uint8, same grid, only with pseudo-labels (pseudo_labels.py)
<cases>/<id>/case.json          `CaseInfo`
<cases>/<id>/quality.json       measurements of data_preprocess.quality_control
<cases>/<id>/preview.png
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.preset import Preset, preset_from_table, preset_to_table
from utils.config.toml_dataclass import build
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.files import read_json, write_json

FORMAT_VERSION = 1
DATASET_NAME, DATASET_KEYS = "dataset.json", ("format_version", "preset")
PSEUDO_NAME = "pseudo.npy"
HELD_OUT = "held_out"
"""Split of cases that the raw data set reserves: they are used neither for training nor for testing."""
OLD_HELD_OUT = "apart"
"""Its name in files of version 0.1."""
NUM_VOXEL_SAMPLES = 64
"""Voxels stored per organ."""
RENAMED_KEYS = {"box_zyx": "crop_box", "unknown_structures": "unmatched_structures"}
"""Keys of case.json in version 0.1."""


@dataclass(frozen=True, kw_only=True)
class OrganInfo:
    """A contoured organ of a case, in voxels of the case's grid."""

    num_voxels: int
    center_vox: tuple[float, float, float]
    """Centroid (z, y, x)."""
    voxels: tuple[tuple[int, int, int], ...]
    """Some of its voxels, evenly spread; training crops are centered on them."""


@dataclass(frozen=True, kw_only=True)
class CaseInfo:
    """The content of case.json.

    `organs` contains the contoured organs only: an organ without entry is missing in the labels, not in the patient.
    """

    case_id: str
    source: str
    split: str | None = None
    """Split in the raw data set: "train", "test", `HELD_OUT`, or None if it has no splits."""
    patient: str | None = None
    """The same for all cases of a patient; None if the case is the patient's only one."""
    has_image: bool = True
    """False if there are only masks, which serve the shape AutoEncoder alone."""
    notes: tuple[str, ...] = ()
    """Repairs and omissions when the case was read."""
    structures: dict = field(default_factory=dict)
    """The name that each organ has in the raw data, by the preset's name."""
    unmatched_structures: tuple[str, ...] = ()
    """Names in the raw data that match no organ of the preset."""
    spacing_zyx_mm: tuple[float, float, float]
    size_zyx: tuple[int, int, int]
    original: Geometry
    """Grid of the CT as read, in LPS order; of an oblique CT after its rotation to the patient's axes."""
    crop_box: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """The part of the original grid that the case covers, (start, stop) per axis; voxel i extends from i to i + 1. Air
    was added beyond the grid."""
    organs: dict
    excluded: dict = field(default_factory=dict)
    """Structures that were left out on request, by name, with the reason; like organs that are not contoured, they are
    not in `organs`."""
    pseudo_organs: dict = field(default_factory=dict)
    """As `organs`, for organs that have a pseudo-label instead of a contour; they are not in `organs`."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case opened for reading; its arrays are memory-mapped."""

    folder: Path
    info: CaseInfo
    organ_names: tuple[str, ...]
    image: np.ndarray | None
    """(D, H, W) int16 HU; None if there are only masks."""
    label: np.ndarray
    """(D, H, W) uint8: the contours."""
    pseudo: np.ndarray | None
    """(D, H, W) uint8: pseudo-labels of organs without contour and `UNKNOWN_LABEL`, 0 elsewhere; None without any."""

    @property
    def contoured(self) -> list[bool]:
        """For each organ of the preset, whether it was contoured."""
        return [name in self.info.organs for name in self.organ_names]

    @property
    def labeled(self) -> list[bool]:
        """For each organ of the preset, whether it has a contour or a pseudo-label."""
        return [name in self.info.organs or name in self.info.pseudo_organs for name in self.organ_names]

    def organ(self, name: str) -> OrganInfo:
        """The entry of an organ that has a contour or a pseudo-label according to index.json.

        Raises:
            UserError: case.json has no such entry.
        """
        organs = {**self.info.pseudo_organs, **self.info.organs}
        if name not in organs:
            raise UserError(
                f"case {self.info.case_id}: case.json lacks {name}, which index.json lists; run "
                "data_preprocess.prepare again to update the index"
            )
        return organs[name]

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
        organs = self.info.organs
        centers = [organs[name].center_vox if name in organs else (np.nan,) * 3 for name in self.organ_names]
        return np.array(centers, dtype=np.float32)


def measure_organs(label: np.ndarray, organ_names: Sequence[str], contoured: Sequence[str]) -> dict[str, OrganInfo]:
    """Size, centroid and some voxels of every contoured organ that has a voxel in `label` (D, H, W)."""
    organs = {}
    for value, name in enumerate(organ_names, 1):
        voxels = np.argwhere(label == value) if name in contoured else ()
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
        UserError: the disk is full, or writing is not permitted.
    """
    try:
        if image is not None:
            np.save(folder / "image.npy", image.astype(np.int16, copy=False))
        np.save(folder / "label.npy", label.astype(np.uint8, copy=False))
    except OSError as error:  # numpy reports how many numbers were written, but not why it stopped
        raise UserError(f"{folder}: cannot be written completely: is the disk full? ({error})") from error
    write_json(folder / "case.json", asdict(info))


def read_case_info(folder: Path) -> CaseInfo:
    """Read one case.json.

    Raises:
        UserError: the file is missing or does not follow the format.
    """
    path = folder / "case.json"
    problems: list[str] = []
    content = {RENAMED_KEYS.get(name, name): value for name, value in read_json(path).items()}
    if content.get("split") == OLD_HELD_OUT:
        content["split"] = HELD_OUT
    info = build(CaseInfo, content, problems)
    tables = {"organs": {}, "pseudo_organs": {}} if info is None else vars(info)
    organs, pseudo_organs = (_read_organs(tables[key], problems, key) for key in ("organs", "pseudo_organs"))
    if problems:
        found = "; ".join(problems)
        raise UserError(
            f"{path}: is not a case of format {FORMAT_VERSION} ({found}); delete its folder and prepare it again"
        )
    return replace(info, organs=organs, pseudo_organs=pseudo_organs)


def _read_organs(tables: Mapping[str, Any], problems: list[str], where: str) -> dict[str, OrganInfo]:
    return {
        name: build(OrganInfo, table if isinstance(table, dict) else {}, problems, f"{where}.{name}.")
        for name, table in tables.items()
    }


def read_case_infos(folder: Path) -> list[CaseInfo]:
    """Read the case.json of every case in a folder, sorted by id; what a killed run left is no case."""
    return [read_case_info(path.parent) for path in sorted(folder.glob("[!.]*/case.json"))]


def open_case(folder: Path, info: CaseInfo, organ_names: tuple[str, ...]) -> Case:
    """Memory-map a case whose labels 1, 2, ... mean `organ_names`.

    Raises:
        UserError: an array is missing, truncated or does not have the shape in case.json.
    """
    arrays = {"image": None, "pseudo": None}
    dtypes = {"image": np.int16} if info.has_image else {}
    dtypes |= {"label": np.uint8, "pseudo": np.uint8} if info.pseudo_organs else {"label": np.uint8}
    for name, dtype in dtypes.items():
        path = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); delete the folder and prepare the case again"
            ) from error
        if arrays[name].shape != info.size_zyx or arrays[name].dtype != dtype:
            raise UserError(
                f"{path}: expected {np.dtype(dtype)} {info.size_zyx} as in case.json, got {arrays[name].dtype} "
                f"{arrays[name].shape}; delete the folder and prepare the case again"
            )
    return Case(folder=folder, info=info, organ_names=organ_names, **arrays)


def write_dataset(folder: Path, preset: Preset) -> None:
    """Record the preset that the cases are prepared for.

    Raises:
        UserError: the folder already holds cases of other organs or another spacing.
    """
    if (folder / DATASET_NAME).is_file():
        check_compatible(preset, read_dataset(folder), folder)
    write_json(folder / DATASET_NAME, {"format_version": FORMAT_VERSION, "preset": preset_to_table(preset)})


def read_dataset(folder: Path) -> Preset:
    """The preset that a folder of cases was prepared with.

    Raises:
        UserError: the folder contains no cases, or cases of another format version.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of cases; run python -m data_preprocess.prepare first")
    path = folder / DATASET_NAME
    if not path.is_file():
        raise UserError(f"{folder}: has no dataset.json, so it is not a folder of cases; run data_preprocess.prepare")
    content = read_json(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path}: expected case format {FORMAT_VERSION}, got {content.get('format_version')}; prepare again"
        )
    return preset_from_table(content.get("preset"), source=str(path))


def check_compatible(preset: Preset, prepared: Preset, folder: Path) -> None:
    """Refuse a preset whose organs or spacing differ from those of the prepared cases.

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
            f"{folder}: was prepared at {prepared.grid.spacing_zyx_mm} mm (z, y, x), preset {preset.name} has "
            f"{preset.grid.spacing_zyx_mm}; prepare into another folder"
        )


def finished_case(folder: Path, case_id: str) -> bool:
    """Whether a case is prepared; its folder appears when all files are complete."""
    return (folder / case_id / "case.json").is_file()

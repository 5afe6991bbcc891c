"""OpenKBP: head-and-neck CTs and contours as sparse CSV files (Babier et al., Medical Physics 48 (2021) 5549-5561).

The layout is that of the public repository github.com/ababier/open-kbp: `provided-data/<split>-pats/pt_N/<name>.csv`.
Each patient may also be one archive `pt_N.tar.xz` of its folder.
"""

import io
import lzma
import re
import tarfile
import warnings
from pathlib import Path, PurePosixPath

import numpy as np

from data_preprocess.sources.base import RawCase, RawCaseHandle, is_wanted, leave_out_empty
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask
from utils.io.volumes import Volume

SPLITS = {"train-pats": "train", "validation-pats": "test", "test-pats": "test"}
GRID = (128, 128, 128)
NOT_STRUCTURES = {"ct", "voxel_dimensions", "dose", "possible_dose_mask"}
ARCHIVE_SUFFIX = ".tar.xz"


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the patients below a clone of the repository, its `provided-data`, or one `*-pats` folder.

    Raises:
        UserError: the folder does not exist or holds no patient.
    """
    if folder is None or not folder.is_dir():
        raise UserError(
            f"--input {folder or 'missing'}: expected a folder; give a clone of open-kbp or its provided-data folder"
        )
    roots = (folder, folder / "provided-data")
    splits = [folder] if folder.name in SPLITS else [root / split for root in roots for split in SPLITS]
    patients = {}
    for path in (path for split in splits if split.is_dir() for path in split.iterdir()):
        match = re.fullmatch(r"(pt_\d+)(\.tar\.xz)?", path.name)
        if match:
            patients.setdefault(match[1], path)
    if not patients:
        raise UserError(
            f"{folder}: expected {', '.join(SPLITS)} with pt_N folders or pt_N{ARCHIVE_SUFFIX} archives, found none"
        )
    ordered = sorted(patients.items(), key=lambda item: int(item[0].removeprefix("pt_")))
    return [
        RawCaseHandle(case_id=case_id, location=str(path), split=SPLITS.get(path.parent.name))
        for case_id, path in ordered
    ]


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one patient; every CSV beside the CT that is no dose is a structure.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is missing or damaged.
    """
    path = Path(reference.location)
    tables = _read_archive(path) if path.name.endswith(ARCHIVE_SUFFIX) else _read_folder(path)
    try:
        spacing_yxz = np.loadtxt(io.BytesIO(tables["voxel_dimensions"]))
        hu = _dense(tables, "ct", value_column=1) - 1000
        structures = [name for name in tables if name not in NOT_STRUCTURES]
        dense = {name: _dense(tables, name) > 0 for name in structures if is_wanted(name, preset)}
    except KeyError as error:
        raise UserError(f"{path}: holds no {error.args[0]}.csv; download the patient again") from error
    except ValueError as error:
        raise UserError(f"{path}: a CSV file is damaged, download the patient again ({error})") from error
    if spacing_yxz.shape != (3,) or not (spacing_yxz > 0).all():
        raise UserError(f"{path}: voxel_dimensions.csv: expected three positive millimetres, got {spacing_yxz}")
    y, x, z = (float(value) for value in spacing_yxz)
    geometry = Geometry(size_zyx=GRID, spacing_zyx_mm=(z, y, x))
    masks, notes = leave_out_empty({name: crop_mask(mask, (0, 0, 0), geometry) for name, mask in dense.items()})
    return RawCase(
        case_id=reference.case_id,
        volume=Volume(array=hu.astype(np.int16), geometry=geometry),
        masks=masks,
        unknown=tuple(name for name in structures if name not in dense),
        notes=notes,
        split=reference.split,
        source=str(path),
    )


def _read_folder(path: Path) -> dict[str, bytes]:
    return {file.stem: file.read_bytes() for file in sorted(path.glob("*.csv"))}


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the members into memory: nothing is unpacked, so no member can leave its folder."""
    try:
        with tarfile.open(path, "r:xz") as archive:
            members = [member for member in archive if member.isfile() and member.name.endswith(".csv")]
            return {PurePosixPath(member.name).stem: archive.extractfile(member).read() for member in members}
    except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be unpacked, the archive is damaged ({error})") from error


def _dense(tables: dict[str, bytes], name: str, value_column: int | None = None) -> np.ndarray:
    """The volume of a sparse CSV, turned from (y, x, z down) to (z up, y, x); voxels not listed are 0."""
    columns = (0,) if value_column is None else (0, value_column)
    dense = np.zeros(np.prod(GRID), dtype=np.float32)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="loadtxt: input contained no data")
            table = np.loadtxt(io.BytesIO(tables[name]), delimiter=",", skiprows=1, usecols=columns, ndmin=2)
        dense[table[:, 0].astype(np.int64)] = 1 if value_column is None else table[:, 1]
    except (ValueError, IndexError) as error:
        raise UserError(f"{name}.csv: {error}") from error
    return np.ascontiguousarray(dense.reshape(GRID).transpose(2, 0, 1)[::-1])

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
from typing import Any

import numpy as np

from data_preprocess.sources.base import RawCase, RawCaseHandle, read_structures
from data_preprocess.sources.common import require_folder
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
    """Find the patients below a clone of the repository, its `provided-data`, or one `*-pats` folder."""
    folder = require_folder(folder, "OpenKBP: a clone of open-kbp or its folder provided-data")
    roots = (folder, folder / "provided-data")
    splits = [folder] if folder.name in SPLITS else [root / split for root in roots for split in SPLITS]
    patients = {}
    for path in (path for split in splits if split.is_dir() for path in split.iterdir()):
        match = re.fullmatch(r"pt_(\d+)(\.tar\.xz)?", path.name)
        if match and (match[2] or path.is_dir()):
            patients.setdefault(match[1], path)
    if not patients:
        raise UserError(
            f"--input {folder}: expected {', '.join(SPLITS)} with folders pt_N or archives pt_N{ARCHIVE_SUFFIX}, "
            "found none; give the clone of open-kbp, its provided-data or one of these folders"
        )
    return [
        RawCaseHandle(case_id=f"pt_{number}", location=path, split=SPLITS.get(path.parent.name))
        for number, path in sorted(patients.items(), key=lambda item: int(item[0]))
    ]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one patient; every CSV beside the CT that is not a dose is a structure: see `Source.read_case`."""
    path = handle.location
    if path.name.endswith(ARCHIVE_SUFFIX):
        tables = _read_archive(path)
    else:
        tables = {file.stem: file.read_bytes() for file in sorted(path.glob("[!.]*.csv"))}
    spacing_yxz = _load(tables, "voxel_dimensions", path)
    if spacing_yxz.shape != (3,) or not (spacing_yxz > 0).all():
        raise UserError(
            f"voxel_dimensions.csv: expected three positive numbers in mm, got {spacing_yxz}; download it again", path
        )
    y, x, z = spacing_yxz.tolist()
    geometry = Geometry(size_zyx=GRID, spacing_zyx_mm=(z, y, x))
    hu = _dense(tables, "ct", path, value_column=1) - 1000
    structures = [name for name in tables if name not in NOT_STRUCTURES]
    found = read_structures(structures, lambda name: crop_mask(_dense(tables, name, path), (0, 0, 0), geometry), preset)
    return RawCase.of(handle, Volume(array=hu.astype(np.int16), geometry=geometry), found, path)


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the members into memory: nothing is unpacked, so no member can leave its folder."""
    try:
        with tarfile.open(path, "r:xz") as archive:
            files = {PurePosixPath(member.name): member for member in archive if member.isfile()}
            tables = [path for path in files if path.suffix == ".csv" and not path.name.startswith(".")]
            return {path.stem: archive.extractfile(files[path]).read() for path in tables}
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise UserError(f"cannot be unpacked because it is damaged ({error}); download it again", path) from error


def _load(tables: dict[str, bytes], name: str, path: Path, **options: Any) -> np.ndarray:
    if name not in tables:
        raise UserError(f"holds no {name}.csv; download the patient again", path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="loadtxt: input contained no data")
            return np.loadtxt(io.BytesIO(tables[name]), **options)
    except ValueError as error:
        raise UserError(f"{name}.csv is damaged ({error}); download the patient again", path) from error


def _dense(tables: dict[str, bytes], name: str, path: Path, value_column: int | None = None) -> np.ndarray:
    """The volume of a sparse CSV, turned from (y, x, z down) to (z up, y, x).

    Returns:
        (D, H, W) float32: the values, or 1 without a column of them; 0 for voxels that are not listed.
    """
    columns = (0,) if value_column is None else (0, value_column)
    table = _load(tables, name, path, delimiter=",", skiprows=1, usecols=columns, ndmin=2)
    dense = np.zeros(np.prod(GRID), dtype=np.float32)
    index = table[:, 0].astype(np.int64)
    outside = index[(index < 0) | (index >= dense.size)]
    if outside.size:
        raise UserError(f"{name}.csv: index {outside[0]} is out of bounds; download the patient again", path)
    if name == "ct" and not index.size:
        raise UserError("ct.csv lists no voxel, so it is truncated; download the patient again", path)
    dense[index] = 1 if value_column is None else table[:, 1]
    return np.ascontiguousarray(dense.reshape(GRID).transpose(2, 0, 1)[::-1])

"""CTs and masks in volume files (NIfTI, NRRD, MHA), as several layouts store them."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_preprocess.sources.base import is_wanted, leave_out_empty
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask
from utils.io.segmentations import CaseFiles, OrganNameResolver, open_structures, read_lps, read_mask
from utils.io.volumes import Volume, volume_stem, volume_suffix

AIR_BELOW_HU = -300
OFF_GRID_VOX = 0.02


class Structures(NamedTuple):
    """The structures of a case."""

    masks: dict[str, Mask]
    """Those that were wanted."""
    unknown: tuple[str, ...]
    """Names of the others."""
    notes: tuple[str, ...]


def as_hounsfield(volume: Volume, where: str) -> Volume:
    """The CT as int16 HU.

    Args:
        volume: as read.
        where: its file, for messages.

    Raises:
        UserError: it holds NaN, or values that are no HU: none of them is as low as air, or they exceed int16.
    """
    array = volume.array
    if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
        count = np.count_nonzero(~np.isfinite(array))
        raise UserError(f"{where}: {count} voxels are no numbers (NaN or infinite); convert the CT again")
    low, high = float(array.min()), float(array.max())
    limits = np.iinfo(np.int16)
    if low < limits.min or high > limits.max or low > AIR_BELOW_HU:
        raise UserError(
            f"{where}: its values from {low:g} to {high:g} are no Hounsfield units, of which air has -1000; apply the "
            "scanner's rescale slope and intercept"
        )
    whole = array if np.issubdtype(array.dtype, np.integer) else np.rint(array)
    return Volume(array=whole.astype(np.int16), geometry=volume.geometry)


def read_ct_file(path: Path) -> Volume:
    """Read a CT, int16 HU with axes in LPS order.

    Raises:
        UserError: the file is unreadable, or not in HU.
    """
    return as_hounsfield(read_lps(path), str(path))


def read_mask_files(paths: Mapping[str, Path], grid: Geometry | None, preset: Preset | None) -> Structures:
    """Read one binary mask per structure.

    Args:
        paths: structure name to file.
        grid: of the CT, LPS order; None takes the grid of the first mask.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is unreadable, or on another grid than the others.
    """
    masks = {}
    for name, path in paths.items():
        if not is_wanted(name, preset):
            continue
        mask = read_mask(path)
        grid = grid or mask.geometry
        masks[name] = _place(mask, grid, path)
    filled, notes = leave_out_empty(masks)
    return Structures(filled, tuple(name for name in paths if name not in masks), notes)


def read_label_file(files: CaseFiles, grid: Geometry, preset: Preset | None) -> Structures:
    """Read the structures of a label map; a value without voxels is a structure that nobody contoured.

    Args:
        files: the label map, and what its values mean if something says so.
        grid: of the CT, LPS order.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: the file is unreadable, no label map, or on another grid than the CT.
    """
    structures = open_structures(files, OrganNameResolver(preset))
    wanted = {key: name for key, name in structures.names.items() if is_wanted(name, preset)}
    masks = {name: _place(structures.load(key), grid, files.label_map) for key, name in wanted.items()}
    found = {name: mask for name, mask in masks.items() if mask.voxels.size}
    others = [name for key, name in structures.names.items() if key not in wanted and structures.load(key).voxels.size]
    return Structures(found, tuple(others), ())


def volumes_in(folder: Path) -> list[Path]:
    """The volume files directly in a folder, sorted."""
    return sorted(file for file in folder.iterdir() if file.is_file() and volume_suffix(file) and file.name[0] != ".")


def name_files(paths: Iterable[Path], name_of: Callable[[Path], str] = volume_stem) -> dict[str, Path]:
    """Structure name to file.

    Raises:
        UserError: two files have one name.
    """
    named: dict[str, Path] = {}
    for path in paths:
        first = named.setdefault(name_of(path), path)
        if first is not path:
            raise UserError(f"{first} and {path.name} both hold {name_of(path)}; keep one of them")
    return named


def case_paths(folder: Path | None, layout: str) -> list[Path]:
    """Every folder at or below `folder`, sorted; hidden ones are passed over.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"--input {folder or 'missing'}: expected a folder of {layout}; check the path")
    below = (path for path in folder.rglob("*") if path.is_dir())
    visible = (path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return [folder, *sorted(visible)]


def unique_names(folders: Iterable[Path], root: Path) -> dict[Path, str]:
    """A name per folder: its own, or where several share one their paths below `root`, joined by hyphens."""
    folders = list(folders)
    names = [folder.name for folder in folders]
    return {
        folder: folder.name
        if folder == root or names.count(folder.name) == 1
        else "-".join(folder.relative_to(root).parts)
        for folder in folders
    }


def _place(mask: Mask, grid: Geometry, path: Path) -> Mask:
    """The same mask on the CT's grid, of which its own may be a part: 3D Slicer cuts segmentations to their extent."""
    own = mask.geometry
    if own.matches(grid):
        return mask._replace(geometry=grid)
    ends = [own.world_mm(corner) for corner in ((0, 0, 0), np.subtract(own.size_zyx, 1))]
    first, last = grid.index_zyx(np.array(ends))
    offset = np.rint(first)
    stop = np.rint(last) + 1
    aligned = np.abs(first - offset).max() < OFF_GRID_VOX and np.allclose(stop - offset, own.size_zyx)
    parallel = np.allclose(own.direction, grid.direction, atol=1e-4)
    inside = (offset >= 0).all() and (stop <= grid.size_zyx).all()
    if not (aligned and parallel and inside):
        raise UserError(f"{path}: lies on another grid than its CT; resample it. Mask: {own}; CT: {grid}")
    corner = tuple(int(c + o) for c, o in zip(mask.corner_zyx, offset, strict=True))
    return Mask(mask.voxels, corner, grid)

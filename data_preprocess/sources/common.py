"""CTs and masks in volume files (NIfTI, NRRD, MHA), as several layouts store them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_preprocess.sources.base import RawStructures, read_structures
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask
from utils.io.segmentations import CaseFiles, OrganNameResolver, open_structures, read_mask
from utils.io.volumes import volume_stem


def read_mask_files(paths: Mapping[str, Path], grid: Geometry | None, preset: Preset | None) -> RawStructures:
    """Read one binary mask per structure.

    Args:
        paths: structure name to file.
        grid: of the CT, LPS order; None takes the grid of the first mask.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is unreadable, or on another grid than the others.
    """

    def load(name: str) -> Mask:
        nonlocal grid
        mask = read_mask(paths[name])
        grid = grid or mask.geometry
        return _move_to_grid(mask, grid, paths[name])

    return read_structures(paths, load, preset)


def read_label_file(files: CaseFiles, grid: Geometry, preset: Preset | None) -> RawStructures:
    """Read the structures of a label map; a value without voxels is a structure that was not contoured.

    Args:
        files: the label map, and the names of its values if the layout says them.
        grid: of the CT, LPS order.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: the file is unreadable, not a label map, or on another grid than the CT.
    """
    structures = open_structures(files, OrganNameResolver(preset))
    masks = {name: structures.load(key) for key, name in structures.names.items()}
    filled = [name for name, mask in masks.items() if mask.voxels.size]
    return read_structures(filled, lambda name: _move_to_grid(masks[name], grid, files.label_map), preset)


def only_ct(found: Sequence[Path], where: Path, expected: str) -> Path:
    """The CT of a case.

    Args:
        found: candidates.
        where: begins the message.
        expected: where the layout puts the CT.

    Raises:
        UserError: there is none, or several.
    """
    if not found:
        raise UserError(f"{where}: has no CT; expected {expected}; add it")
    if len(found) > 1:
        raise UserError(f"{where}: has {len(found)} CTs ({', '.join(path.name for path in found)}); keep one")
    return found[0]


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


def require_folder(folder: Path | None, expected: str) -> Path:
    """The folder that --input names.

    Raises:
        UserError: there is no such folder.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"--input {folder or 'missing'}: expected a folder of {expected}; check the path")
    return folder


def folders_below(folder: Path) -> list[Path]:
    """A folder and every folder below it that is not hidden, sorted."""
    below = (path for path in folder.rglob("*") if path.is_dir())
    visible = (path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return [folder, *sorted(visible)]


def find_case_folders(folder: Path | None, is_case: Callable[[Path], object], expected: str) -> dict[str, Path]:
    """Find the folders that hold a case.

    Args:
        folder: to look in and below.
        is_case: says whether a folder holds a case.
        expected: describes such folders, for messages.

    Returns:
        Case id to folder: the folder's name, or its path below `folder` joined by hyphens where several share the name.

    Raises:
        UserError: the folder does not exist or holds no case.
    """
    root = require_folder(folder, expected)
    found = [path for path in folders_below(root) if is_case(path)]
    if not found:
        raise UserError(f"{root}: expected {expected}, found none; check --input")
    names = [path.name for path in found]
    return {
        path.name if path == root or names.count(path.name) == 1 else "-".join(path.relative_to(root).parts): path
        for path in found
    }


def _move_to_grid(mask: Mask, grid: Geometry, path: Path) -> Mask:
    """The same mask on the CT's grid, of which its own may be a part: 3D Slicer cuts segmentations to their extent."""
    own = mask.geometry
    offset = own.offset_on(grid)
    if offset is None or min(offset) < 0 or np.any(np.add(offset, own.size_zyx) > grid.size_zyx):
        raise UserError(f"{path}: lies on another grid than its CT; resample it. Mask: {own}; CT: {grid}")
    return Mask(mask.voxels, tuple(np.add(mask.corner_zyx, offset).tolist()), grid)

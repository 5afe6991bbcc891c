"""CTs and masks in volume files (NIfTI, NRRD, MHA), as several layouts store them."""

import logging
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_preprocess.sources.base import RawStructures, read_structures
from utils.config.preset import Preset
from utils.errors import UserError, shorten
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask
from utils.io.files import folders_below, visible_folders
from utils.io.segmentations import CaseFiles, OrganNameResolver, open_structures, read_mask
from utils.io.volumes import volume_stem

CT_NAME = re.compile(r"(?:^|.*[\W_])(?:ct|image|img|ct[\W_]?image)(?:[\W_]0000)?", re.IGNORECASE)
OTHER_IMAGE = re.compile(r"(?:^|.*[\W_])(?:img|image)[\W_].*|(?:^|.*[\W_])(?:mr|mri|t1|t2|pet|pt|dose)", re.IGNORECASE)
"""Images of other modalities, which may lie beside the CT."""

logger = logging.getLogger(__name__)


def read_mask_files(paths: Mapping[str, Path], grid: Geometry | None, preset: Preset | None) -> RawStructures:
    """Read one binary mask per structure.

    Args:
        paths: structure name to file.
        grid: of the CT, LPS order; None takes the grid of the first mask.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is unreadable, or on another grid than the others.
    """

    owner = "its CT"

    def load(name: str) -> Mask:
        nonlocal grid, owner
        mask = read_mask(paths[name])
        if grid is None:
            grid, owner = mask.geometry, paths[name].name
        return _move_to_grid(mask, grid, paths[name], owner)

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
    return read_structures(filled, lambda name: _move_to_grid(masks[name], grid, files.label_map, "its CT"), preset)


def likely_cts(volumes: Iterable[Path]) -> list[Path]:
    """The volumes named ct, image or img, or ending so; else all that are not named after another modality."""
    stems = {path: volume_stem(path) for path in volumes}
    named = [path for path, stem in stems.items() if CT_NAME.fullmatch(stem)]
    return named or [path for path, stem in stems.items() if not OTHER_IMAGE.fullmatch(stem)]


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
        raise UserError(f"has no CT; add it as {expected}", where)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"has {len(found)} CTs ({names}); keep one and move the others out of the folder", where)
    return found[0]


def log_left_out(cts: Sequence[Path], missing: str) -> None:
    """Name the CTs that have no masks, on one line."""
    if cts:
        logger.info("%d CT(s) without %s are left out: %s", len(cts), missing, shorten(cts))


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
    """The folder that --input names, absolute, so that it has a name even if it is given as "." or "..".

    Raises:
        UserError: there is no such folder.
    """
    if folder is None:
        raise UserError(f"--input is missing; give a folder of {expected}")
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"--input {folder}: {problem}; expected a folder of {expected}; check the path")
    return Path(os.path.abspath(folder))


def subfolders(folder: Path, names: Container[str]) -> list[Path]:
    """The folders in a folder that have one of these names in lower case, in upper case too, sorted."""
    return sorted(path for path in visible_folders(folder) if path.name.lower() in names)


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
        raise UserError(f"--input {root}: expected {expected}, found none; check the path and --source")
    names = [path.name for path in found]
    return {
        path.name if path == root or names.count(path.name) == 1 else "-".join(path.relative_to(root).parts): path
        for path in found
    }


def _move_to_grid(mask: Mask, grid: Geometry, path: Path, owner: str) -> Mask:
    """The same mask on the grid of `owner`, of which its own may be a part: 3D Slicer cuts masks to their extent."""
    own = mask.geometry
    offset = own.offset_on(grid)
    if offset is None or min(offset) < 0 or np.any(np.add(offset, own.size_zyx) > grid.size_zyx):
        raise UserError(
            f"lies on another grid than {owner}; resample it. Expected {grid} or a part of it, got {own}", path
        )
    return Mask(mask.voxels, tuple(np.add(mask.corner_zyx, offset).tolist()), grid)

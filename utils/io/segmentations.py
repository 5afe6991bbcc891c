"""Organ masks of one case or many: label maps, or folders of one binary mask per organ."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from utils.config.organ_names import is_organ_name, organ_key
from utils.config.preset import Preset
from utils.errors import UserError, shorten
from utils.imaging.masks import Mask, crop_mask, empty_mask
from utils.io.color_table import COLOR_TABLE_NAME, NNUNET_DATASET, find_label_names
from utils.io.files import printable
from utils.io.volumes import SUFFIXES, read_lps, read_volume, volume_stem, volume_suffix, volumes_in

MASK_FOLDERS = ("segmentations", "structures")
"""Folders of this name hold the masks of the case whose folder they lie in."""

MAX_LABEL = 1000


@dataclass(frozen=True, kw_only=True)
class CaseFiles:
    """Where the organs of a case are stored: in a label map or in masks."""

    case_id: str
    label_map: Path | None = None
    """One volume with a value per organ."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Organ name to a volume with that organ alone."""
    label_names: Mapping[int, str] | None = None
    """Names of the label map's values; None looks for them in the usual places: see `value_names`."""


class OrganNameResolver:
    """Finds out which names mean the same organ, by the names and aliases of a preset if there is one."""

    def __init__(self, preset: Preset | None) -> None:
        self.preset = preset

    def key(self, name: str) -> str:
        """The same text for all names of an organ."""
        index = self.preset.find_organ(name) if self.preset else None
        return organ_key(name if index is None else self.preset.organ_names[index])

    def knows(self, name: str) -> bool:
        """Whether the text names an organ: one of the preset, or one that is common in this field."""
        return self.key(name) in self.preset_organs() or is_organ_name(name)

    def preset_organs(self) -> dict[str, str]:
        """Key to name of the preset's organs, in label order."""
        return {organ_key(name): name for name in self.preset.organ_names} if self.preset else {}


@dataclass(frozen=True)
class Structures:
    """The organs of a case."""

    names: Mapping[str, str]
    """Organ key to the name that the files give it."""
    load: Callable[[str], Mask]
    """Reads the mask of an organ, by its key."""
    explicit: bool
    """Whether an organ without voxels (an empty mask file) is known to be absent, not just uncontoured."""


def find_cases(paths: Sequence[Path], resolver: OrganNameResolver) -> dict[str, CaseFiles]:
    """Find the cases at some paths.

    A path may be a label map, a folder of label maps, a case's folder of masks (one file per organ), or a folder of
    such case folders, with the masks in them or in `segmentations` or `structures` below. A folder of volumes holds the
    masks of one case if a volume is named like an organ and no file beside them names label values.

    Returns:
        Case id (file or folder name) to its files, sorted.

    Raises:
        UserError: a path does not exist or holds no case; two cases have one name.
    """
    cases: dict[str, CaseFiles] = {}
    for path in paths:
        for case in _cases_in(path, resolver):
            if case.case_id in cases:
                raise UserError(f"{path}: case {case.case_id} occurs twice among these paths; give every case once")
            cases[case.case_id] = case
    return dict(sorted(cases.items()))


def open_structures(case: CaseFiles, resolver: OrganNameResolver) -> Structures:
    """Find out which organs a case has; mask files are read only when their mask is loaded.

    Raises:
        UserError: an unreadable label map, or two structures that are the same organ.
    """
    if case.label_map is None:
        keys = _unique_keys(case.masks, resolver, case.case_id)
        return Structures(keys, lambda key: read_mask(case.masks[keys[key]]), explicit=True)
    volume = read_lps(case.label_map)
    labels = _as_labels(volume.array, case.label_map)
    names = case.label_names or value_names(case.label_map, volume.metadata, resolver.preset)
    boxes = {value: box for value, box in enumerate(ndimage.find_objects(labels), 1) if box}
    value_of = {names.get(value, f"label {value}"): value for value in sorted({*boxes, *names})}
    keys = _unique_keys(value_of, resolver, str(case.label_map))

    def load(key: str) -> Mask:
        value = value_of[keys[key]]
        if value not in boxes:
            return empty_mask(volume.geometry)
        box = boxes[value]
        return crop_mask(labels[box] == value, tuple(axis.start for axis in box), volume.geometry)

    return Structures(keys, load, explicit=False)


def read_mask(path: Path) -> Mask:
    """Read a binary mask.

    Raises:
        UserError: the file is unreadable, or holds more than one value besides 0.
    """
    volume = read_lps(path)
    mask = crop_mask(volume.array, (0, 0, 0), volume.geometry)
    if mask.voxels.size:
        inside = volume.array[mask.box][mask.voxels]
        if inside.min() != inside.max():
            raise UserError(
                f"expected a binary mask, got values from {inside.min()} to {inside.max()}; give a label map "
                "as <case>.nii.gz, not in a folder of masks",
                path,
            )
    return mask


def value_names(path: Path, metadata: Mapping[str, str], preset: Preset | None) -> dict[int, str]:
    """Names of a label map's values: its own header's, else the color table's or dataset.json's beside it, else the
    preset's.

    The header fields of a label map of 3D Slicer are Segment<i>_Name and Segment<i>_LabelValue.

    Raises:
        UserError: the header or a file beside it is damaged.
    """
    own = {}
    for segment in [key.removesuffix("_Name") for key in metadata if re.fullmatch(r"Segment\d+_Name", key)]:
        value = metadata.get(f"{segment}_LabelValue", "")
        if not value.isdecimal():
            raise UserError(f"{segment}_LabelValue: expected a number, got {value!r}; save the file again", path)
        name = metadata[f"{segment}_Name"]
        if own.setdefault(int(value), name) != name:
            raise UserError(
                f"its segments {own[int(value)]} and {name} both have the value {value}; save them in separate files",
                path,
            )
    if own:
        return own
    beside = find_label_names(path.parent)
    if beside is not None:
        return beside
    return dict(enumerate(preset.organ_names, 1)) if preset else {}


def require_names(cases: Iterable[CaseFiles], others: Iterable[CaseFiles], resolver: OrganNameResolver) -> None:
    """Check the first label map, so that values without names are one error and not one per case.

    Args:
        cases: of one side.
        others: the cases that they are compared with.
        resolver: of organ names.

    Raises:
        UserError: the names of its values are found nowhere, or only in the preset while the other side's label maps
            have other values for these organs.
    """
    first, other = (next((case.label_map for case in side if case.label_map), None) for side in (cases, others))
    if first is None or find_label_names(first.parent) is not None:
        return
    other_names = (other and find_label_names(other.parent)) or {}
    other_values = {resolver.key(name): value for value, name in other_names.items()}
    moved = [
        f"{name} is {value} in the preset, and {other_values[key]} there"
        for value, (key, name) in enumerate(resolver.preset_organs().items(), 1)
        if other_values.get(key, value) != value
    ]
    if (moved or not resolver.preset) and not value_names(first, read_volume(first).metadata, None):
        why = f", and {other.parent} names them in another order than --preset: {shorten(moved, '; ')}" if moved else ""
        remedy = "put" if moved else "give --preset, or put"
        raise UserError(
            f"{first}: its values have no names{why}; {remedy} {COLOR_TABLE_NAME} or {NNUNET_DATASET} beside it"
        )


def case_volumes(folder: Path) -> dict[str, Path]:
    """The CTs of a folder by case id: `<case>.nii.gz` (or another format), or the only volume in `<case>/`."""
    volumes = {volume_stem(path): path for path in volumes_in(folder)}
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        found = volumes_in(inner)
        if len(found) == 1:
            volumes.setdefault(printable(inner.name), found[0])
    return volumes


def _cases_in(path: Path, resolver: OrganNameResolver) -> list[CaseFiles]:
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    if path.is_file():
        if volume_suffix(path) is None:
            raise UserError(f"{path}: expected a volume ({', '.join(SUFFIXES)}) or a folder; convert the file")
        stem = volume_stem(path)
        return [_case(stem, masks=[path]) if resolver.knows(stem) else CaseFiles(case_id=stem, label_map=path)]
    volumes = volumes_in(path)
    has_organ_names = any(resolver.knows(volume_stem(volume)) for volume in volumes)
    if volumes and (path.name in MASK_FOLDERS or (has_organ_names and find_label_names(path) is None)):
        return [_case(path.parent.name if path.name in MASK_FOLDERS else path.name, masks=volumes)]
    if volumes:
        return [CaseFiles(case_id=volume_stem(volume), label_map=volume) for volume in volumes]
    cases = []
    for folder in sorted(sub for sub in path.iterdir() if sub.is_dir() and not sub.name.startswith(".")):
        inner = [folder / name for name in MASK_FOLDERS if (folder / name).is_dir()]
        if masks := volumes_in(inner[0] if inner else folder):
            cases.append(_case(path.name if folder.name in MASK_FOLDERS else folder.name, masks=masks))
    if not cases:
        raise UserError(
            f"{path}: expected label maps <case>.nii.gz or folders of masks <case>/..., found neither; check the path"
        )
    return cases


def _case(case_id: str, masks: Sequence[Path]) -> CaseFiles:
    return CaseFiles(case_id=printable(case_id), masks={volume_stem(mask): mask for mask in masks})


def _unique_keys(names: Sequence[str], resolver: OrganNameResolver, where: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name in names:
        key = resolver.key(name)
        if key in keys:
            raise UserError(f"{keys[key]!r} and {name!r} are the same organ; keep one of them", where)
        keys[key] = name
    return keys


def _as_labels(array: np.ndarray, path: Path) -> np.ndarray:
    is_whole = np.issubdtype(array.dtype, np.integer) or np.array_equal(array, np.round(array))
    if not (is_whole and array.min(initial=0) >= 0 and array.max(initial=0) <= MAX_LABEL):
        raise UserError(
            f"expected a label map of whole numbers from 0 to {MAX_LABEL}, got {array.dtype} values from "
            f"{array.min()} to {array.max()}; give a label map, not an image",
            path,
        )
    return array if np.issubdtype(array.dtype, np.integer) else array.astype(np.int16)

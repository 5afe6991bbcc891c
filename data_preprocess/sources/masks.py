"""A CT and one binary mask file per organ: TotalSegmentator, HaN-Seg, tcia-hn, and folders of one's own.

The masks lie beside the CT, or below it in `segmentations`, `structures` or `masks`. The CT is called ct, image or img,
or something that ends so (case_01_IMG_CT.nrrd); failing that it is the only volume outside the masks' folder.
Structures are named by their files, less `.seg`, the case's name and everything up to `OAR_`. Cases whose folders have
the same name are scans or observers of one patient.
"""

import re
from functools import partial
from pathlib import Path

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import (
    Structures,
    case_paths,
    name_files,
    read_ct_file,
    read_mask_files,
    unique_names,
    volumes_in,
)
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.segmentations import MASK_FOLDERS
from utils.io.volumes import Volume, volume_stem

FOLDERS = (*MASK_FOLDERS, "masks")
CT_NAME = re.compile(r"(?:^|.*[\W_])(?:ct|image|img|ct[\W_]?image)(?:[\W_]0000)?", re.IGNORECASE)
OTHER_IMAGE = re.compile(r"(?:^|.*[\W_])(?:img|image)[\W_].*|(?:^|.*[\W_])(?:mr|mri|t1|t2|pet|pt|dose)", re.IGNORECASE)
"""Images of other modalities: no masks, even where they lie among them."""


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the folders of cases at or below a folder.

    Raises:
        UserError: the folder does not exist or holds no masks.
    """
    cases = [path for path in case_paths(folder, "cases") if path.name not in FOLDERS and mask_files(path)]
    if not cases:
        raise UserError(
            f"{folder}: expected folders of cases with one mask file per organ, beside the CT or in "
            f"{', '.join(FOLDERS)}; found none"
        )
    names = unique_names(cases, folder)
    return [RawCaseHandle(case_id=names[path], location=str(path), patient=path.name) for path in cases]


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one case.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: there is no CT, or several; a file is damaged, or on another grid.
    """
    folder = Path(reference.location)
    volume = read_ct_file(find_ct(folder))
    structures = read_mask_files(find_masks(folder), volume.geometry, preset)
    return raw_case(reference, structures, volume)


def raw_case(reference: RawCaseHandle, structures: Structures, volume: Volume | None = None) -> RawCase:
    """Put a case together; `volume` is its CT, or None for masks alone."""
    return RawCase(
        case_id=reference.case_id,
        volume=volume,
        masks=structures.masks,
        unknown=structures.unknown,
        notes=structures.notes,
        patient=reference.patient,
        source=reference.location,
    )


def find_masks(folder: Path) -> dict[str, Path]:
    """Structure name to mask file of the case in `folder`.

    Raises:
        UserError: two files hold one structure.
    """
    return name_files(mask_files(folder), partial(structure_name, case_name=folder.name))


def mask_files(folder: Path) -> list[Path]:
    """The masks of the case in `folder`; none if it is no case's folder."""
    inner = [folder / name for name in FOLDERS if (folder / name).is_dir()]
    if inner:
        return volumes_in(inner[0])
    files = [path for path in volumes_in(folder) if not CT_NAME.fullmatch(volume_stem(path))]
    return [path for path in files if not OTHER_IMAGE.fullmatch(volume_stem(path))]


def find_ct(folder: Path) -> Path:
    """The CT of the case in `folder`.

    Raises:
        UserError: there is none, or several.
    """
    volumes = volumes_in(folder)
    named = [path for path in volumes if CT_NAME.fullmatch(volume_stem(path))]
    has_inner = any((folder / name).is_dir() for name in FOLDERS)
    candidates = named or (volumes if has_inner else [])
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        raise UserError(f"{folder}: holds {len(candidates)} CTs ({', '.join(p.name for p in candidates)}); keep one")
    raise UserError(
        f"{folder}: holds no CT; expected ct.nii.gz (or another format, or *_CT). For shapes alone use --source shapes"
    )


def structure_name(path: Path, case_name: str) -> str:
    """The structure that a mask file is named after: "case_01_OAR_Parotid_L.seg.nrrd" holds "Parotid_L"."""
    stem = re.sub(r"\.seg$", "", volume_stem(path), flags=re.IGNORECASE)
    stem = re.sub(r"^.*(?:^|_)OAR_", "", stem, flags=re.IGNORECASE)
    return stem.removeprefix(f"{case_name}_") or stem

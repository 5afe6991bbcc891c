"""A CT and one binary mask file per organ: TotalSegmentator, HaN-Seg, tcia-hn, and folders of one's own.

The masks lie beside the CT, or below it in `segmentations`, `structures` or `masks`. The CT is called ct, image or img,
or ends so (case_01_IMG_CT.nrrd); otherwise it is the only volume outside the masks' folder. Structures are named by
their files, without `.seg`, the case's name and everything up to `OAR_`. Cases whose folders have the same name are
scans or observers of one patient.
"""

import re
from functools import partial
from pathlib import Path

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import find_case_folders, name_files, only_ct, read_mask_files
from utils.config.preset import Preset
from utils.io.segmentations import MASK_FOLDERS
from utils.io.volumes import read_lps, volume_stem, volumes_in

FOLDERS = (*MASK_FOLDERS, "masks")
CT_NAME = re.compile(r"(?:^|.*[\W_])(?:ct|image|img|ct[\W_]?image)(?:[\W_]0000)?", re.IGNORECASE)
OTHER_IMAGE = re.compile(r"(?:^|.*[\W_])(?:img|image)[\W_].*|(?:^|.*[\W_])(?:mr|mri|t1|t2|pet|pt|dose)", re.IGNORECASE)
"""Images of other modalities, which may lie among the masks."""
EXPECTED = f"folders of cases with one mask file per organ, beside the CT or in {', '.join(FOLDERS)}"


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the folders of cases at or below a folder: see `Source.list_cases`."""
    cases = find_case_folders(folder, lambda path: path.name not in FOLDERS and mask_files(path), EXPECTED)
    return [RawCaseHandle(case_id=name, location=path, patient=path.name) for name, path in cases.items()]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a CT and its masks: see `Source.read_case`."""
    volume = read_lps(find_ct(handle.location))
    structures = read_mask_files(find_masks(handle.location), volume.geometry, preset)
    return RawCase.of(handle, volume, structures, handle.location)


def find_masks(folder: Path) -> dict[str, Path]:
    """Structure name to mask file of the case in `folder`.

    Raises:
        UserError: two files hold one structure.
    """
    return name_files(mask_files(folder), partial(structure_name, case_name=folder.name))


def mask_files(folder: Path) -> list[Path]:
    """The masks of the case in `folder`; empty if it is not a case's folder."""
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
    expected = "ct.nii.gz (or another format, or *_CT). For shapes alone use --source shapes"
    return only_ct(named or (volumes if has_inner else []), folder, expected)


def structure_name(path: Path, case_name: str) -> str:
    """The structure that a mask file is named after: "case_01_OAR_Parotid_L.seg.nrrd" holds "Parotid_L"."""
    stem = re.sub(r"\.seg$", "", volume_stem(path), flags=re.IGNORECASE)
    stem = re.sub(r"^.*(?:^|_)OAR_", "", stem, flags=re.IGNORECASE)
    return stem.removeprefix(f"{case_name}_") or stem

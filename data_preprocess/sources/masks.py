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
from data_preprocess.sources.common import (
    CT_NAME,
    OTHER_IMAGE,
    find_case_folders,
    likely_cts,
    log_left_out,
    name_files,
    only_ct,
    read_mask_files,
    subfolders,
)
from utils.config.preset import Preset
from utils.io.segmentations import MASK_FOLDERS
from utils.io.volumes import read_lps, volume_stem, volumes_in

FOLDERS = (*MASK_FOLDERS, "masks")
EXPECTED = f"folders of cases with one mask file per organ, beside the CT or in {', '.join(FOLDERS)}"
EXPECTED_CT = f"ct.nii.gz (or *_CT, or another format) beside the masks or their folder ({', '.join(FOLDERS)})"


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the folders of cases at or below a folder: see `Source.list_cases`."""
    without_masks = []

    def is_case(path: Path) -> bool:
        if path.name.lower() in FOLDERS:
            return False
        masks = mask_files(path)
        if not masks:
            without_masks.extend(volume for volume in volumes_in(path) if CT_NAME.fullmatch(volume_stem(volume)))
        return bool(masks)

    cases = find_case_folders(folder, is_case, EXPECTED)
    log_left_out(without_masks, "masks")
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
    inner = subfolders(folder, FOLDERS)
    if inner:
        return [path for each in inner for path in volumes_in(each)]
    files = [path for path in volumes_in(folder) if not CT_NAME.fullmatch(volume_stem(path))]
    return [path for path in files if not OTHER_IMAGE.fullmatch(volume_stem(path))]


def find_ct(folder: Path) -> Path:
    """The CT of the case in `folder`.

    Raises:
        UserError: there is none, or several.
    """
    found = likely_cts(volumes_in(folder))
    if not subfolders(folder, FOLDERS):  # the volumes that are not named so are masks
        found = [path for path in found if CT_NAME.fullmatch(volume_stem(path))]
    return only_ct(found, folder, f"{EXPECTED_CT}, or use --source shapes for masks alone")


def structure_name(path: Path, case_name: str) -> str:
    """The structure that a mask file is named after: "case_01_OAR_Parotid_L.seg.nrrd" holds "Parotid_L"."""
    stem = re.sub(r"\.seg$", "", volume_stem(path), flags=re.IGNORECASE)
    stem = re.sub(r"^.*(?:^|_)OAR_", "", stem, flags=re.IGNORECASE)
    return stem.removeprefix(f"{case_name}_") or stem

"""PDDCA, the data of the MICCAI 2015 head-and-neck challenge (Raudaschl et al., Medical Physics 44 (2017) 2020-2036).

<case>/img.nrrd and <case>/structures/<Structure>.nrrd. Cases are named 0522c0001 and so on; their numbers say which
part of the challenge they belong to. Structures that nobody drew have no file.
"""

import re
from pathlib import Path

from data_preprocess.cases import HELD_OUT
from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import (
    case_paths,
    name_files,
    read_ct_file,
    read_mask_files,
    unique_names,
    volumes_in,
)
from utils.config.preset import Preset
from utils.errors import UserError

IMAGE = "img.nrrd"
STRUCTURES = "structures"
NUMBER = re.compile(r"0522c(\d{4})")
PARTS = ((1, 479, "train"), (555, 746, "test"), (788, 878, HELD_OUT))
"""First and last number of the training (25 and 8 additional), off-site and on-site cases."""


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the cases at or below a folder.

    Raises:
        UserError: the folder does not exist or holds no case.
    """
    cases = [path for path in case_paths(folder, "PDDCA cases") if (path / STRUCTURES).is_dir()]
    if not cases:
        raise UserError(f"{folder}: expected PDDCA's <case>/{IMAGE} and <case>/{STRUCTURES}/*.nrrd, found none")
    names = unique_names(cases, folder)
    return [RawCaseHandle(case_id=names[path], location=str(path), split=_split(path.name)) for path in cases]


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one case.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is missing, damaged, or on another grid.
    """
    folder = Path(reference.location)
    volume = read_ct_file(folder / IMAGE)
    structures = read_mask_files(name_files(volumes_in(folder / STRUCTURES)), volume.geometry, preset)
    return RawCase(
        case_id=reference.case_id,
        volume=volume,
        masks=structures.masks,
        unknown=structures.unknown,
        notes=structures.notes,
        split=reference.split,
        source=str(folder),
    )


def _split(name: str) -> str | None:
    match = NUMBER.search(name)
    number = int(match[1]) if match else 0
    return next((split for first, last, split in PARTS if first <= number <= last), None)

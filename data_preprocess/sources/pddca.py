"""PDDCA, the data of the MICCAI 2015 head-and-neck challenge (Raudaschl et al., Medical Physics 44 (2017) 2020-2036).

<case>/img.nrrd and <case>/structures/<Structure>.nrrd. Cases are named 0522c0001 and so on; the number says which part
of the challenge a case belongs to. Structures that were not contoured have no file.
"""

import re
from pathlib import Path

from data_preprocess.cases import HELD_OUT
from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import find_case_folders, name_files, only_ct, read_mask_files, subfolders
from utils.config.preset import Preset
from utils.io.volumes import read_lps, volumes_in

IMAGE = "img.nrrd"
STRUCTURES = "structures"
NUMBER = re.compile(r"0522c(\d{4})")
PARTS = ((1, 479, "train"), (555, 746, "test"), (788, 878, HELD_OUT))
"""First and last number of the training (25 and 8 additional), off-site and on-site cases."""
EXPECTED = f"PDDCA's <case>/{IMAGE} and <case>/{STRUCTURES}/*.nrrd"


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the cases at or below a folder: see `Source.list_cases`."""
    cases = find_case_folders(folder, lambda path: subfolders(path, (STRUCTURES,)), EXPECTED)
    return [RawCaseHandle(case_id=name, location=path, split=_split(path.name)) for name, path in cases.items()]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a CT and its masks: see `Source.read_case`."""
    folder = handle.location
    images = [path for path in volumes_in(folder) if path.name.lower() == IMAGE]
    volume = read_lps(only_ct(images, folder, IMAGE))
    masks = [path for inner in subfolders(folder, (STRUCTURES,)) for path in volumes_in(inner)]
    structures = read_mask_files(name_files(masks), volume.geometry, preset)
    return RawCase.of(handle, volume, structures, folder)


def _split(name: str) -> str | None:
    match = NUMBER.search(name)
    number = int(match[1]) if match else 0
    return next((split for first, last, split in PARTS if first <= number <= last), None)

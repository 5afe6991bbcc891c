"""nnU-Net's raw layout, version 2: dataset.json, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz, and imagesTs.

nnU-Net cannot say that an organ was not contoured. Here an organ counts as contoured where it has a voxel.
"""

from pathlib import Path
from typing import NamedTuple

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import log_left_out, only_ct, read_label_file, require_folder
from utils.config.preset import Preset
from utils.errors import UserError, shorten
from utils.io.color_table import NNUNET_DATASET, read_nnunet_labels
from utils.io.files import read_json
from utils.io.segmentations import CaseFiles
from utils.io.volumes import SUFFIXES, read_lps

SPLITS = {"labelsTr": "train", "labelsTs": "test"}
IGNORE = "ignore"
EXPECTED = "nnU-Net's layout, DatasetNNN_Name"


class Dataset(NamedTuple):
    """The content of dataset.json."""

    file_ending: str
    names: dict[int, str]
    """Label to organ name, without background."""
    ct_channel: int


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the labeled cases of a folder DatasetNNN_Name: see `Source.list_cases`."""
    folder = require_folder(folder, EXPECTED)
    dataset = _read_dataset(folder)
    handles = [
        RawCaseHandle(case_id=label.name.removesuffix(dataset.file_ending), location=label, split=split)
        for name, split in SPLITS.items()
        for label in sorted((folder / name).glob(f"[!.]*{dataset.file_ending}"))
    ]
    if not handles:
        raise UserError(
            f"--input {folder}: expected label maps *{dataset.file_ending} (file_ending of {NNUNET_DATASET}) in "
            f"{' or '.join(SPLITS)}, found none; check the folder and file_ending"
        )
    used = {_image_of(handle, dataset) for handle in handles}
    channel = f"[!.]*_{dataset.ct_channel:04d}{dataset.file_ending}"
    images = [path for name in SPLITS for path in sorted((folder / _images(name)).glob(channel))]
    log_left_out([path for path in images if path not in used], "a label map")
    return handles


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a CT and its label map: see `Source.read_case`."""
    label = handle.location
    dataset = _read_dataset(label.parent.parent)
    image = _image_of(handle, dataset)
    volume = read_lps(only_ct([image] if image.is_file() else [], label, str(image)))
    files = CaseFiles(case_id=handle.case_id, label_map=label, label_names=dataset.names)
    structures = read_label_file(files, volume.geometry, preset)
    if IGNORE in structures.unmatched_structures:
        raise UserError(f"has voxels with the label {IGNORE!r}, whose organ is unknown; leave the case out", label)
    return RawCase.of(handle, volume, structures, image)


def _images(labels: str) -> str:
    """The folder of the CTs whose label maps lie in the folder `labels`."""
    return labels.replace("labels", "images")


def _image_of(handle: RawCaseHandle, dataset: Dataset) -> Path:
    folder = handle.location.parent.parent / _images(handle.location.parent.name)
    return folder / f"{handle.case_id}_{dataset.ct_channel:04d}{dataset.file_ending}"


def _read_dataset(folder: Path) -> Dataset:
    path = folder / NNUNET_DATASET
    if not path.is_file():
        inner = [found.parent.name for found in sorted(folder.glob(f"*/{NNUNET_DATASET}"))]
        remedy = f"give one of the folders in it ({shorten(inner)})" if inner else "check --input and --source"
        raise UserError(f"--input {folder}: expected {EXPECTED}, found no {NNUNET_DATASET}; {remedy}")
    content = read_json(path)
    missing = [key for key in ("labels", "file_ending", "channel_names") if key not in content]
    if missing:
        raise UserError(
            f"{path}: lacks {', '.join(missing)}; convert it to the format of nnU-Net version 2, for example with "
            "nnUNetv2_convert_old_nnUNet_dataset"
        )
    names, channels = read_nnunet_labels(path), content["channel_names"]
    ending = content["file_ending"]
    if str(ending).lower() not in SUFFIXES:
        raise UserError(
            f"{path}: file_ending: expected one of {', '.join(SUFFIXES)}, got {ending!r}; convert the files and "
            "correct the entry"
        )
    if not isinstance(channels, dict) or not all(n.isdecimal() and isinstance(channels[n], str) for n in channels):
        raise UserError(f"{path}: channel_names: expected numbers with one name each, got {channels}; correct them")
    found = [int(number) for number, name in channels.items() if name.casefold() == "ct"]
    if not found and len(channels) > 1:
        raise UserError(
            f"{path}: channel_names: none of {', '.join(channels.values())} is called CT; rename the CT's channel"
        )
    return Dataset(
        file_ending=ending,
        names=names,
        ct_channel=found[0] if found else 0,
    )

"""nnU-Net's raw layout, version 2: dataset.json, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz, and imagesTs.

nnU-Net cannot say that an organ was not contoured. Here an organ counts as contoured where it has a voxel.
"""

from pathlib import Path
from typing import NamedTuple

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import read_ct_file, read_label_file
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.files import read_json
from utils.io.segmentations import CaseFiles

DATASET = "dataset.json"
SPLITS = {"labelsTr": "train", "labelsTs": "test"}
IGNORE = "ignore"


class Dataset(NamedTuple):
    """What dataset.json says."""

    file_ending: str
    names: dict[int, str]
    """Label to organ name, without background."""
    ct_channel: int


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the labelled cases of a folder DatasetNNN_Name.

    Raises:
        UserError: the folder holds no dataset.json, a damaged one, or no label maps.
    """
    if folder is None or not folder.is_dir():
        raise UserError(f"--input {folder or 'missing'}: expected nnU-Net's folder DatasetNNN_Name; check the path")
    suffix = _read_dataset(folder).file_ending
    references = [
        RawCaseHandle(case_id=label.name.removesuffix(suffix), location=str(label), split=split)
        for name, split in SPLITS.items()
        for label in sorted((folder / name).glob(f"[!.]*{suffix}"))
    ]
    if not references:
        raise UserError(f"{folder}: expected {', '.join(SPLITS)} with label maps *{suffix}, found none")
    return references


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one case.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: the CT is missing, a file is damaged, or on another grid.
    """
    label = Path(reference.location)
    folder = label.parent.parent
    dataset = _read_dataset(folder)
    images = folder / label.parent.name.replace("labels", "images")
    image = images / f"{reference.case_id}_{dataset.ct_channel:04d}{dataset.file_ending}"
    volume = read_ct_file(image)
    files = CaseFiles(case_id=reference.case_id, label_map=label, label_names=dataset.names)
    structures = read_label_file(files, volume.geometry, preset)
    if IGNORE in structures.unknown:
        raise UserError(
            f"{label}: has voxels with the label {IGNORE!r}; nobody knows what they are, leave the case out"
        )
    return RawCase(
        case_id=reference.case_id,
        volume=volume,
        masks=structures.masks,
        unknown=structures.unknown,
        split=reference.split,
        source=str(image),
    )


def _read_dataset(folder: Path) -> Dataset:
    path = folder / DATASET
    content = read_json(path)
    missing = [key for key in ("labels", "file_ending", "channel_names") if key not in content]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; expected the format of nnU-Net version 2")
    labels, channels = content["labels"], content["channel_names"]
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise UserError(f"{path}: labels: expected organ names with one number each, got {labels}")
    found = [int(number) for number, name in channels.items() if name.casefold() == "ct"]
    if not found and len(channels) > 1:
        raise UserError(f"{path}: channel_names: none of {', '.join(channels.values())} is called CT")
    return Dataset(
        file_ending=content["file_ending"],
        names={value: name for name, value in labels.items() if value},
        ct_channel=found[0] if found else 0,
    )

"""Exports a raw data set to NIfTI on its original grids, for inference, evaluation, viewers or nnU-Net.

    python -m data_preprocess.export --source openkbp --input RAW --output DIR

writes `images/<id>.nii.gz`, `labels/<id>.nii.gz` and a color table.

    python -m data_preprocess.export --source openkbp --input RAW --format nnunet --output nnUNet_raw/Dataset501_OpenKBP

writes nnU-Net's raw layout: cases of train and val as imagesTr and labelsTr, those of test as imagesTs and labelsTs.
Copy splits_final.json into nnU-Net's folder of the preprocessed data set: its fold 0 is then the split of our cases.
"""

import argparse
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from data_preprocess.cases import HELD_OUT
from data_preprocess.label_map import match_organs, merge_masks
from data_preprocess.raw_cases import list_raw_cases, preset_name, raw_arguments, read_raw_case, select_raw_cases
from data_preprocess.sources import RawCase, RawCaseHandle
from data_preprocess.splits import assign_splits, read_splits
from utils.config.preset import Preset, load_preset
from utils.errors import UserError
from utils.io.color_table import write_color_table
from utils.io.files import write_json
from utils.io.volumes import Volume, write_volume
from utils.runtime.command_line import report_failures, run_main
from utils.runtime.process_pool import run_cases

NNUNET_NAME = re.compile(r"Dataset\d{3}_\w+")
NNUNET_SUFFIX = {"train": "Tr", "val": "Tr", "test": "Ts"}

logger = logging.getLogger(__name__)


def export_case(raw: RawCase, preset: Preset, folder: Path) -> None:
    """Write the CT and its label map as `folder`/images/<id>.nii.gz and `folder`/labels/<id>.nii.gz.

    Raises:
        UserError: the case has no CT.
    """
    name = f"{raw.case_id}.nii.gz"
    _write_pair(raw, preset, folder / "images" / name, folder / "labels" / name)


def export_nnunet_case(raw: RawCase, preset: Preset, folder: Path, split: str) -> list[str]:
    """Write the CT and its label map where nnU-Net looks for them.

    Returns:
        Names of the organs that are not contoured: nnU-Net takes them for background.

    Raises:
        UserError: the case has no CT.
    """
    label = folder / f"labels{NNUNET_SUFFIX[split]}" / f"{raw.case_id}.nii.gz"
    _write_pair(raw, preset, _nnunet_image(folder, split, raw.case_id), label)
    by_organ = match_organs(raw.masks, preset)
    return [name for i, name in enumerate(preset.organ_names) if i not in by_organ]


def write_nnunet_dataset(folder: Path, preset: Preset, splits: Mapping[str, str]) -> None:
    """Write dataset.json for the cases in the folder, and their split.

    Args:
        folder: named DatasetNNN_Name.
        preset: organs.
        splits: case id to split.
    """
    present = [path.name.removesuffix(".nii.gz") for path in sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))]
    labels = {"background": 0} | {name: value for value, name in enumerate(preset.organ_names, 1)}
    content = {
        "channel_names": {"0": "CT"},
        "labels": labels,
        "numTraining": len(present),
        "file_ending": ".nii.gz",
        "name": folder.name.partition("_")[2],
        "description": preset.description,
    }
    write_json(folder / "dataset.json", content)
    fold = {split: [name for name in present if splits.get(name) == split] for split in ("train", "val")}
    write_json(folder / "splits_final.json", [fold])


def _nnunet_image(folder: Path, split: str, case_id: str) -> Path:
    return folder / f"images{NNUNET_SUFFIX[split]}" / f"{case_id}_0000.nii.gz"


def _write_pair(raw: RawCase, preset: Preset, image: Path, label: Path) -> None:
    """Write the label map and then the CT, whose file means that the case is complete."""
    if raw.volume is None:
        raise UserError("has no CT to export")
    merged = merge_masks(raw.masks, preset, raw.geometry.size_zyx)
    write_volume(label, Volume(array=merged, geometry=raw.geometry))
    write_volume(image, raw.volume)


def _export(handle: RawCaseHandle, source: str, preset: Preset, folder: Path) -> None:
    if not (folder / "images" / f"{handle.case_id}.nii.gz").is_file():
        export_case(read_raw_case(handle, source, preset), preset, folder)


def _export_nnunet(
    handle: RawCaseHandle, source: str, preset: Preset, folder: Path, splits: Mapping[str, str]
) -> list[str]:
    split = splits[handle.case_id]
    if _nnunet_image(folder, split, handle.case_id).is_file():
        return []
    return export_nnunet_case(read_raw_case(handle, source, preset), preset, folder, split)


def _run_nifti(arguments: argparse.Namespace, preset: Preset) -> int:
    handles = {handle.case_id: handle for handle in select_raw_cases(list_raw_cases(arguments), arguments)}
    write_color_table(arguments.output / "labels", preset)
    task = partial(_export, source=arguments.source, preset=preset, folder=arguments.output)
    return report_failures(run_cases(task, handles, arguments.workers).failures, len(handles))


def _run_nnunet(arguments: argparse.Namespace, preset: Preset) -> int:
    folder = arguments.output
    if not NNUNET_NAME.fullmatch(folder.name):
        raise UserError(f"--output {folder}: expected nnU-Net's form DatasetNNN_Name, for example Dataset501_HeadNeck")
    every = list_raw_cases(arguments)
    known = read_splits(arguments.cases) if arguments.cases else {}
    splits = assign_splits(every, {case_id: name for name, case_ids in known.items() for case_id in case_ids})
    selected = select_raw_cases(every, arguments)
    handles = {handle.case_id: handle for handle in selected if splits[handle.case_id] != HELD_OUT}
    task = partial(_export_nnunet, source=arguments.source, preset=preset, folder=folder, splits=splits)
    outcome = run_cases(task, handles, arguments.workers)
    write_nnunet_dataset(folder, preset, splits)
    _log_missing(outcome.results.values())
    return report_failures(outcome.failures, len(handles))


def _log_missing(missing: Iterable[Sequence[str]]) -> None:
    counts = Counter(name for names in missing for name in names)
    if counts:
        listed = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
        logger.info("organs that are not contoured become nnU-Net's background: %s cases", listed)


def main(argv: list[str] | None = None) -> int:
    """Export every case that is not exported yet."""
    parser = raw_arguments(__doc__)
    parser.add_argument("--format", choices=("nifti", "nnunet"), default="nifti")
    parser.add_argument("--cases", type=Path, help="prepared cases whose splits.json the nnunet format follows")
    arguments = parser.parse_args(argv)
    preset = load_preset(preset_name(arguments), arguments.set)
    return (_run_nnunet if arguments.format == "nnunet" else _run_nifti)(arguments, preset)


if __name__ == "__main__":
    sys.exit(run_main(main))

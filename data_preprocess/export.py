"""Exports a raw data set to NIfTI on its original grids, for inference, evaluation, viewers or nnU-Net.

    python -m data_preprocess.export --source openkbp --input RAW --output DIR

writes `images/<id>.nii.gz`, `labels/<id>.nii.gz` and a color table.

    python -m data_preprocess.export --source openkbp --input RAW --format nnunet --output nnUNet_raw/Dataset501_OpenKBP

writes nnU-Net's raw layout: cases of train and val as imagesTr and labelsTr, those of test as imagesTs and labelsTs.
Copy splits_final.json into nnU-Net's folder of the preprocessed data set: its fold 0 is then the split of our cases.
"""

import sys
from pathlib import Path

if not __package__:  # run by its path: Python then searches modules beside this file only
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from data_preprocess.cases import HELD_OUT
from data_preprocess.label_map import match_organs, merge_masks
from data_preprocess.raw_cases import list_raw_cases, load_raw_preset, raw_arguments, read_raw_case, select_raw_cases
from data_preprocess.sources import RawCase, RawCaseHandle
from data_preprocess.splits import assign_splits, read_splits
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.color_table import NNUNET_DATASET, check_color_table, write_color_table
from utils.io.files import check_folder, make_folder, move_all, read_json, remove_partials, staging_folder, write_json
from utils.io.own_files import files_at, require_own
from utils.io.volumes import Volume, write_volume
from utils.runtime.command_line import report_failures, run_main
from utils.runtime.process_pool import run_cases

SPLITS_FINAL = "splits_final.json"
NNUNET_FOLDER = re.compile(r"Dataset\d{3}_\w+")
NNUNET_SUFFIX = {"train": "Tr", "val": "Tr", "test": "Ts"}

logger = logging.getLogger(__name__)


class ExportedFiles(NamedTuple):
    """Where the files of a case are written."""

    image: Path
    label: Path


def nifti_files(folder: Path, case_id: str) -> ExportedFiles:
    """`folder`/images/<id>.nii.gz and `folder`/labels/<id>.nii.gz."""
    return ExportedFiles(folder / "images" / f"{case_id}.nii.gz", folder / "labels" / f"{case_id}.nii.gz")


def nnunet_files(folder: Path, case_id: str, split: str) -> ExportedFiles:
    """Where nnU-Net looks for a case of a split (train, val or test)."""
    suffix = NNUNET_SUFFIX[split]
    image = folder / f"images{suffix}" / f"{case_id}_0000.nii.gz"
    return ExportedFiles(image, folder / f"labels{suffix}" / f"{case_id}.nii.gz")


class ExportedCase(NamedTuple):
    """What the user hears of a case that was written."""

    missing: Sequence[str]
    """Organs that are not contoured: nnU-Net takes them for background."""
    notes: Sequence[str]
    """Of the raw case, for example which contours were left out."""


def export_case(raw: RawCase, preset: Preset, files: ExportedFiles) -> ExportedCase:
    """Write the label map and the CT of a case; both appear when both are complete.

    Raises:
        UserError: the case has no CT, or two structures are the same organ.
    """
    if raw.volume is None:
        raise UserError("has no CT, which export needs; add it, or choose a --source with CTs")
    masks = match_organs(raw.masks, preset)
    label = merge_masks(masks, preset, raw.geometry.size_zyx)
    remove_partials(files.label)
    make_folder(files.image.parent)
    with staging_folder(files.label) as folder:
        staged = ExportedFiles(folder / "image.nii.gz", folder / "label.nii.gz")
        write_volume(staged.label, Volume(array=label, geometry=raw.geometry))
        write_volume(staged.image, raw.volume)
        move_all(zip(staged, files, strict=True))
    return ExportedCase([name for name in preset.organ_names if name not in masks], raw.notes)


def check_nnunet_dataset(folder: Path, preset: Preset) -> None:
    """Check that a folder DatasetNNN_Name is new, or was exported with this preset.

    Raises:
        UserError: its label maps have other or unknown organs, or it has a dataset.json or splits of somebody else.
    """
    path, splits = folder / NNUNET_DATASET, folder / SPLITS_FINAL
    dataset = read_json(path) if path.is_file() else {}
    expected = nnunet_dataset(folder, preset, dataset.get("numTraining", 0))
    if dataset.get("labels", expected["labels"]) != expected["labels"]:
        raise UserError(
            f"{path}: expected the labels {', '.join(expected['labels'])}, but label maps in this folder have "
            f"{', '.join(dataset['labels'])}; choose another folder"
        )
    label_maps = [label for suffix in ("Tr", "Ts") for label in files_at(folder / f"labels{suffix}")]
    require_own([path, splits, *label_maps], {path, splits, *label_maps} if dataset == expected else ())


def nnunet_dataset(folder: Path, preset: Preset, num_training: int) -> dict[str, Any]:
    """The content of dataset.json of a folder DatasetNNN_Name."""
    return {
        "channel_names": {"0": "CT"},
        "labels": {name: value for value, name in enumerate(["background", *preset.organ_names])},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
        "name": folder.name.partition("_")[2],
        "description": preset.description,
    }


def write_nnunet_dataset(folder: Path, preset: Preset, splits: Mapping[str, str]) -> None:
    """Write dataset.json for the cases in a folder DatasetNNN_Name, and their split, given by case id."""
    present = [path.name.removesuffix(".nii.gz") for path in sorted((folder / "labelsTr").glob("[!.]*.nii.gz"))]
    write_json(folder / NNUNET_DATASET, nnunet_dataset(folder, preset, len(present)))
    fold = {split: [name for name in present if splits.get(name) == split] for split in ("train", "val")}
    write_json(folder / SPLITS_FINAL, [fold])


def _export(job: tuple[RawCaseHandle, ExportedFiles], source: str, preset: Preset) -> ExportedCase:
    handle, files = job
    return export_case(read_raw_case(handle, source, preset), preset, files)


def _log_missing(cases: Iterable[ExportedCase]) -> None:
    counts = Counter(name for case in cases for name in case.missing)
    if counts:
        listed = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
        logger.info("nnU-Net will learn organs without a contour as background: %s cases", listed)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: the output folder is a file, or has no name that nnU-Net reads.
    """
    parser = raw_arguments(__doc__)
    parser.add_argument("--format", choices=("nifti", "nnunet"), default="nifti")
    parser.add_argument(
        "--cases", type=Path, help="prepared cases; --split and the nnunet format follow their splits.json"
    )
    arguments = parser.parse_args(argv)
    check_folder(arguments.output)
    if arguments.format == "nnunet" and not NNUNET_FOLDER.fullmatch(arguments.output.name):
        raise UserError(
            f"--output {arguments.output}: expected nnU-Net's form DatasetNNN_Name, for example Dataset501_HeadNeck"
        )
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Export every case that is not exported yet."""
    arguments = parse_arguments(argv)
    folder, preset, for_nnunet = arguments.output, load_raw_preset(arguments), arguments.format == "nnunet"
    every = list_raw_cases(arguments)
    known = read_splits(arguments.cases) if arguments.cases else {}
    split_of = {case_id: name for name, case_ids in known.items() for case_id in case_ids}
    every = [replace(handle, split=split_of.get(handle.case_id, handle.split)) for handle in every]
    handles = {handle.case_id: handle for handle in select_raw_cases(every, arguments)}
    if for_nnunet:
        check_nnunet_dataset(folder, preset)
        splits = assign_splits(every, split_of)
        used = {case_id: splits[case_id] for case_id in handles if splits[case_id] != HELD_OUT}
        files = {case_id: nnunet_files(folder, case_id, split) for case_id, split in used.items()}
    else:
        check_color_table(folder / "labels", preset)
        files = {case_id: nifti_files(folder, case_id) for case_id in handles}
    todo = {case_id: paths for case_id, paths in files.items() if not all(path.is_file() for path in paths)}
    require_own(path for paths in todo.values() for path in paths)
    if for_nnunet:
        write_nnunet_dataset(folder, preset, splits)
    else:
        write_color_table(folder / "labels", preset)
    jobs = {case_id: (handles[case_id], paths) for case_id, paths in todo.items()}
    outcome = run_cases(partial(_export, source=arguments.source, preset=preset), jobs, arguments.workers)
    for case_id, case in sorted(outcome.results.items()):
        for note in case.notes:
            logger.info("%s: %s", case_id, note)
    if for_nnunet:
        write_nnunet_dataset(folder, preset, splits)
        _log_missing(outcome.results.values())
    logger.info("%s: exported %d cases; %d were already there", folder, len(outcome.results), len(files) - len(todo))
    return report_failures(outcome.failures, len(jobs))


if __name__ == "__main__":
    sys.exit(run_main(main))

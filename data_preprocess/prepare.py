"""Raw data set to a folder of cases.

python -m data_preprocess.prepare --source openkbp --input RAW --output CASES
"""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

from tqdm import tqdm

from data_preprocess.body import find_body
from data_preprocess.case_index import write_index
from data_preprocess.cases import (
    CaseInfo,
    describe_organs,
    finished_case,
    read_case_info,
    write_case,
    write_dataset,
    write_splits,
)
from data_preprocess.label_map import merge_masks
from data_preprocess.resample import resample_image, resample_labels
from data_preprocess.sources import SOURCES, RawCase, RawReference
from utils.command_line import report_failures, run_main
from utils.files import replace_atomically
from utils.names import require_safe_name
from utils.overlay import render_case, save_png
from utils.preset import Preset, load_preset

logger = logging.getLogger(__name__)


def prepare_case(raw: RawCase, preset: Preset, folder: Path) -> CaseInfo:
    """Crop a raw case to the body, resample it to the preset's spacing and write it as `folder`/<case id>.

    Args:
        raw: CT and masks as contoured.
        preset: says organs and spacing.
        folder: the folder of cases.

    Raises:
        ValueError: the CT shows no body, two structures claim one organ, or the case's id is no name of a folder.
    """
    require_safe_name(raw.case_id, raw.source)  # it becomes a folder
    original = raw.volume.geometry
    box = find_body(raw.volume.array, original.spacing_zyx_mm)
    label = merge_masks(raw.masks, preset, raw.volume.array.shape)[box]
    spacing = preset.grid.spacing_zyx_mm
    image = resample_image(raw.volume.array[box], original.spacing_zyx_mm, spacing)
    label = resample_labels(label, original.spacing_zyx_mm, spacing)
    contoured = {preset.organ_names[i] for i in map(preset.find_organ, raw.masks) if i is not None}
    info = CaseInfo(
        case_id=raw.case_id,
        source=raw.source,
        split=raw.split,
        spacing_zyx_mm=spacing,
        size_zyx=image.shape,
        original=original,
        box_zyx=tuple((axis.start, axis.stop) for axis in box),
        organs=describe_organs(label, preset.organ_names, contoured),
    )
    with replace_atomically(folder / raw.case_id) as partial_folder:
        partial_folder.mkdir()
        write_case(partial_folder, info, image, label)
        colors = [organ.color for organ in preset.organs]
        picture = render_case(image, label, spacing_zyx_mm=spacing, colors=colors, names=preset.organ_names)
        save_png(partial_folder / "preview.png", picture)
    return info


def run_all(
    task: Callable[[RawReference], object], references: Iterable[RawReference], num_workers: int
) -> dict[str, str]:
    """Run a task on every raw case in worker processes, with progress; one failing case does not stop the others.

    Returns:
        case id to reason, for the cases that failed.
    """
    references = list(references)
    failures = {}
    with ProcessPoolExecutor(max_workers=num_workers) as pool:
        futures = {pool.submit(task, reference): reference.case_id for reference in references}
        for future in tqdm(as_completed(futures), total=len(futures), unit="case", disable=None):
            try:
                future.result()
            except (ValueError, OSError) as error:
                failures[futures[future]] = str(error)
    return failures


def raw_arguments(description: str) -> argparse.ArgumentParser:
    """The options that say which raw cases to read, shared by `prepare` and `export`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--source", required=True, choices=sorted(SOURCES), help="layout of the raw data")
    parser.add_argument("--input", type=Path, help="folder of the raw data (the phantom source draws its own)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", help="name in configs/ or path of a .toml; the source's own by default")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--split", choices=("train", "test"), help="only the cases that the data set puts there")
    parser.add_argument("--limit", type=int, help="only the first so many cases")
    return parser


def find_raw_cases(arguments: argparse.Namespace) -> list[RawReference]:
    """The raw cases that the command line asks for.

    Raises:
        ValueError: there are none.
    """
    references = SOURCES[arguments.source].list_cases(arguments.input)
    wanted = [reference for reference in references if arguments.split in (None, reference.split)][: arguments.limit]
    if not wanted:
        raise ValueError(
            f"{arguments.input or arguments.source}: none of {len(references)} cases is left by --split and --limit"
        )
    return wanted


def _prepare(reference: RawReference, source: str, preset: Preset, folder: Path) -> None:
    prepare_case(SOURCES[source].read_case(reference), preset, folder)


def main(argv: list[str] | None = None) -> int:
    """Prepare every case that is not finished yet, then write the splits."""
    arguments = raw_arguments(__doc__).parse_args(argv)
    preset = load_preset(arguments.preset or arguments.source, arguments.set)
    references = find_raw_cases(arguments)
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(folder, preset)
    todo = [reference for reference in references if not finished_case(folder, reference.case_id)]
    logger.info("%d cases, %d finished before", len(references), len(references) - len(todo))
    task = partial(_prepare, source=arguments.source, preset=preset, folder=folder)
    failures = run_all(task, todo, arguments.workers)
    infos = [read_case_info(path.parent) for path in sorted(folder.glob("[!.]*/case.json"))]  # a killed run leaves ".*"
    write_splits(folder, infos)
    write_index(folder, infos)
    _summarize(infos, preset)
    return report_failures(failures, len(references))


def _summarize(infos: list[CaseInfo], preset: Preset) -> None:
    logger.info("%d cases; contoured in:", len(infos))
    for name in preset.organ_names:
        sizes = sorted(info.organs[name].num_voxels for info in infos if name in info.organs)
        median = sizes[len(sizes) // 2] if sizes else 0
        logger.info("  %-20s %4d   median %6d voxels", name, len(sizes), median)


if __name__ == "__main__":
    sys.exit(run_main(main))

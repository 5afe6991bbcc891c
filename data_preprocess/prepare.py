"""Prepares a raw data set for training: a folder of cases on the networks' grid.

python -m data_preprocess.prepare --source openkbp --input RAW --output CASES
"""

import sys
from pathlib import Path

if not __package__:  # run by its path: Python then searches modules beside this file only
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial

import numpy as np

from data_preprocess.case_index import INDEX_NAME, write_index
from data_preprocess.cases import (
    DATASET_KEYS,
    DATASET_NAME,
    CaseInfo,
    finished_case,
    measure_organs,
    read_case_infos,
    write_case,
    write_dataset,
)
from data_preprocess.exclusions import Exclusions, leave_out, read_exclusions, require_left_out
from data_preprocess.field_of_view import MARGIN_MM, Region, Triple
from data_preprocess.label_map import match_organs, merge_masks
from data_preprocess.network_grid import NetworkGrid, find_field_of_view
from data_preprocess.quality_control.measurements import measure_case, write_quality
from data_preprocess.quality_control.report_page import inspect_cases, summary_table, write_report_page
from data_preprocess.raw_cases import list_raw_cases, load_raw_preset, raw_arguments, read_raw_case, select_raw_cases
from data_preprocess.resample import whole_volume
from data_preprocess.sources import RawCase, RawCaseHandle
from data_preprocess.splits import read_splits, write_splits
from data_preprocess.upright import upright
from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.imaging.intensity import AIR_HU
from utils.imaging.masks import Mask, bounding_box
from utils.io.files import atomic_write, check_folder, remove_partials, validate_file_name
from utils.io.own_files import read_record, require_own
from utils.reporting.overlay import render_case, save_png
from utils.reporting.tables import to_text
from utils.runtime.command_line import report_failures, run_main
from utils.runtime.process_pool import run_cases

REPORT_NAME = "report.html"
NUM_SHOWN = 20

logger = logging.getLogger(__name__)


def prepare_case(raw: RawCase, preset: Preset, folder: Path, excluded: Mapping[str, str] | None = None) -> CaseInfo:
    """Crop a raw case to inference's field of view, resample it and write it as `folder`/<case id>.

    Masks without CT are cropped to themselves.

    Args:
        raw: CT and masks.
        preset: organs and grid.
        folder: of the cases.
        excluded: organs to leave out, with the reasons.

    Raises:
        UserError: the CT shows no head and neck, no structure is an organ of the preset, two structures are the same
            organ, or the case's id cannot name a folder.
    """
    validate_file_name(raw.case_id, raw.source)
    raw = upright(raw, preset.grid.spacing_zyx_mm)
    masks = match_organs(raw.masks, preset)
    if not masks:
        listed = ", ".join(raw.unmatched_structures[:NUM_SHOWN])
        remedy = f"found {listed}. Add such names to the preset's aliases" if listed else "all are empty; contour one"
        raise UserError(f"no structure with voxels matches preset {preset.name}; {remedy}, or leave the case out")
    masks, excluded, notes = leave_out(masks, excluded or {})
    label = merge_masks(masks, preset, raw.geometry.size_zyx)
    old_spacing, spacing = raw.geometry.spacing_zyx_mm, preset.grid.spacing_zyx_mm
    if raw.volume:
        ct = raw.volume.array
        body, grid = find_field_of_view(ct, old_spacing, preset.grid)
        image = grid.resample_image(ct, body)
    else:
        ct, body, image, grid = None, None, None, _grid_of_masks(label, old_spacing, spacing)
    region, label = grid.region, grid.resample_labels(label)
    organs = measure_organs(label, preset.organ_names, masks)
    info = CaseInfo(
        case_id=raw.case_id,
        source=raw.source,
        split=raw.split,
        patient=raw.patient,
        spacing_zyx_mm=spacing,
        size_zyx=label.shape,
        original=raw.geometry,
        crop_box=tuple(zip(grid.start_vox, grid.stop_vox, strict=True)),
        organs=organs,
        has_image=image is not None,
        notes=(*raw.notes, *notes, *(body.doubts() if body else ()), *_losses(masks, region, organs)),
        structures={preset.organ_names[preset.find_organ(name)]: name for name in raw.masks},
        unmatched_structures=raw.unmatched_structures,
        excluded=excluded,
    )
    quality = measure_case({name: region.cut(mask) for name, mask in masks.items()}, ct, body)
    shown = np.full(label.shape, AIR_HU, dtype=np.int16) if image is None else image
    colors = [organ.color for organ in preset.organs]
    picture = render_case(shown, label, spacing_zyx_mm=spacing, colors=colors, names=preset.organ_names)
    remove_partials(folder / raw.case_id)
    with atomic_write(folder / raw.case_id) as partial_folder:
        partial_folder.mkdir()
        write_case(partial_folder, info, image, label)
        write_quality(partial_folder, quality)
        save_png(partial_folder / "preview.png", picture)
    return info


def _losses(masks: Mapping[str, Mask], region: Region, organs: Container[str]) -> Iterator[str]:
    """Notes on the organs that the case does not show completely."""
    for name, mask in masks.items():
        outside = region.fraction_outside(mask)
        if outside:
            yield f"{name}: {outside:.1%} of it lies outside of the field of view"
        if name not in organs and outside < 1:
            yield f"{name}: no voxel is left at the preset's spacing"


def _grid_of_masks(label: np.ndarray, spacing_zyx_mm: Triple, new_spacing_zyx_mm: Triple) -> NetworkGrid:
    """The bounding box of all masks with a margin, within their grid."""
    margins = np.ceil(np.divide(MARGIN_MM, spacing_zyx_mm)).astype(int).tolist()
    axes = list(zip(bounding_box(label), margins, label.shape, strict=True))
    start = tuple(max(0, axis.start - margin) for axis, margin, _ in axes)
    size = tuple(min(n, axis.stop + margin) - a for a, (axis, margin, n) in zip(start, axes, strict=True))
    return NetworkGrid(
        start_vox=tuple(map(float, start)),
        size_zyx=whole_volume(size, spacing_zyx_mm, new_spacing_zyx_mm).size_zyx,
        spacing_zyx_mm=spacing_zyx_mm,
        network_spacing_zyx_mm=new_spacing_zyx_mm,
    )


def finish(folder: Path, preset: Preset, failures: Mapping[str, CaseFailure]) -> None:
    """Write the splits and the report page of all cases in a folder, and log what is in them."""
    infos = read_case_infos(folder)
    write_splits(folder, infos)
    write_index(folder, infos)
    if not infos:
        return
    cases = inspect_cases(folder, infos, preset)
    logger.info("\n%s\n", to_text(summary_table(cases, preset)))
    to_check = [case for case in cases if case.findings]
    for case in to_check[:NUM_SHOWN]:
        logger.info("check %s: %s", case.info.case_id, "; ".join(map(str, case.findings)))
    counts = Counter(name for info in infos for name in info.unmatched_structures)
    if counts:
        listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common(NUM_SHOWN))
        text = "%d structures match no organ of the preset (add them to its aliases?), most often: %s"
        logger.info(text, len(counts), listed)
    page = folder / REPORT_NAME
    write_report_page(page, cases, preset, failures)
    logger.info("%d of %d cases need a check; read %s before training", len(to_check), len(cases), page)


def require_own_folder(folder: Path, case_ids: Iterable[str]) -> None:
    """Check that cases can be written into a folder: dataset.json tells a folder of cases from any other.

    Raises:
        UserError: a file of somebody else is in the place of a case or of a file about all cases.
    """
    about_all = [folder / name for name in (DATASET_NAME, INDEX_NAME, REPORT_NAME)]
    cases = [folder / case_id for case_id in case_ids]
    if read_record(folder / DATASET_NAME, DATASET_KEYS) is None:
        require_own([*about_all, *cases])
    else:
        require_own(case for case in cases if not finished_case(folder, case.name))


def select_unprepared(folder: Path, handles: Iterable[RawCaseHandle]) -> dict[str, RawCaseHandle]:
    """The cases that are not prepared yet, by id.

    A case counts as prepared if its raw files were prepared under another id, before a second case of its name came in.
    The same path with another patient is another case.
    """
    ids = {(os.path.abspath(info.source), info.patient): info.case_id for info in read_case_infos(folder)}
    todo = {}
    for handle in handles:
        before = ids.get((os.path.abspath(str(handle.location)), handle.patient))
        if before not in (None, handle.case_id):
            logger.info("%s is prepared as %s", handle.case_id, before)
        elif not finished_case(folder, handle.case_id):
            todo[handle.case_id] = handle
    return todo


def _prepare(handle: RawCaseHandle, source: str, preset: Preset, folder: Path, exclusions: Exclusions) -> None:
    prepare_case(read_raw_case(handle, source, preset), preset, folder, exclusions.get(handle.case_id, {}))


def main(argv: list[str] | None = None) -> int:
    """Prepare every case that is not finished yet, then write the splits and the report."""
    parser = raw_arguments(__doc__)
    parser.add_argument("--exclude", type=Path, help="CSV file of structures to leave out: case,organ,reason")
    arguments = parser.parse_args(argv)
    folder, preset = arguments.output, load_raw_preset(arguments)
    check_folder(folder)
    every = list_raw_cases(arguments)
    handles = select_raw_cases(every, arguments)
    require_own_folder(folder, (handle.case_id for handle in handles))
    exclusions: Exclusions = {}
    if arguments.exclude is not None:
        exclusions = read_exclusions(arguments.exclude, preset, [handle.case_id for handle in every])
        require_left_out(exclusions, read_case_infos(folder), arguments.exclude, folder)
    if (folder / "splits.json").is_file():
        read_splits(folder)  # a mistake in it is told before the work begins
    write_dataset(folder, preset)
    todo = select_unprepared(folder, handles)
    logger.info("found %d cases; %d are already prepared", len(handles), len(handles) - len(todo))
    task = partial(_prepare, source=arguments.source, preset=preset, folder=folder, exclusions=exclusions)
    failures = run_cases(task, todo, arguments.workers).failures
    if arguments.shard:
        logger.info("this shard is done; after the last one, run again without --shard to write splits and report")
    else:
        finish(folder, preset, failures)
    return report_failures(failures, len(handles))


if __name__ == "__main__":
    sys.exit(run_main(main))

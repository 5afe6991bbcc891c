"""Raw data set to a folder of cases.

python -m data_preprocess.prepare --source openkbp --input RAW --output CASES
"""

import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

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
from data_preprocess.field_of_view import MARGIN_MM, Box, outline_body
from data_preprocess.label_map import match_organs, merge_masks
from data_preprocess.quality_control.measurements import measure_case, write_quality
from data_preprocess.quality_control.report_page import inspect_cases, summary_table, write_report_page
from data_preprocess.raw_cases import list_raw_cases, preset_name, raw_arguments, select_raw_cases
from data_preprocess.resample import resample_image, resample_labels
from data_preprocess.sources import SOURCES, RawCase, RawCaseHandle
from utils.config.preset import Preset, load_preset
from utils.errors import CaseFailure, UserError
from utils.imaging.masks import Mask
from utils.io.files import atomic_write, make_folder, validate_file_name
from utils.reporting.overlay import render_case, save_png
from utils.reporting.tables import to_text
from utils.runtime.command_line import report_failures, run_main
from utils.runtime.process_pool import run_cases

REPORT_NAME = "report.html"
NUM_SHOWN = 20

logger = logging.getLogger(__name__)


def prepare_case(raw: RawCase, preset: Preset, folder: Path) -> CaseInfo:
    """Crop a raw case to the body, resample it to the preset's spacing and write it as `folder`/<case id>.

    Args:
        raw: CT and masks as contoured; masks alone are cropped to themselves.
        preset: says organs and spacing.
        folder: the folder of cases.

    Raises:
        UserError: the CT shows no body, no structure is an organ of the preset, two claim to be the same one, or the
            case's id is no name of a folder.
    """
    validate_file_name(raw.case_id, raw.source)
    by_organ = match_organs(raw.masks, preset)
    if not by_organ:
        listed = ", ".join(raw.unmatched_structures[:NUM_SHOWN]) or "none"
        raise UserError(f"none of its structures is an organ of preset {preset.name}; its structures are: {listed}")
    masks = {preset.organ_names[organ]: raw.masks[name] for organ, name in by_organ.items()}
    image = raw.volume.array if raw.volume else None
    body = outline_body(image, raw.geometry.spacing_zyx_mm) if raw.volume else None
    box = body.box if body else _box_of(masks.values())
    quality = measure_case(masks, image, body)
    label = merge_masks(raw.masks, preset, raw.geometry.size_zyx)[box]
    spacing = preset.grid.spacing_zyx_mm
    label = resample_labels(label, raw.geometry.spacing_zyx_mm, spacing)
    if image is not None:
        image = resample_image(image[box], raw.geometry.spacing_zyx_mm, spacing)
    organs = describe_organs(label, preset.organ_names, masks)
    lost = [f"{name}: no voxel is left in the crop at the preset's spacing" for name in masks if name not in organs]
    info = CaseInfo(
        case_id=raw.case_id,
        source=raw.source,
        split=raw.split,
        patient=raw.patient,
        spacing_zyx_mm=spacing,
        size_zyx=label.shape,
        original=raw.geometry,
        box_zyx=tuple((axis.start, axis.stop) for axis in box),
        organs=organs,
        has_image=image is not None,
        notes=(*raw.notes, *lost),
        unmatched_structures=raw.unmatched_structures,
    )
    with atomic_write(folder / raw.case_id) as partial_folder:
        partial_folder.mkdir()
        write_case(partial_folder, info, image, label)
        write_quality(partial_folder, quality)
        colors = [organ.color for organ in preset.organs]
        seen = np.full(label.shape, -1000, dtype=np.int16) if image is None else image
        picture = render_case(seen, label, spacing_zyx_mm=spacing, colors=colors, names=preset.organ_names)
        save_png(partial_folder / "preview.png", picture)
    return info


def finish(folder: Path, preset: Preset, failures: Mapping[str, CaseFailure]) -> None:
    """Write the splits and the report page of all cases in a folder, and log what is in them."""
    infos = [read_case_info(path.parent) for path in sorted(folder.glob("[!.]*/case.json"))]  # a killed run leaves ".*"
    write_splits(folder, infos)
    write_index(folder, infos)
    if not infos:
        return
    cases = inspect_cases(folder, infos, preset)
    logger.info("\n%s\n", to_text(summary_table(cases, preset)))
    marked = [case for case in cases if case.marks]
    for case in marked[:NUM_SHOWN]:
        logger.info("check %s: %s", case.info.case_id, "; ".join(map(str, case.marks)))
    if len(marked) > NUM_SHOWN:
        logger.info("and %d more cases", len(marked) - NUM_SHOWN)
    _log_unknown(infos)
    page = folder / REPORT_NAME
    write_report_page(page, cases, preset, failures)
    logger.info("%d of %d cases to check: look at %s before training", len(marked), len(cases), page)


def _box_of(masks: Sequence[Mask]) -> Box:
    """Bounding box of all masks, with a margin."""
    masks = list(masks)
    margin = np.ceil(MARGIN_MM / np.asarray(masks[0].geometry.spacing_zyx_mm)).astype(int)
    low = np.min([mask.corner_zyx for mask in masks], axis=0) - margin
    high = np.max([np.add(mask.corner_zyx, mask.voxels.shape) for mask in masks], axis=0) + margin
    size = masks[0].geometry.size_zyx
    return tuple(slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, size, strict=True))


def _log_unknown(infos: Sequence[CaseInfo]) -> None:
    counts = Counter(name for info in infos for name in info.unmatched_structures)
    if counts:
        listed = ", ".join(f"{name} ({count})" for name, count in counts.most_common(NUM_SHOWN))
        more = f", and {len(counts) - NUM_SHOWN} more" if len(counts) > NUM_SHOWN else ""
        logger.info("structures that are no organ of the preset (add them to its aliases?): %s%s", listed, more)


def _prepare(reference: RawCaseHandle, source: str, preset: Preset, folder: Path) -> None:
    prepare_case(SOURCES[source].read_case(reference, preset), preset, folder)


def main(argv: list[str] | None = None) -> int:
    """Prepare every case that is not finished yet, then write the splits and the report."""
    arguments = raw_arguments(__doc__).parse_args(argv)
    preset = load_preset(preset_name(arguments), arguments.set)
    references = select_raw_cases(list_raw_cases(arguments), arguments)
    folder = arguments.output
    make_folder(folder)
    write_dataset(folder, preset)
    todo = {reference.case_id: reference for reference in references if not finished_case(folder, reference.case_id)}
    logger.info("%d cases, %d finished before", len(references), len(references) - len(todo))
    task = partial(_prepare, source=arguments.source, preset=preset, folder=folder)
    failures = run_cases(task, todo, arguments.workers).failures
    if arguments.shard:
        logger.info("this share is done; after the last one run once more without --shard for splits and report")
    else:
        finish(folder, preset, failures)
    return report_failures(failures, len(references))


if __name__ == "__main__":
    sys.exit(run_main(main))

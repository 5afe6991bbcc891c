"""Segment CT volumes with a trained checkpoint.

Writes a label map on the CT's own grid and a JSON report for every CT, and one color table and one summary table for
all. Finished cases are skipped. A case that fails does not stop the others.
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch

from data_preprocess.inference_transform import TransformedImage
from data_preprocess.scans import Scan, list_scans, read_transformed, transform_ct
from models.confidence import organ_confidences
from models.predictor import Prediction
from models.pretrained import Model, load_model, published_checkpoint
from models.sliding_window import OVERLAP
from utils.errors import CaseFailure
from utils.imaging.geometry import Geometry
from utils.io.color_table import check_color_table, write_color_table
from utils.io.dicom.description import OrganNaming
from utils.io.dicom.rtstruct import write_rtstruct
from utils.io.dicom.segmentation import require_highdicom, write_dicom_seg
from utils.io.files import check_folder
from utils.io.own_files import require_own
from utils.io.volumes import SitkImage, Volume, from_sitk, to_sitk
from utils.reporting.case_flags import case_flags
from utils.reporting.organ_report import build_organ_report
from utils.reporting.output_files import (
    FORMATS,
    OutputFiles,
    load_if_up_to_date,
    read_reports,
    require_own_summary,
    write_summary,
)
from utils.reporting.overlay import render_case, save_png
from utils.reporting.review.index import SEGMENTED_COLUMNS, require_own_index, segmented_rows, write_index
from utils.reporting.review.page import CaseReview, write_review_page
from utils.reporting.review.rows import report_rows
from utils.runtime.command_line import Shard, report_failures, run_main
from utils.runtime.console import show_progress
from utils.runtime.device import Precision, choose_compute
from utils.runtime.memory import peak_memory_gib
from utils.runtime.prefetch import prefetch

logger = logging.getLogger(__name__)

MAX_LISTED_FLAGS = 5
"""More flagged organs are only counted in the log; the summary lists all."""
OUT_OF_MEMORY = "out of memory; try --tile-memory 1, or use a machine with more memory"


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """The options that decide the files of a case: a case written with other settings is segmented again."""

    format: str
    masks: bool
    rtstruct: bool
    dicom_seg: bool
    names: str
    probabilities: bool
    save_overlay: bool
    review: bool
    review_names: bool
    backbone_only: bool
    tta: bool
    overlap: float
    hu_offset: str
    fill_gaps: bool


class Segmentation(NamedTuple):
    """A segmented CT."""

    label: Volume
    """uint8, on the grid of the CT as read."""
    prediction: Prediction


def segment_image(image: SitkImage, model: Model) -> SitkImage:
    """Segment a CT that SimpleITK has read.

        model = load_pretrained("openkbp")  # of models.pretrained
        label = segment_image(SimpleITK.ReadImage("ct.nii.gz"), model)

    Args:
        image: 3-D, HU, any orientation and spacing.
        model: of `load_pretrained` or `load_model`.

    Doubts about the CT or the whole segmentation are logged as warnings.

    Returns:
        uint8 label map on the grid of `image`: 0 is background, k is `model.preset.organ_names[k - 1]`.

    Raises:
        UserError: the values are not HU, or the CT shows no head and neck.
    """
    return to_sitk(_segment_volume(from_sitk(image), model))


def segment_array(image_hu: np.ndarray, spacing_zyx_mm: tuple[float, float, float], model: Model) -> np.ndarray:
    """Segment a CT that is an array; see `segment_image`.

    Args:
        image_hu: (D, H, W), any numeric dtype. Axes point to the patient's head (z), back (y) and left (x).
        spacing_zyx_mm: its spacing.
        model: of `load_pretrained` or `load_model`.

    Returns:
        (D, H, W) uint8 label map.
    """
    ct = Volume(array=image_hu, geometry=Geometry(size_zyx=image_hu.shape, spacing_zyx_mm=spacing_zyx_mm))
    return _segment_volume(ct, model).array


def _segment_volume(volume: Volume, model: Model) -> Volume:
    ct = transform_ct(volume, model.preset.grid)
    segmentation = segment(ct, model)
    _, doubts = judge(ct, segmentation, model)
    for doubt in doubts:
        logger.warning("look at this CT: %s", doubt)
    return segmentation.label


def segment(ct: TransformedImage, model: Model) -> Segmentation:
    """Segment a CT on the networks' grid and bring the labels back onto the CT's own grid."""
    images = torch.from_numpy(ct.image), torch.from_numpy(ct.transform.inside_fov())
    moved = (torch.from_numpy(ct.moved_image()),) if model.tta else ()
    prediction = model.predictor.predict(*images, *moved)
    return Segmentation(ct.transform.invert(prediction.probabilities), prediction)


def judge(
    ct: TransformedImage, segmentation: Segmentation, model: Model
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The entry of each organ in the report, with its flags, and doubts about the whole case."""
    label, prediction = segmentation
    confidences = organ_confidences(prediction, model, ct.transform.world_mm)
    organs = build_organ_report(label.array, label.geometry, model.preset, confidences, model.arrangement)
    return organs, [*ct.doubts, *case_flags(organs, model.preset, model.arrangement)]


def write_case(
    files: OutputFiles, ct: TransformedImage, segmentation: Segmentation, model: Model, settings: InferenceSettings
) -> None:
    """Write all files of a case but the report."""
    transform, label, preset = ct.transform, segmentation.label, model.preset
    files.write_label(label, preset)
    if settings.masks:
        files.write_masks(label, preset)
    if settings.probabilities:
        probabilities = map(transform.invert_probability, segmentation.prediction.probabilities[1:])
        files.write_probabilities(probabilities, label.geometry, preset)
    if settings.rtstruct:
        margin = partial(transform.invert_margin, segmentation.prediction.probabilities)
        write_rtstruct(files.rtstruct, label.array, margin, ct.series, preset, model.describe(settings.names))
    if settings.dicom_seg:
        write_dicom_seg(files.dicom_seg, label, ct.series, preset, model.describe(settings.names))
    if settings.save_overlay:
        style = {"colors": [organ.color for organ in preset.organs], "names": preset.organ_names, "show_all": True}
        spacing = transform.axis_aligned.spacing_zyx_mm
        picture = render_case(ct.region_hu, transform.crop_label(label), spacing_zyx_mm=spacing, **style)
        save_png(files.overlay, picture)


def review_case(
    ct: TransformedImage,
    segmentation: Segmentation,
    model: Model,
    report: Mapping[str, Any],
    case_id: str | None,
) -> CaseReview:
    """What the review page of a case shows: the region that the networks saw, and the entries of its report.

    Args:
        ct: as read.
        segmentation: of this CT.
        model: that segmented it.
        report: of the case, without a list of its files.
        case_id: None keeps case and patient out of the page.
    """
    heatmaps = segmentation.prediction.heatmaps
    return CaseReview(
        case_id=case_id,
        patient_id=report["patient_id"] if case_id else None,
        image_hu=ct.region_hu,
        spacing_zyx_mm=ct.transform.axis_aligned.spacing_zyx_mm,
        prediction=ct.transform.crop_label(segmentation.label),
        heatmap=ct.transform.to_region(heatmaps.amax(dim=0)) if len(heatmaps) else None,
        organs=report_rows(report["organs"], model.preset),
        flags=report["case_flags"],
        notes=report["notes"],
    )


def segment_case(
    files: OutputFiles, ct: TransformedImage, model: Model, settings: InferenceSettings, source: Mapping[str, Any]
) -> dict[str, Any]:
    """Segment a CT, write its files and the report, which begins with `source`, and return the report."""
    started = time.perf_counter()
    segmentation = segment(ct, model)
    with files.staged() as staged:
        write_case(staged, ct, segmentation, model, settings)
        organs, doubts = judge(ct, segmentation, model)
        report = {
            **source,
            "preset": model.preset.name,
            "precision": model.precision,
            "geometry": str(segmentation.label.geometry),
            "notes": [*ct.notes, *model.predictor.notes],
            "seconds": round(time.perf_counter() - started, 2),
            "peak_memory_gib": peak_memory_gib(),
            "case_flags": doubts,
            "organs": organs,
        }
        if settings.review:
            case_id = files.case_id if settings.review_names else None
            write_review_page(staged.review, review_case(ct, segmentation, model, report, case_id))
        write_color_table(files.folder, model.preset)
        return files.replace_by(staged, report)


def require_own_files(files: OutputFiles, settings: InferenceSettings) -> None:
    """Check that a case can be written without replacing a file that is not its own, such as the CT.

    Raises:
        UserError: one is in the way.
    """
    optional = {"masks": files.masks, "rtstruct": files.rtstruct, "dicom_seg": files.dicom_seg, "review": files.review}
    optional |= {"probabilities": files.probabilities, "save_overlay": files.overlay}
    asked_for = [path for option, path in optional.items() if getattr(settings, option)]
    require_own([files.report, files.label, *asked_for], files.own_files())


def segment_cohort(
    scans: Sequence[Scan], output: Path, model: Model, settings: InferenceSettings, checkpoint: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, CaseFailure]]:
    """Segment every scan that is not finished; the next one is read meanwhile.

    Returns:
        Reports and failures, by case id.
    """
    recorded = {**checkpoint, **asdict(settings)}
    files = {scan.case_id: OutputFiles(output, scan.case_id, settings.format) for scan in scans}
    sources = {scan.case_id: {"ct": scan.record, "patient_id": scan.patient_id, "settings": recorded} for scan in scans}
    finished = {case_id: load_if_up_to_date(files[case_id], source) for case_id, source in sources.items()}
    reports, failures = {case_id: report for case_id, report in finished.items() if report}, {}
    logger.info("found %d CTs; %d are already segmented", len(scans), len(reports))
    options = {"correct_offset": settings.hu_offset == "auto", "require_dicom": settings.rtstruct or settings.dicom_seg}
    read = partial(read_transformed, grid=model.preset.grid, fill_gaps=settings.fill_gaps, **options)
    todo = [scan for scan in scans if scan.case_id not in reports]
    for scan in todo:
        require_own_files(files[scan.case_id], settings)
    for scan, future in show_progress(prefetch(todo, read), len(todo), "CT"):
        case_id = scan.case_id
        try:
            reports[case_id] = segment_case(files[case_id], future.result(), model, settings, sources[case_id])
        except Exception as error:  # a bug in one case does not stop the others; its traceback is logged at the end
            failures[case_id] = CaseFailure.of(error, OUT_OF_MEMORY)
    return reports, failures


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    own = "best.pt of your own training, of adv_train.py or an earlier stage; give it again for each model to average"
    which.add_argument("--checkpoint", type=Path, action="append", help=own)
    which.add_argument("--model", default="openkbp", help="a published model, for research only: docs/model_card.md")
    kinds = "a CT (NIfTI, NRRD, MHA), a folder of them, a DICOM folder, a tree of these, or a .txt list of paths"
    add("--input", type=Path, required=True, help=kinds)
    add("--output", type=Path, required=True, help="folder for label maps and reports")
    add("--format", choices=FORMATS, default=FORMATS[0], help="file format of label maps, masks and probabilities")
    add("--masks", action="store_true", help="also write one binary mask per organ, in <id>_masks/")
    add("--rtstruct", action="store_true", help="also write <id>.rtstruct.dcm, which refers to the DICOM series given")
    add("--dicom-seg", action="store_true", help="also write <id>.seg.dcm, a DICOM Segmentation; needs highdicom")
    naming = "names of the organs in DICOM files: the preset's, or TG-263's (default: %(default)s)"
    add("--names", choices=get_args(OrganNaming), default="preset", help=naming)
    add("--probabilities", action="store_true", help="also write one volume of probabilities per organ")
    add("--save-overlay", action="store_true", help="also draw <id>.png, slices with the organs' outlines")
    add(
        "--review",
        action="store_true",
        help="also write <id>.html, a page to look at and rate contours, and index.html",
    )
    add("--review-names", action="store_true", help="name the case and the patient in the page of --review")
    add("--backbone-only", action="store_true", help="use S-Net alone, for comparison")
    tta = "also predict the mirrored CT on a grid moved by half a voxel, and average both; takes twice the time"
    add("--tta", action="store_true", help=tta)
    large = "use a temporary file in TMPDIR if the probability volume exceeds GIB"
    add("--tile-memory", type=float, default=math.inf, metavar="GIB", help=large)
    add("--overlap", type=float, default=OVERLAP, help="fraction of a window that its neighbor also covers")
    offset = "CT stored as HU + 1024: refuse stops with an error, auto subtracts 1024 (default: %(default)s)"
    add("--hu-offset", choices=("refuse", "auto"), default="refuse", help=offset)
    gaps = "interpolate missing slices of a DICOM series (up to 12 mm) instead of refusing it"
    add("--fill-gaps", action="store_true", help=gaps)
    without = "name DICOM cases by their folders, and leave the PatientID out of report and summary"
    add("--no-patient-id", action="store_true", help=without)
    add("--shard", type=Shard.parse, default=Shard(), metavar="I/N", help="segment only every N-th case, from the I-th")
    add("--device", help="cpu, cuda, cuda:N or mps (Apple); by default a GPU if there is one")
    add(
        "--precision",
        choices=get_args(Precision),
        help="by default bf16 where it is faster than fp32; int8 is for CPUs",
    )
    arguments = parser.parse_args(argv)
    arguments.checkpoint = arguments.checkpoint or [published_checkpoint(arguments.model)]
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Segment every CT of the input that is not finished yet."""
    arguments = parse_arguments(argv)
    settings = InferenceSettings(**{field.name: getattr(arguments, field.name) for field in fields(InferenceSettings)})
    if settings.dicom_seg:
        require_highdicom()
    check_folder(arguments.output)
    scans = arguments.shard.select(list_scans(arguments.input, by_patient=not arguments.no_patient_id))
    compute = choose_compute(arguments.device, arguments.precision)
    first, *others = arguments.checkpoint
    model = load_model(
        first,
        compute,
        others=others,
        overlap=settings.overlap,
        backbone_only=settings.backbone_only,
        tta=settings.tta,
        tile_memory_gib=arguments.tile_memory,
    )
    summary = arguments.output / f"summary{arguments.shard.suffix}.csv"
    check_color_table(arguments.output, model.preset)
    require_own_summary(summary)
    index = arguments.output / f"index{arguments.shard.suffix}.html"
    if settings.review:
        require_own_index(index, [scan.case_id for scan in scans])
    checkpoint = {"checkpoint": ", ".join(map(str, arguments.checkpoint)), "checkpoint_sha256": model.sha256}
    checkpoint["precision"] = arguments.precision or "auto"  # what is measured may change, and need not be repeated
    reports, failures = segment_cohort(scans, arguments.output, model, settings, checkpoint)
    in_summary = reports if arguments.shard.count > 1 else read_reports(arguments.output) | reports
    write_summary(summary, in_summary, failures)
    log_flags(reports)
    logger.info("%s are listed in %s", "organs and failed cases" if failures else "organs", summary)
    if settings.review:
        rows = segmented_rows(arguments.output, in_summary, failures, names=settings.review_names)
        write_index(index, "Segmented cases", SEGMENTED_COLUMNS, rows)
        logger.info("pages are listed in %s", index)
    return report_failures(failures, len(scans))


def log_flags(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """Log the doubtful cases with their reasons, and how many organs are flagged."""
    doubts = {case_id: report["case_flags"] for case_id, report in reports.items() if report.get("case_flags")}
    for case_id, flags in doubts.items():
        logger.warning("look at %s: %s", case_id, "; ".join(flags))
    organs = {
        f"{case_id} {name}": organ for case_id, report in reports.items() for name, organ in report["organs"].items()
    }
    if organs:
        flagged = [f"{where}: {', '.join(organ['flags'])}" for where, organ in organs.items() if organ["flags"]]
        counts = len(doubts), len(reports), len(flagged), len(organs)
        listed = f" ({'; '.join(flagged)})" if 0 < len(flagged) <= MAX_LISTED_FLAGS else ""
        logger.info("doubtful cases: %d of %d; flagged organs: %d of %d%s", *counts, listed)


if __name__ == "__main__":
    sys.exit(run_main(main))

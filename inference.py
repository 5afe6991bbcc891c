"""Segment CT volumes with a trained checkpoint.

Writes, for every CT, a label map on the CT's own grid and a JSON report, and once a color table with the organs' names
and a table of all cases. Cases that are done are skipped; one that fails does not stop the others.
"""

import argparse
import hashlib
import logging
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from data_preprocess.hounsfield import validate_hounsfield
from data_preprocess.inference_transform import InferenceTransform, TransformedImage
from data_preprocess.scans import Scan, list_scans
from models.focusnet import FocusNet, build_network
from models.int8 import quantize_convolutions
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Prediction, Predictor, SmallOrganResult
from models.shape_plausibility import shape_plausibility
from models.sliding_window import OVERLAP, memmap_above, window_starts
from models.tta import FlipTTAPredictor
from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import checkpoint_preset, load_networks, read_checkpoint, require_networks
from utils.io.color_table import check_color_table, write_color_table
from utils.io.dicom import CtSeries
from utils.io.files import validate_file_name, write_json
from utils.io.rtstruct import write_rtstruct
from utils.io.volumes import Volume
from utils.reporting.organ_report import OrganConfidence, describe_organs
from utils.reporting.output_files import FORMATS, OutputFiles, load_if_up_to_date, write_summary
from utils.reporting.overlay import render_case, save_png
from utils.runtime.command_line import Shard, report_failures, run_main
from utils.runtime.device import Compute, Precision, choose_compute
from utils.runtime.memory import peak_memory_gib
from utils.runtime.prefetch import read_ahead

logger = logging.getLogger(__name__)

WEIGHTS_FOLDER = Path(__file__).resolve().parent / "weights"
SEGMENTATION_NETWORKS = ("s_net", "sol_net", "sos_net")


class Model(NamedTuple):
    """A checkpoint, ready to segment."""

    predictor: OOMFallbackPredictor | FlipTTAPredictor
    preset: Preset
    autoencoder: nn.Module | None
    """Judges the shapes of small organs, where the checkpoint carries it."""


class PlacedScan(NamedTuple):
    """A scan, read and made ready for the networks."""

    geometry: Geometry
    """Of the CT as read."""
    placed: TransformedImage
    notes: list[str]
    series: CtSeries | None
    """Where the scan came from DICOM."""


class Segmentation(NamedTuple):
    """A segmented CT."""

    label: Volume
    """uint8, on the grid of the CT as read."""
    prediction: Prediction


def load_model(
    checkpoint: Path,
    compute: Compute,
    *,
    overlap: float = OVERLAP,
    backbone_only: bool = False,
    mirror: bool = False,
    tile_memory_gib: float = math.inf,
) -> Model:
    """Rebuild the networks of a checkpoint.

    Args:
        checkpoint: of any stage but the AutoEncoder's.
        compute: device and precision.
        overlap: share of a window that its neighbour covers too.
        backbone_only: leave SOL-Net and SOS-Net out.
        mirror: average with the mirror image.
        tile_memory_gib: blended probabilities that take more go to a temporary file.

    Raises:
        UserError: the file is no checkpoint, holds no S-Net, or an organ's name cannot name a file.
    """
    window_starts(1, 1, overlap)  # an overlap out of range is said before any CT is read
    content = read_checkpoint(checkpoint)
    preset = checkpoint_preset(content, checkpoint)
    require_networks(
        content, ["s_net"], checkpoint, "give one of train_backbone.py, adv_train.py or a stage between them"
    )
    for name in preset.organ_names:
        validate_file_name(name, f"{checkpoint}: organ")
    wanted = SEGMENTATION_NETWORKS[:1] if backbone_only else (*SEGMENTATION_NETWORKS, "autoencoder")
    parts = {name: build_network(name, preset) for name in wanted if name in content["networks"]}
    load_networks(parts, content, parts, checkpoint)
    autoencoder = parts.pop("autoencoder", None)
    network = compute.place(FocusNet(preset, **parts)).eval()
    if compute.precision == "int8":
        quantize_convolutions(network)
    new_volume = memmap_above(tile_memory_gib * 2**30)
    predictor = Predictor(network, preset, overlap=overlap, autocast=compute.autocast(), new_volume=new_volume)
    cautious = OOMFallbackPredictor(predictor, choose_compute("cpu", "fp32"))
    judge = autoencoder.eval() if autoencoder is not None else None
    return Model(FlipTTAPredictor(cautious) if mirror else cautious, preset, judge)


def read_scan(scan: Scan, preset: Preset, *, correct_offset: bool, from_dicom: bool) -> PlacedScan:
    """Read a scan, check it and bring it onto the networks' grid.

    Raises:
        UserError: it is damaged, no CT in HU, shows no head and neck, or is not DICOM though it must be.
    """
    content = scan.read()
    if from_dicom and content.series is None:
        raise UserError(f"{scan}: --rtstruct refers to DICOM slices; give the CT as a DICOM folder")
    try:
        checked = validate_hounsfield(content.volume.array, correct_offset=correct_offset)
        placed = InferenceTransform.apply(Volume(array=checked.array, geometry=content.volume.geometry), preset.grid)
    except ValueError as error:
        raise UserError(f"{scan}: {error}") from error
    notes = [*content.notes, *checked.notes, *placed.notes]
    return PlacedScan(content.volume.geometry, placed, notes, content.series)


def segment(ct: TransformedImage, model: Model) -> Segmentation:
    """Segment one CT."""
    inside_fov = torch.from_numpy(ct.transform.inside_fov(ct.image.shape))
    prediction = model.predictor.predict(torch.from_numpy(np.ascontiguousarray(ct.image)), inside_fov)
    return Segmentation(ct.transform.invert(prediction.probabilities), prediction)


def gather_evidence(prediction: Prediction, transform: InferenceTransform, model: Model) -> dict[str, OrganConfidence]:
    """What the networks say of every organ that they found, and of every small organ."""
    names = model.preset.organ_names
    label = prediction.label
    evidence: dict[str, dict[str, Any]] = {name: {} for name in names}
    for value, name in enumerate(names, 1):
        mask = label == value
        if mask.any():
            evidence[name]["confidence"] = float(prediction.probabilities[value][mask].mean())
    if model.autoencoder is not None:
        for organ in model.preset.small_organs:
            plausibility = shape_plausibility(model.autoencoder, label, organ + 1)
            evidence[names[organ]]["plausibility"] = plausibility
    for found in prediction.small_organs:
        evidence[names[found.organ]] |= {
            "peak": found.peak_value,
            "peak_xyz_mm": transform.world_mm(found.peak_vox),
            "peak_found": found.located,
            "segmented_by": _segmented_by(found),
        }
    return {name: OrganConfidence(**known) for name, known in evidence.items()}


def _segmented_by(found: SmallOrganResult) -> str:
    if found.segmented:
        return "SOS-Net"
    reason = "SOS-Net's mask there is empty" if found.located else "the peak is below the threshold"
    return f"S-Net, since {reason}"


def write_case(
    files: OutputFiles, scan: PlacedScan, segmentation: Segmentation, preset: Preset, arguments: argparse.Namespace
) -> None:
    """Write everything but the report."""
    files.write_label(segmentation.label, preset)
    if arguments.masks:
        files.write_masks(segmentation.label, preset)
    if arguments.probabilities:
        probabilities = map(scan.placed.transform.invert_probability, segmentation.prediction.probabilities[1:])
        files.write_probabilities(probabilities, scan.geometry, preset)
    if arguments.rtstruct:
        write_rtstruct(files.rtstruct, segmentation.label.array, scan.series, preset)
    if arguments.save_overlay:
        style = {"colors": [organ.color for organ in preset.organs], "names": preset.organ_names, "show_all": True}
        transform = scan.placed.transform
        spacing, label = transform.axis_aligned.spacing_zyx_mm, transform.crop_label(segmentation.label)
        save_png(files.overlay, render_case(scan.placed.region_hu, label, spacing_zyx_mm=spacing, **style))


def process(
    files: OutputFiles, scan: PlacedScan, model: Model, arguments: argparse.Namespace, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Segment one scan, write its files, the report last, and return the report."""
    started = time.perf_counter()
    files.remove_temp_files()
    segmentation = segment(scan.placed, model)
    write_case(files, scan, segmentation, model.preset, arguments)
    evidence = gather_evidence(segmentation.prediction, scan.placed.transform, model)
    report = {
        **run,
        "preset": model.preset.name,
        "geometry": str(scan.geometry),
        "notes": [*scan.notes, *model.predictor.notes],
        "seconds": round(time.perf_counter() - started, 2),
        "peak_memory_gib": peak_memory_gib(),
        "organs": describe_organs(segmentation.label.array, scan.geometry, model.preset, evidence),
    }
    write_json(files.report, report)
    return report


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="your own: best.pt of adv_train.py, or of an earlier stage")
    which.add_argument("--model", default="openkbp", help="a published one: research only, see docs/model_card.md")
    add(
        "--input",
        type=Path,
        required=True,
        help="a CT (NIfTI, NRRD, MHA), a folder of them, a DICOM folder, a tree of these, or a .txt list of paths",
    )
    add("--output", type=Path, required=True, help="folder for label maps and reports")
    add("--format", choices=FORMATS, default=FORMATS[0], help="of the label maps, masks and probabilities")
    add("--masks", action="store_true", help="also one binary mask per organ, in <id>_masks/")
    add("--rtstruct", action="store_true", help="also <id>.rtstruct.dcm on the DICOM series that was given")
    add("--probabilities", action="store_true", help="also one volume of probabilities per organ")
    add("--save-overlay", action="store_true", help="also draw <id>.png with the organs outlined")
    add("--backbone-only", action="store_true", help="S-Net alone, for comparison")
    add("--tta", action="store_true", help="average with the mirror image: twice the time")
    add(
        "--tile-memory",
        type=float,
        default=math.inf,
        metavar="GIB",
        help="blended probabilities that take more go to a temporary file in TMPDIR",
    )
    add("--overlap", type=float, default=OVERLAP, help="share of a window that its neighbour covers too")
    add(
        "--hu-offset",
        choices=("refuse", "auto"),
        default="refuse",
        help="of a CT stored as HU + 1024: refuse it, or subtract 1024",
    )
    add(
        "--shard",
        type=Shard.parse,
        default=Shard(),
        metavar="I/N",
        help="only the I-th of N parts of the cases, for array jobs",
    )
    add("--device", help="cpu, cuda or cuda:N; a GPU if there is one")
    add("--precision", choices=get_args(Precision), help="bf16 where the hardware computes in it; int8 is for CPUs")
    arguments = parser.parse_args(argv)
    arguments.checkpoint = arguments.checkpoint or published_checkpoint(arguments.model)
    return arguments


def published_checkpoint(name: str) -> Path:
    """The file of a published model.

    Raises:
        UserError: there is none of that name.
    """
    path = WEIGHTS_FOLDER / f"{name}.pt"
    known = sorted(file.stem for file in WEIGHTS_FOLDER.glob("*.pt"))
    if name not in known:
        raise UserError(f"--model {name}: no such model; there is {', '.join(known) or 'none'}, or give --checkpoint")
    return path


def describe_settings(arguments: argparse.Namespace, compute: Compute) -> dict[str, Any]:
    """What decides a case's files: a case that was segmented with other settings is segmented again."""
    chosen = ("format", "masks", "rtstruct", "probabilities", "save_overlay")
    chosen += ("backbone_only", "tta", "overlap", "hu_offset")
    return {
        "checkpoint": str(arguments.checkpoint),
        "checkpoint_sha256": hashlib.sha256(arguments.checkpoint.read_bytes()).hexdigest(),
        "precision": compute.precision,
        **{name: getattr(arguments, name) for name in chosen},
    }


def main(argv: list[str] | None = None) -> int:
    """Segment every CT of the input that is not done yet."""
    arguments = parse_arguments(argv)
    shard = arguments.shard
    scans = shard.select(list_scans(arguments.input))
    compute = choose_compute(arguments.device, arguments.precision)
    model = load_model(
        arguments.checkpoint,
        compute,
        overlap=arguments.overlap,
        backbone_only=arguments.backbone_only,
        mirror=arguments.tta,
        tile_memory_gib=arguments.tile_memory,
    )
    check_color_table(arguments.output, model.preset)
    write_color_table(arguments.output, model.preset)
    settings = describe_settings(arguments, compute)
    runs = {scan.case_id: {"ct": str(scan), "settings": settings} for scan in scans}
    files = {
        scan.case_id: OutputFiles(folder=arguments.output, case_id=scan.case_id, format=arguments.format)
        for scan in scans
    }
    done = {case_id: load_if_up_to_date(files[case_id], run) for case_id, run in runs.items()}
    reports = {case_id: report for case_id, report in done.items() if report is not None}
    logger.info("CTs: %d, done before: %d", len(scans), len(reports))
    failures = {}
    read = partial(
        read_scan,
        preset=model.preset,
        correct_offset=arguments.hu_offset == "auto",
        from_dicom=arguments.rtstruct,
    )
    todo = [scan for scan in scans if scan.case_id not in reports]
    for scan, future in tqdm(read_ahead(todo, read), total=len(todo), unit="CT", disable=None):
        case_id = scan.case_id
        try:
            reports[case_id] = process(files[case_id], future.result(), model, arguments, runs[case_id])
        except Exception as error:  # noqa: BLE001 - a bug in one case does not stop the others, and is shown
            failures[case_id] = CaseFailure.of(error)
    summary = arguments.output / f"summary{shard.suffix}.csv"
    write_summary(summary, reports, failures, model.preset)
    doubtful = sum(bool(organ["flags"]) for report in reports.values() for organ in report["organs"].values())
    logger.info("organs to doubt: %d; they and all others are in %s", doubtful, summary)
    return report_failures(failures, len(scans))


if __name__ == "__main__":
    sys.exit(run_main(main))

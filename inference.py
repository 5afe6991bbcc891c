"""Segment CT volumes with a trained checkpoint.

Writes, for every CT, a label map on the CT's own grid and a JSON report, and once a color table with the organs' names.
"""

import argparse
import logging
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from data_preprocess.body import find_body
from data_preprocess.resample import resample_image
from models.focusnet import FocusNet, build_part
from models.predictor import Prediction, Predictor, label_on_grid
from utils.checkpoint import checkpoint_preset, load_parts, read_checkpoint, require_parts
from utils.command_line import report_failures, run_main
from utils.compute import Compute, choose_compute
from utils.files import write_json
from utils.geometry import Geometry
from utils.organs import segment_metadata, write_color_table
from utils.overlay import render_case, save_png
from utils.preset import Preset
from utils.volume_io import Volume, list_volumes, match_orientation, read_volume, to_lps, volume_stem, write_volume

logger = logging.getLogger(__name__)

FORMATS = ("nii.gz", "nrrd", "mha")
SEGMENTING_PARTS = ("s_net", "sol_net", "sos_net")


class Segmentation(NamedTuple):
    """A segmented CT."""

    label: Volume
    """uint8, on the grid of the CT as read."""
    organs: dict[str, dict[str, Any]]
    """What the report says of each organ."""


class Placement(NamedTuple):
    """How the network's grid lies in the CT."""

    geometry: Geometry
    """Of the CT in LPS order."""
    box: tuple[slice, slice, slice]
    """The part of the CT that was segmented."""
    step: tuple[float, ...]
    """CT spacing / network spacing, per axis (z, y, x)."""

    def world_mm(self, index_vox: tuple[float, ...]) -> list[float]:
        """Patient coordinates (x, y, z) in mm of a voxel (z, y, x) of the network's grid."""
        corner = [axis.start for axis in self.box]
        index = [(i + 0.5) / step - 0.5 + start for i, step, start in zip(index_vox, self.step, corner, strict=True)]
        return [round(value, 2) for value in self.geometry.world_mm(tuple(index))]


def load_predictor(
    checkpoint: Path, compute: Compute, *, overlap: float = 0.25, backbone_only: bool = False
) -> tuple[Predictor, Preset]:
    """Rebuild the networks of a checkpoint.

    Args:
        checkpoint: of any stage but the AutoEncoder's.
        compute: device and precision.
        overlap: share of a window that its neighbour covers too.
        backbone_only: leave SOL-Net and SOS-Net out.

    Raises:
        ValueError: the file is no checkpoint, or holds no S-Net.
    """
    content = read_checkpoint(checkpoint)
    preset = checkpoint_preset(content, checkpoint)
    require_parts(content, ["s_net"], checkpoint, "give one of train_backbone.py, adv_train.py or a stage between them")
    wanted = SEGMENTING_PARTS[:1] if backbone_only else SEGMENTING_PARTS
    parts = {name: build_part(name, preset) for name in wanted if name in content["parts"]}
    load_parts(parts, content, parts, checkpoint)
    network = compute.place(FocusNet(preset, **parts)).eval()
    return Predictor(network, preset, overlap=overlap, autocast=compute.autocast()), preset


def segment(ct: Volume, predictor: Predictor, preset: Preset) -> Segmentation:
    """Segment one CT.

    Args:
        ct: HU, any orientation and spacing.
        predictor: of the checkpoint.
        preset: of the checkpoint.

    Raises:
        ValueError: no body is found in the CT.
    """
    lps = to_lps(ct)
    spacing = lps.geometry.spacing_zyx_mm
    box = find_body(lps.array, spacing)
    step = tuple(own / network for own, network in zip(spacing, preset.grid.spacing_zyx_mm, strict=True))
    placement = Placement(geometry=lps.geometry, box=box, step=step)
    image = resample_image(lps.array[box], spacing, preset.grid.spacing_zyx_mm)
    prediction = predictor.predict(torch.from_numpy(np.ascontiguousarray(image)))
    label = np.zeros(lps.array.shape, dtype=np.uint8)
    label[box] = label_on_grid(prediction.probabilities, label[box].shape, step).cpu().numpy()
    organs = describe_organs(label, prediction, placement, preset)
    return Segmentation(label=match_orientation(Volume(array=label, geometry=lps.geometry), ct.geometry), organs=organs)


def describe_organs(
    label: np.ndarray, prediction: Prediction, placement: Placement, preset: Preset
) -> dict[str, dict[str, Any]]:
    """What was found of every organ: volume, centroid, and for small ones the heatmap's peak."""
    voxel_ml = float(np.prod(placement.geometry.spacing_zyx_mm)) / 1000
    organs = {}
    for value, name in enumerate(preset.organ_names, 1):
        voxels = np.argwhere(label == value)
        organs[name] = {"label": value, "num_voxels": len(voxels), "volume_ml": round(len(voxels) * voxel_ml, 3)}
        if len(voxels):
            center = placement.geometry.world_mm(tuple(voxels.mean(axis=0)))
            organs[name]["center_xyz_mm"] = [round(value, 2) for value in center]
    for found in prediction.small_organs:
        organs[preset.organ_names[found.organ]] |= {
            "peak": round(found.peak_value, 4),
            "peak_xyz_mm": placement.world_mm(found.peak_vox),
            "segmented_by": "SOS-Net" if found.segmented else "S-Net, since the peak is below the threshold",
        }
    return organs


def draw_overlay(ct: Volume, label: Volume, preset: Preset) -> np.ndarray:
    """Slices of the CT with the organs outlined, (h, w, 3) uint8."""
    lps_ct, lps_label = to_lps(ct), to_lps(label)
    colors = [organ.color for organ in preset.organs]
    spacing = lps_ct.geometry.spacing_zyx_mm
    return render_case(lps_ct.array, lps_label.array, spacing_zyx_mm=spacing, colors=colors, names=preset.organ_names)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="best.pt of adv_train.py, or of an earlier stage"
    )
    parser.add_argument("--input", type=Path, required=True, help="CT (NIfTI, NRRD, MHA), or a folder of them")
    parser.add_argument("--output", type=Path, required=True, help="folder for label maps and reports")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="of the label maps")
    parser.add_argument("--save-overlay", action="store_true", help="also draw <id>.png with the organs outlined")
    parser.add_argument("--backbone-only", action="store_true", help="S-Net alone, for comparison")
    parser.add_argument("--overlap", type=float, default=0.25, help="share of a window that its neighbour covers too")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; a GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="bf16 where the hardware computes in it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Segment every CT of the input; one that fails does not stop the others."""
    arguments = parse_arguments(argv)
    paths = list_volumes(arguments.input)
    compute = choose_compute(arguments.device, arguments.precision)
    options = {"overlap": arguments.overlap, "backbone_only": arguments.backbone_only}
    predictor, preset = load_predictor(arguments.checkpoint, compute, **options)
    write_color_table(arguments.output, preset)
    failures = {}
    for path in tqdm(paths, unit="CT", disable=None):
        try:
            process(path, predictor, preset, arguments)
        except (ValueError, OSError) as error:
            failures[volume_stem(path)] = str(error)
    return report_failures(failures, len(paths))


def process(path: Path, predictor: Predictor, preset: Preset, arguments: argparse.Namespace) -> None:
    """Read one CT, segment it, write label map, report and overlay."""
    started = time.perf_counter()
    ct = read_volume(path)
    segmentation = segment(ct, predictor, preset)
    target = arguments.output / f"{volume_stem(path)}.{arguments.format}"
    write_volume(target, segmentation.label, segment_metadata(preset))
    if arguments.save_overlay:
        save_png(arguments.output / f"{volume_stem(path)}.png", draw_overlay(ct, segmentation.label, preset))
    report = {
        "ct": str(path),
        "checkpoint": str(arguments.checkpoint),
        "preset": preset.name,
        "geometry": str(ct.geometry),
        "seconds": round(time.perf_counter() - started, 2),
        "organs": segmentation.organs,
    }
    write_json(arguments.output / f"{volume_stem(path)}.json", report)


if __name__ == "__main__":
    sys.exit(run_main(main))

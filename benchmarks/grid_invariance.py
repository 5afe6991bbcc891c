"""Does a change of the scan that leaves the patient as it is change the masks?

Resamples each CT to cubic voxels, segments it as it is and changed, and prints the lowest Dice of an organ between the
two label maps.

python -m benchmarks.grid_invariance --input nifti/images/pt_206.nii.gz
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.resample_cts import at_spacing
from data_preprocess.inference_transform import InferenceTransform
from data_preprocess.scans import list_scans
from inference import segment
from models.pretrained import Model, load_model, published_checkpoint
from utils.imaging.intensity import MIN_TISSUE_HU
from utils.io.volumes import Volume, to_lps
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

ORIGINS_MM = ((2, 0, 0), (0.7, -1.3, 0.4), (-120, -120, -500), (31.25, -0.5, 1e4), (0.3, 0.3, 0.3))
CUTS_VOX = ((2, 0), (0, 3))
"""Voxels cut off at the beginning and at the end of an axis."""
AIR_HU, FOAM_HU, SHELL_HU, TABLE_HU = -700, -600, 60, -50
"""Below `AIR_HU` a voxel is free for holder, foam or table."""
GAP_VOX = 2
"""Between the skull and the holder."""
TABLE_VOX = 8
MIN_VOXELS = 100
"""Organs with fewer voxels in both masks together are not compared."""


def with_arc(array: np.ndarray) -> np.ndarray:
    """A curved holder, three voxels thick, behind the whole patient (D, H, W)."""
    _, y, x = np.indices(array.shape, sparse=True)
    rows, columns = np.nonzero((array > -400).any(axis=0))
    radius = 0.62 * np.ptp(rows)
    distance = np.hypot(y - rows.mean(), x - columns.mean())
    arc = (np.abs(distance - radius) < 1.6) & (y > rows.mean() + 0.55 * radius)
    return np.where(arc & (array < AIR_HU), SHELL_HU, array).astype(array.dtype)


def with_holder(array: np.ndarray, thickness_vox: int, foam: bool) -> np.ndarray:
    """A shell behind the skull, on an ellipse around the head; foam may fill the gap."""
    z, y, x = np.indices(array.shape, sparse=True)
    top = np.flatnonzero((array > MIN_TISSUE_HU).sum(axis=(1, 2)) > 5000)[-1]
    rows, columns = np.nonzero((array[top - 60 : top - 10] > MIN_TISSUE_HU).sum(axis=0) > 25)
    center = (np.percentile(rows, 1) + np.percentile(rows, 99)) / 2
    depth = np.percentile(rows, 99.5) - center + GAP_VOX
    width = np.ptp(np.percentile(columns, (0.5, 99.5))) / 2 + GAP_VOX
    radius = np.hypot((y - center) / depth, (x - columns.mean()) / width)
    outside = (radius - 1) * depth
    free = (y > center + 0.3 * depth) & (z > top - 110) & (array < AIR_HU)
    held = array.copy()
    if foam:
        held[free & (radius > 0.8) & (outside < 0)] = FOAM_HU
    held[free & (outside >= 0) & (outside < thickness_vox)] = SHELL_HU
    return held


def with_table(array: np.ndarray) -> np.ndarray:
    """A flat table two voxels behind the patient."""
    first = min(array.shape[1] - TABLE_VOX - 4, int(np.nonzero((array > -400).any(axis=(0, 2)))[0][-1]) + 2)
    table = array.copy()
    behind = table[:, first : first + TABLE_VOX]
    behind[behind < AIR_HU] = TABLE_HU
    return table


def changes(ct: Volume) -> Iterator[tuple[str, Volume, tuple[slice, slice, slice]]]:
    """Changed scans with their names and the box of the original that they show."""
    whole = (slice(None),) * 3
    for origin in ORIGINS_MM:
        yield f"origin {origin}", replace(ct, geometry=replace(ct.geometry, origin_xyz_mm=origin)), whole
    for axis, name in enumerate(("slices", "rows", "columns")):
        for before, after in CUTS_VOX:
            kept = tuple(slice(before, n - after) if i == axis else slice(0, n) for i, n in enumerate(ct.array.shape))
            array = np.ascontiguousarray(ct.array[kept])
            cut = Volume(array=array, geometry=replace(ct.geometry, size_zyx=array.shape))
            yield f"{name} cut off: first {before}, last {after}", cut, kept
    surroundings = {"arc behind the patient": with_arc(ct.array), "flat table": with_table(ct.array)}
    for thickness, foam in ((1, True), (2, False), (2, True)):
        surroundings[f"holder of {thickness} voxels{', foam' * foam}"] = with_holder(ct.array, thickness, foam)
    for name, array in surroundings.items():
        yield name, replace(ct, array=array), whole


def lowest_dice(label: np.ndarray, other: np.ndarray, names: tuple[str, ...]) -> tuple[float, str]:
    """The lowest Dice of an organ between two label maps (D, H, W), and the organ."""
    scores = {}
    for value, name in enumerate(names, 1):
        one, two = label == value, other == value
        if one.sum() + two.sum() > MIN_VOXELS:
            scores[name] = 2 * np.sum(one & two) / (one.sum() + two.sum())
    organ = min(scores, key=scores.get)
    return float(scores[organ]), organ


def segment_volume(ct: Volume, model: Model) -> np.ndarray:
    """The label map (D, H, W) uint8 of a CT in HU."""
    return segment(InferenceTransform.apply(ct, model.preset.grid), model).label.array


def main(argv: list[str] | None = None) -> int:
    """Print a line per CT and change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="as for inference.py")
    parser.add_argument("--model", default="openkbp", help="a published model")
    parser.add_argument("--spacing", type=float, default=1.5, metavar="MM", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    model = load_model(published_checkpoint(arguments.model), choose_compute(None, None))
    for scan in list_scans(arguments.input):
        volume = to_lps(scan.read().volume)
        read = Volume(array=volume.array.astype(np.int16), geometry=volume.geometry)
        ct = at_spacing(read, (arguments.spacing,) * 3)
        plain = segment_volume(ct, model)
        for name, changed, box in changes(ct):
            score, organ = lowest_dice(segment_volume(changed, model), plain[box], model.preset.organ_names)
            print(f"{scan.case_id}  {name:<32} {score:.4f}  {organ}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

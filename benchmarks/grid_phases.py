"""How much does the answer depend on where the networks' voxels lie, with and without --tta?

Resamples each CT to cubic voxels and segments it on grids that are moved by fractions of the networks' voxels. Prints
the Dice between the masks of different grids, mean and lowest of the organs over all pairs of grids, and the mean Dice
against the reference.

python -m benchmarks.grid_phases --input nifti/images/pt_39.nii.gz --reference nifti/labels
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.grid_invariance import MIN_VOXELS
from benchmarks.resample_cts import at_spacing
from data_preprocess import network_grid
from data_preprocess.anchor import find_anchor
from data_preprocess.inference_transform import InferenceTransform, TransformedImage
from data_preprocess.resample import resample_to
from data_preprocess.scans import list_scans
from inference import segment
from models.pretrained import Model, load_model, published_checkpoint
from utils.config.preset import GridSettings
from utils.io.volumes import Volume, read_volume, to_lps
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

FRACTIONS = (0.0, 0.25, 0.5, 0.75)


def on_moved_grid(ct: Volume, grid: GridSettings, fraction: float) -> TransformedImage:
    """A CT on a grid of the networks that is moved by a fraction of their voxels along each axis."""

    def moved_anchor(image: np.ndarray, spacing_zyx_mm: tuple[float, ...]) -> tuple[float, ...]:
        axes = zip(find_anchor(image, spacing_zyx_mm), grid.spacing_zyx_mm, spacing_zyx_mm, strict=True)
        return tuple(anchor + fraction * networks / own for anchor, networks, own in axes)

    with patch.object(network_grid, "find_anchor", moved_anchor):
        return InferenceTransform.apply(ct, grid)


def organ_dice(label: np.ndarray, other: np.ndarray, num_organs: int, min_voxels: int) -> list[float]:
    """Dice of each organ with at least so many voxels in both label maps (D, H, W) together."""
    scores = []
    for value in range(1, num_organs + 1):
        one, two = label == value, other == value
        if one.sum() + two.sum() >= min_voxels:
            scores.append(float(2 * np.sum(one & two) / (one.sum() + two.sum())))
    return scores


def compare_grids(images: Sequence[TransformedImage], reference: np.ndarray, model: Model) -> str:
    """Scores of a CT on different grids.

    Args:
        images: of the CT, one per grid.
        reference: (D, H, W) label map on the CT's grid; organs without voxels are not contoured.
        model: segments them.
    """
    labels = [segment(image, model).label.array for image in images]
    num_organs = len(model.preset.organs)
    between = [organ_dice(*pair, num_organs, MIN_VOXELS) for pair in itertools.combinations(labels, 2)]
    contoured = np.isin(range(num_organs + 1), reference)
    known = [organ_dice(np.where(contoured[label], label, 0), reference, num_organs, 1) for label in labels]
    mean, lowest = np.mean([np.mean(scores) for scores in between]), min(map(min, between))
    return f"between {mean:.4f}  lowest {lowest:.4f}  reference {np.mean(known):.4f}"


def main(argv: list[str] | None = None) -> int:
    """Print two lines per CT: without and with --tta."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="as for inference.py")
    parser.add_argument("--reference", type=Path, required=True, help="folder of label maps, named like the CTs")
    parser.add_argument("--model", default="openkbp", help="a published model")
    parser.add_argument("--spacing", type=float, default=1.5, metavar="MM", help="(default: %(default)s)")
    arguments = parser.parse_args(argv)
    checkpoint, compute = published_checkpoint(arguments.model), choose_compute(None, None)
    models = {name: load_model(checkpoint, compute, tta=name == "--tta") for name in ("plain", "--tta")}
    for scan in list_scans(arguments.input):
        volume = to_lps(scan.read().volume)
        read = Volume(array=volume.array.astype(np.int16), geometry=volume.geometry)
        ct = at_spacing(read, (arguments.spacing,) * 3)
        reference = resample_to(to_lps(read_volume(arguments.reference / f"{scan.case_id}.nii.gz")), ct.geometry)
        preset = models["plain"].preset
        images = [on_moved_grid(ct, preset.grid, fraction) for fraction in FRACTIONS]
        for name, model in models.items():
            print(f"{scan.case_id}  {name:<6} {compare_grids(images, reference, model)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

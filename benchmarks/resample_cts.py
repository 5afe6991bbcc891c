"""Write CTs at another spacing, to test whether a model depends on the scans' grid.

python -m benchmarks.resample_cts --input nifti/images --output coarse --spacing 3 1 1
python inference.py --model openkbp --input coarse --output predictions
python evaluate.py --prediction predictions --reference nifti/labels --resample --preset openkbp --output scores
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_preprocess.resample import resample_image
from data_preprocess.scans import list_scans
from utils.io.files import make_folder
from utils.io.own_files import require_own
from utils.io.volumes import Volume, write_volume
from utils.runtime.command_line import run_main
from utils.runtime.console import show_progress


def at_spacing(ct: Volume, spacing_zyx_mm: tuple[float, float, float]) -> Volume:
    """A CT (D, H, W) in HU, resampled linearly; grids are aligned at the outer edge of their first voxel."""
    own = ct.geometry
    array = resample_image(ct.array, own.spacing_zyx_mm, spacing_zyx_mm)
    corner_vox = tuple(0.5 * new / old - 0.5 for new, old in zip(spacing_zyx_mm, own.spacing_zyx_mm, strict=True))
    geometry = replace(own, size_zyx=array.shape, spacing_zyx_mm=spacing_zyx_mm, origin_xyz_mm=own.world_mm(corner_vox))
    return Volume(array=array, geometry=geometry)


def main(argv: list[str] | None = None) -> int:
    """Resample every CT of the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="as for inference.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for MHA files")
    parser.add_argument("--spacing", type=float, nargs=3, required=True, metavar=("Z", "Y", "X"), help="in mm")
    arguments = parser.parse_args(argv)
    make_folder(arguments.output)
    scans = list_scans(arguments.input)
    require_own(arguments.output / f"{scan.case_id}.mha" for scan in scans)
    for scan in show_progress(scans, len(scans), "CT"):
        ct = scan.read().volume
        resampled = at_spacing(Volume(array=ct.array.astype(np.int16), geometry=ct.geometry), tuple(arguments.spacing))
        write_volume(arguments.output / f"{scan.case_id}.mha", resampled)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

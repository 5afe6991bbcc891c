"""Write a CT of 512 x 512 x 200 voxels and networks of the paper's width, to measure the memory of inference.

    python -m benchmarks.big_ct --output big
    /usr/bin/time -v python inference.py --checkpoint big/untrained.pt --input big/ct.mha --output big/out

The weights are random, and every small organ is localized, so that SOS-Net runs for all of them.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.tasks import save_untrained
from data_preprocess.sources.phantom.source import generate_phantom
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.io.files import make_folder
from utils.io.own_files import require_own
from utils.io.volumes import Volume, write_volume
from utils.runtime.command_line import run_main

SIZE_ZYX = (200, 512, 512)
SPACING_ZYX_MM = (2.5, 1.0, 1.0)


def main(argv: list[str] | None = None) -> int:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", default="pddca")
    arguments = parser.parse_args(argv)
    ct, checkpoint = (arguments.output / name for name in ("ct.mha", "untrained.pt"))
    make_folder(arguments.output)
    require_own([ct, checkpoint])
    head = generate_phantom(4, spacing_zyx_mm=SPACING_ZYX_MM).volume.array
    below, behind, beside = np.subtract(SIZE_ZYX, head.shape)
    air = ((below, 0), (0, behind), (beside // 2, beside - beside // 2))
    image = np.pad(head, air, constant_values=AIR_HU)
    geometry = Geometry(size_zyx=SIZE_ZYX, spacing_zyx_mm=SPACING_ZYX_MM)
    write_volume(ct, Volume(array=image, geometry=geometry))
    torch.manual_seed(0)
    save_untrained(checkpoint, load_preset(arguments.preset))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

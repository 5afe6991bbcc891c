"""Write CTs without head and neck, cut from real ones or drawn, to test whether inference.py doubts them.

python -m benchmarks.other_body_parts --input nifti/images --output others
python inference.py --model openkbp --input others --output predictions     # "doubtful cases: ... of ..."
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data_preprocess.anchor import find_anchor
from data_preprocess.field_of_view import CoarseGrid, find_lung_apex
from data_preprocess.scans import list_scans
from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU, MIN_TISSUE_HU
from utils.io.files import make_folder
from utils.io.own_files import require_own
from utils.io.volumes import Volume, to_lps, write_volume
from utils.runtime.command_line import run_main

MIN_CHEST_MM = 110.0
"""Of the scan below the lung apex; others show too little of a chest."""
HALF_FIELD_MM = (70.0, 90.0)
"""Half widths of a field of view that cuts the lungs off at the sides."""
BRAIN_ABOVE_APEX_MM = 225.0
LUNG_HU = (-970, -400)
DRAWN = Geometry(size_zyx=(60, 64, 64), spacing_zyx_mm=(3.0, 4.0, 4.0))


def chests(ct: Volume) -> Iterator[tuple[str, np.ndarray]]:
    """Parts of a CT without head and neck, (D, H, W) int16 HU; none if the scan shows little of the lungs."""
    image, spacing = ct.array, ct.geometry.spacing_zyx_mm
    grid = CoarseGrid.through(find_anchor(image, spacing), spacing)
    apex = find_lung_apex(grid.sample(image) > MIN_TISSUE_HU, grid.spacing_zyx_mm)
    occupied = np.flatnonzero((image > MIN_TISSUE_HU).any(axis=(1, 2)))
    if apex is None or (grid.to_voxel(apex, 0) - occupied[0]) * spacing[0] < MIN_CHEST_MM:
        return
    z = grid.to_voxel(apex, 0)
    chest = image[occupied[0] : z - round(10 / spacing[0])]
    center = np.argwhere(chest[len(chest) // 2] > MIN_TISSUE_HU).mean(axis=0)
    for half_mm in HALF_FIELD_MM:
        (top, bottom), (left, right) = (
            (max(0, int(c - half_mm / s)), int(c + half_mm / s)) for c, s in zip(center, spacing[1:], strict=True)
        )
        yield f"chest_{half_mm:.0f}mm", chest[:, top:bottom, left:right]
    lung = (chest > LUNG_HU[0]) & (chest < LUNG_HU[1])
    yield "belly", np.where(lung, 50, chest).astype(np.int16)
    if len(brain := image[z + round(BRAIN_ABOVE_APEX_MM / spacing[0]) : occupied[-1] + 1]):
        yield "brain", brain


def drawings() -> Iterator[tuple[str, np.ndarray]]:
    """A water phantom, a leg and two legs, int16 HU on the grid `DRAWN`."""
    sizes = zip(DRAWN.size_zyx, DRAWN.spacing_zyx_mm, strict=True)
    _, y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * s for n, s in sizes), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 10, DRAWN.size_zyx)
    radius, pair = np.hypot(x, y), np.hypot(np.abs(x) - 60, y)
    pictures = {
        "water": np.where(radius < 90, 0, AIR_HU),
        "leg": np.select([radius < 7, radius < 13, radius < 60, radius < 75], [-50, 1100, 50, -100], AIR_HU),
        "legs": np.select([pair < 13, pair < 45], [1100, 50], AIR_HU),
    }
    for name, picture in pictures.items():
        yield name, (picture + noise).astype(np.int16)


def main(argv: list[str] | None = None) -> int:
    """Write the drawings and the parts of every CT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="as for inference.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for MHA files")
    arguments = parser.parse_args(argv)
    make_folder(arguments.output)

    def write(name: str, array: np.ndarray, geometry: Geometry) -> None:
        path = arguments.output / f"{name}.mha"
        require_own([path])
        write_volume(path, Volume(array=np.ascontiguousarray(array), geometry=replace(geometry, size_zyx=array.shape)))

    for name, array in drawings():
        write(name, array, DRAWN)
    for scan in list_scans(arguments.input):
        volume = to_lps(scan.read().volume)
        ct = Volume(array=volume.array.astype(np.int16), geometry=volume.geometry)
        for name, array in chests(ct):
            write(f"{scan.case_id}_{name}", array, ct.geometry)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

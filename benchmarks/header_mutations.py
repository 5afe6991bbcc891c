"""Are damaged NRRD and MHA headers read as ITK reads them, wherever the program accepts them?

    python -m benchmarks.header_mutations

Changes valid headers at random, reads those that the program accepts with ITK too, in a process of its own because some
headers end it, and prints in how many the voxels or their places differ.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from utils.errors import UserError
from utils.io.volumes import Volume, read_volume
from utils.runtime.command_line import run_main

VOXELS = np.arange(24, dtype="<i2")
HEADERS = {
    ".nrrd": [
        *("NRRD0004", "type: short", "dimension: 3", "sizes: 4 3 2", "encoding: raw", "endian: little", "space: RAS"),
        *("space directions: (2,0,0) (0,2,0) (0,0,3)", "space origin: (1,2,3)", "kinds: domain domain domain", "\n"),
    ],
    ".mha": [
        *("ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"),
        *(
            "CompressedData = False",
            "TransformMatrix = 1 0 0 0 1 0 0 0 1",
            "Offset = 1 2 3",
            "CenterOfRotation = 0 0 0",
        ),
        *("AnatomicalOrientation = RAI", "ElementSpacing = 2 2 3", "DimSize = 4 3 2", "ElementType = MET_SHORT"),
        "ElementDataFile = LOCAL\n",
    ],
}
INDICES_ZYX = [(0, 0, 0), (1, 0, 0), (0, 2, 0), (0, 0, 3)]
PIECES = [b"-", b"0", b"9", b"\n", b"=", b":", b" ", b"(", b"e", b"\xff", b".", b"1", b"\t", b"\r", b"#", b",", b"None"]


def mutate(header: bytes, chance: random.Random) -> bytes:
    """Change a header in one to three places: replace up to three bytes, or exchange two lines."""
    for _ in range(chance.randint(1, 3)):
        if chance.random() < 0.6:
            start = chance.randrange(len(header))
            header = header[:start] + chance.choice(PIECES) + header[start + chance.randint(0, 3) :]
        else:
            lines = header.split(b"\n")
            first, second = (chance.randrange(len(lines) - 2) for _ in range(2))
            lines[first], lines[second] = lines[second], lines[first]
            header = b"\n".join(lines)
    return header


def is_same(path: Path, volume: Volume) -> bool:
    """Whether ITK reads the same voxels and places them where the program does.

    Raises:
        RuntimeError: ITK does not read the file.
    """
    image = sitk.ReadImage(str(path))
    places = [image.TransformIndexToPhysicalPoint(index[::-1]) for index in INDICES_ZYX]
    ours = [volume.geometry.world_mm(index) for index in INDICES_ZYX]
    return np.array_equal(sitk.GetArrayFromImage(image), volume.array) and np.allclose(places, ours, atol=1e-4)


def compare(path: Path, volume: Volume) -> str:
    """Compare in a process of its own."""
    with ProcessPoolExecutor(1) as pool:
        try:
            return "same" if pool.submit(is_same, path, volume).result() else f"other than ITK's: {path.read_bytes()}"
        except RuntimeError as error:
            return "ITK ends the program" if isinstance(error, BrokenProcessPool) else "refused by ITK"


def main(argv: list[str] | None = None) -> None:
    """Print how often each outcome occurs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=6000, help="headers to try (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the changes (default: %(default)s)")
    options = parser.parse_args(argv)
    chance, outcomes = random.Random(options.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.number):
            suffix = chance.choice(list(HEADERS))
            path = Path(folder) / f"ct{suffix}"
            path.write_bytes(mutate("\n".join(HEADERS[suffix]).encode(), chance) + VOXELS.tobytes())
            try:
                outcomes[compare(path, read_volume(path))] += 1
            except UserError:
                outcomes["refused"] += 1
    for outcome, count in outcomes.most_common():
        print(f"{count:6d} {outcome}")


if __name__ == "__main__":
    sys.exit(run_main(main))

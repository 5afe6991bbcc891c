"""Add the arrangement of the organs in training cases to a checkpoint of an earlier release, which has none.

python -m benchmarks.add_arrangement --checkpoint old.pt --cases cases --output new.pt
"""

import argparse
import logging
import sys
from pathlib import Path

import torch

from data_preprocess.dataset import CaseFolder
from utils.imaging.arrangement import Arrangement
from utils.io.checkpoint import checkpoint_preset, read_checkpoint
from utils.io.files import atomic_write
from utils.io.own_files import require_own
from utils.runtime.command_line import run_main

logger = logging.getLogger(__name__)


def main(argv: list[str] | None = None) -> int:
    """Measure the train split, and write the checkpoint with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True, help="prepared cases with the organs of the checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="new file")
    arguments = parser.parse_args(argv)
    require_own([arguments.output])
    content = read_checkpoint(arguments.checkpoint)
    names = checkpoint_preset(content, arguments.checkpoint).organ_names
    arrangement = Arrangement.of(names, CaseFolder(arguments.cases, "train", names).centers_mm())
    content["arrangement"] = arrangement.to_table()
    with atomic_write(arguments.output) as partial:
        torch.save(content, partial)
    logger.info("%s: offsets of %d pairs of organs", arguments.output, len(arrangement.offsets))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

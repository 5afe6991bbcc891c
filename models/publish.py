"""Write a checkpoint for publication: without training state, and in half precision.

python -m models.publish --checkpoint runs/focusnet/best.pt --output weights/mine.pt
"""

import sys
from pathlib import Path

if not __package__:  # run by its path: Python then searches modules beside this file only
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import logging

from torch import nn

from models.focusnet import build_network
from utils.config.preset import preset_from_table
from utils.errors import UserError
from utils.io.checkpoint import (
    checkpoint_arrangement,
    load_networks,
    read_checkpoint,
    require_networks,
    save_checkpoint,
)
from utils.io.files import check_folder
from utils.io.own_files import require_own
from utils.runtime.command_line import run_main

logger = logging.getLogger(__name__)


def halve(network: nn.Module) -> None:
    """Round convolutions and matrices to half precision; norms stay, which are small and may have large values."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            half = parameter.data.half()
            if not half.isfinite().all():
                largest = parameter.abs().max()
                raise UserError(f"{name}: its weight {largest:.3g} exceeds the range of half precision; train again")
            parameter.data = half


def main(argv: list[str] | None = None) -> int:
    """Write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="best.pt of adv_train.py or of an earlier stage")
    parser.add_argument("--output", type=Path, required=True, help="new file; weights/NAME.pt becomes --model NAME")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override the preset that inference reads",
    )
    arguments = parser.parse_args(argv)
    check_folder(arguments.output.parent)
    if arguments.output.is_dir():
        raise UserError(f"--output {arguments.output}: expected the name of a new file, got a folder; add a name")
    require_own([arguments.output])
    content = read_checkpoint(arguments.checkpoint)
    require_networks(content, ["s_net"], arguments.checkpoint, "give one of train_backbone.py or a later stage")
    preset = preset_from_table(content["preset"], str(arguments.checkpoint), arguments.set)
    networks = {name: build_network(name, preset) for name in content["networks"]}
    load_networks(networks, content, arguments.checkpoint)
    for name, network in networks.items():
        try:
            halve(network)
        except UserError as error:
            raise UserError(f"{arguments.checkpoint}: {name}.{error}") from error
    arrangement = checkpoint_arrangement(content)
    save_checkpoint(arguments.output, stage=content["stage"], preset=preset, networks=networks, arrangement=arrangement)
    logger.info("%s: %s, %.1f MB", arguments.output, ", ".join(networks), arguments.output.stat().st_size / 1e6)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

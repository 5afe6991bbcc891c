"""Train the shape AutoEncoder on true masks of small organs (stage 3 of FocusNetv2)."""

import sys

import torch

from data_preprocess.augment import ShapeAugmentation
from data_preprocess.dataloaders import build_step_loader, open_training_cases, shape_dataset, training_preset
from data_preprocess.splits import choose_splits
from losses.shape import reconstruction_loss, soft_dice_loss
from models.focusnet import build_network
from models.validation import ShapeValidation
from utils.io.checkpoint import load_initial_networks
from utils.runtime.command_line import run_main
from utils.training.run import parse_training_options, start_or_resume_run
from utils.training.stage import LossStage
from utils.training.trainer import Trainer


class AutoEncoderStage(LossStage):
    """The AutoEncoder on reconstruction of true masks."""

    name = "autoencoder"
    trained = ("autoencoder",)

    def training_step(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Reconstruct masks (R, 1, d, h, w)."""
        reconstruction = self.live["autoencoder"](batch).reconstruction
        squared = reconstruction_loss(reconstruction, batch)
        dice = soft_dice_loss(reconstruction, batch)
        return {"loss": squared + dice, "reconstruction": squared, "dice_loss": dice}


def main(argv: list[str] | None = None) -> int:
    """Train the AutoEncoder."""
    options = parse_training_options(__doc__, argv)
    preset = training_preset(options)
    run = start_or_resume_run(options, choose_splits(options))
    parts = {"autoencoder": build_network("autoencoder", preset)}
    load_initial_networks(parts, options.init_from, preset)

    train, val = open_training_cases(run, preset)
    augmentation = ShapeAugmentation(preset, options.seed)
    shapes = shape_dataset(val, preset, options.seed)
    validation = ShapeValidation(parts["autoencoder"], preset, shapes, augmentation.center, run.compute)
    stage = AutoEncoderStage(preset, parts, prepare=augmentation, validate=validation)
    feed = build_step_loader(shape_dataset(train, preset, options.seed), preset.autoencoder, run)
    return Trainer(stage, feed, preset.autoencoder, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

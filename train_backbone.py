"""Train S-Net to segment every organ (stage 1 of FocusNetv2)."""

import sys

import torch

from data_preprocess.augment import Batch, CropAugmentation
from data_preprocess.dataloaders import build_step_loader, crop_dataset, open_training_cases, training_preset
from data_preprocess.splits import choose_splits
from losses.segmentation import SegmentationLoss
from models.focusnet import FocusNet, build_network
from models.validation import CaseValidation
from utils.io.checkpoint import load_initial_networks
from utils.runtime.command_line import run_main
from utils.training.run import parse_training_options, start_or_resume_run
from utils.training.stage import LossStage
from utils.training.trainer import Trainer


class BackboneStage(LossStage):
    """S-Net on focal and adaptive Dice loss."""

    name = "backbone"
    trained = ("s_net",)

    def training_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Segment the crops."""
        output = self.live["s_net"](batch.image)
        loss = SegmentationLoss.from_preset(self.preset).to(batch.image.device)
        terms = loss(output.logits, batch.label, batch.present)
        return {"loss": terms.total, "focal": terms.focal, "dice_loss": terms.dice}


def main(argv: list[str] | None = None) -> int:
    """Train S-Net."""
    options = parse_training_options(__doc__, argv)
    preset = training_preset(options)
    run = start_or_resume_run(options, choose_splits(options))
    parts = {"s_net": build_network("s_net", preset)}
    load_initial_networks(parts, options.init_from, preset)

    train, val = open_training_cases(run, preset)
    validation = CaseValidation(
        FocusNet(preset, **parts), preset, val, run.compute, score=lambda metrics: metrics["dice"]
    )
    stage = BackboneStage(preset, parts, prepare=CropAugmentation(preset, options.seed), validate=validation)
    feed = build_step_loader(crop_dataset(train, preset, options.seed), preset.backbone, run)
    return Trainer(stage, feed, preset.backbone, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

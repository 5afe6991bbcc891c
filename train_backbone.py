"""Train S-Net to segment every organ (stage 1 of FocusNetv2)."""

import sys

import torch

from data_preprocess.augment import Batch, CropAugmentation
from data_preprocess.cases import read_splits
from data_preprocess.dataset import CaseFolder
from data_preprocess.loading import build_loader, crop_dataset, training_preset
from losses.segmentation import SegmentationLoss
from models.focusnet import FocusNet, build_part
from models.validation import CaseValidation
from utils.checkpoint import load_initial_parts
from utils.command_line import run_main
from utils.trainer import LossStage, Trainer
from utils.training_options import parse_training_options
from utils.training_run import open_run


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


def main(argv: list[str] | None = None) -> None:
    """Train S-Net."""
    options = parse_training_options(__doc__, argv)
    preset = training_preset(options.cases, options.preset, options.set)
    run = open_run(options, read_splits(options.cases))
    parts = {"s_net": build_part("s_net", preset)}
    load_initial_parts(parts, options.init_from, preset)

    train, val = (CaseFolder(options.cases, split, preset.organ_names) for split in ("train", "val"))
    validation = CaseValidation(
        FocusNet(preset, **parts), preset, val, run.compute, score=lambda metrics: metrics["dice"]
    )
    stage = BackboneStage(preset, parts, prepare=CropAugmentation(preset), validate=validation)
    loader = build_loader(crop_dataset(train, preset, options.seed), preset.backbone, run)
    Trainer(stage, loader, preset.backbone, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

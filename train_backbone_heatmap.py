"""Train S-Net and SOL-Net jointly (stages 1 and 2 of FocusNetv2 in one)."""

import sys

import torch

from data_preprocess.augment import Batch, CropAugmentation
from data_preprocess.dataloaders import build_step_loader, crop_dataset, open_training_cases, training_preset
from data_preprocess.heatmap_targets import heatmap_targets
from data_preprocess.splits import choose_splits
from losses.localization import heatmap_loss
from losses.segmentation import SegmentationLoss
from models.focusnet import FocusNet, build_network
from models.validation import NOT_FOUND_MM, CaseValidation
from utils.io.checkpoint import load_initial_networks
from utils.runtime.command_line import run_main
from utils.training.run import parse_training_options, start_or_resume_run
from utils.training.stage import LossStage
from utils.training.trainer import Trainer


class BackboneHeatmapStage(LossStage):
    """S-Net's loss plus weighted heatmap loss, which reaches S-Net's features too."""

    name = "backbone_heatmap"
    trained = ("s_net", "sol_net")

    def training_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Segment the crops and localize their small organs."""
        settings = self.preset.loss
        output = self.live["s_net"](batch.image)
        heatmaps = self.live["sol_net"](output.features)
        loss = SegmentationLoss.from_preset(self.preset).to(batch.image.device)
        terms = loss(output.logits, batch.label, batch.present)
        targets, known = heatmap_targets(batch, self.preset)
        heatmap = heatmap_loss(heatmaps, targets, known, peak_weight=settings.heatmap_peak_weight)
        total = terms.total + settings.heatmap_weight * heatmap
        return {"loss": total, "focal": terms.focal, "dice_loss": terms.dice, "heatmap": heatmap}


def score(metrics: dict[str, float]) -> float:
    """Mean Dice, less the share of the largest counted error by which peaks are off."""
    return metrics["dice"] - metrics["peak_error_mm"] / NOT_FOUND_MM


def main(argv: list[str] | None = None) -> int:
    """Train S-Net and SOL-Net."""
    options = parse_training_options(__doc__, argv)
    preset = training_preset(options)
    run = start_or_resume_run(options, choose_splits(options))
    parts = {name: build_network(name, preset) for name in ("s_net", "sol_net")}
    load_initial_networks(parts, options.init_from, preset)

    train, val = open_training_cases(run, preset)
    validation = CaseValidation(FocusNet(preset, **parts), preset, val, run.compute, score=score)
    stage = BackboneHeatmapStage(preset, parts, prepare=CropAugmentation(preset, options.seed), validate=validation)
    feed = build_step_loader(crop_dataset(train, preset, options.seed), preset.backbone_heatmap, run)
    return Trainer(stage, feed, preset.backbone_heatmap, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

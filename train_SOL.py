"""Train SOL-Net to localize small organs on a frozen S-Net (stage 2 of FocusNetv2)."""

import sys

import torch

from data_preprocess.augment import Batch, CropAugmentation
from data_preprocess.dataloaders import build_step_loader, open_training_cases, small_organ_dataset, training_preset
from data_preprocess.heatmap_targets import heatmap_targets
from data_preprocess.splits import choose_splits
from losses.localization import heatmap_loss
from models.focusnet import FocusNet, build_network
from models.validation import CaseValidation
from utils.io.checkpoint import load_initial_networks
from utils.runtime.command_line import run_main
from utils.training.run import parse_training_options, start_or_resume_run
from utils.training.stage import LossStage
from utils.training.trainer import Trainer


class SOLStage(LossStage):
    """SOL-Net on heatmap loss; S-Net computes the features and does not change."""

    name = "sol"
    trained = ("sol_net",)

    def training_step(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Localize the small organs of the crops."""
        with torch.no_grad():
            features = self.live["s_net"](batch.image).features
        heatmaps = self.live["sol_net"](features)
        targets, known = heatmap_targets(batch, self.preset)
        return {"loss": heatmap_loss(heatmaps, targets, known, peak_weight=self.preset.loss.heatmap_peak_weight)}


def main(argv: list[str] | None = None) -> int:
    """Train SOL-Net."""
    options = parse_training_options(__doc__, argv)
    preset = training_preset(options)
    run = start_or_resume_run(options, choose_splits(options))
    parts = {name: build_network(name, preset) for name in ("s_net", "sol_net")}
    required = () if run.options.resume else ("s_net",)
    remedy = "give --init-from the best.pt of train_backbone.py"
    load_initial_networks(parts, options.init_from, preset, required=required, remedy=remedy)

    train, val = open_training_cases(run, preset)
    validation = CaseValidation(
        FocusNet(preset, **parts), preset, val, run.compute, score=lambda metrics: -metrics["peak_error_mm"]
    )
    stage = SOLStage(preset, parts, prepare=CropAugmentation(preset, options.seed), validate=validation)
    feed = build_step_loader(small_organ_dataset(train, preset, options.seed), preset.sol, run)
    return Trainer(stage, feed, preset.sol, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

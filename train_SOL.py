"""Train SOL-Net to localize small organs on a frozen S-Net (stage 2 of FocusNetv2)."""

import sys
from collections.abc import Iterator

import torch

from data_preprocess.augment import Batch, augment_crops
from data_preprocess.dataloaders import crop_dataset, open_training_cases
from data_preprocess.dataset import CaseDataset, CaseFolder
from data_preprocess.heatmap_targets import heatmap_targets
from losses.localization import heatmap_loss
from models.focusnet import FocusNet, build_network
from models.validation import CaseValidation
from utils.config.preset import Preset
from utils.runtime.command_line import run_main
from utils.runtime.device import Compute
from utils.training.stage import Objective, Stage
from utils.training.trainer import run_stage


class SOLStage(Stage):
    """SOL-Net minimizes the heatmap loss; a frozen S-Net computes its features."""

    name = "sol"
    trained = ("sol_net",)
    required = ("s_net",)
    remedy = "give --init-from the best.pt of train_backbone.py"

    def __init__(self, preset: Preset, compute: Compute, seed: int) -> None:
        networks = {name: build_network(name, preset) for name in ("s_net", "sol_net")}
        super().__init__(preset, compute, seed, networks=networks, augment=augment_crops)

    def training_step(self, batch: Batch) -> Iterator[Objective]:
        """Localize the small organs of the crops."""
        with torch.no_grad():
            features = self.wrapped["s_net"](batch.image).features
        heatmaps = self.wrapped["sol_net"](features)
        targets, known = heatmap_targets(batch, self.preset)
        loss = heatmap_loss(heatmaps, targets, known, peak_weight=self.preset.loss.heatmap_peak_weight)
        yield Objective(loss, self.trained, {})

    def build_dataset(self, cases: CaseFolder) -> CaseDataset:
        """Crops of the cases with small organs."""
        return crop_dataset(cases, self.preset, self.seed, of_small_organs=True)

    def build_validation(self, cases: CaseFolder) -> CaseValidation:
        """The best SOL-Net has the smallest mean distance between heatmap peaks and organ centers."""
        network = FocusNet(self.preset, **self.networks)
        return CaseValidation(network, cases, self.compute, score=lambda metrics: -metrics["peak_error_mm"])


def main(argv: list[str] | None = None) -> int:
    """Train SOL-Net."""
    return run_stage(SOLStage, open_training_cases, __doc__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))

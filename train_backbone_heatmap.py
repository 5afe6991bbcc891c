"""Train S-Net and SOL-Net jointly (stages 1 and 2 of FocusNetv2 in one)."""

import sys
from collections.abc import Iterator

from data_preprocess.augment import Batch, augment_crops
from data_preprocess.dataloaders import crop_dataset, open_training_cases
from data_preprocess.dataset import CaseDataset, CaseFolder
from data_preprocess.heatmap_targets import heatmap_targets
from losses.localization import heatmap_loss
from losses.segmentation import SegmentationLoss
from models.focusnet import FocusNet, build_network
from models.validation import NOT_FOUND_MM, CaseValidation
from utils.config.preset import Preset
from utils.runtime.command_line import run_main
from utils.runtime.device import Compute
from utils.training.stage import Objective, Stage
from utils.training.trainer import run_stage


class BackboneHeatmapStage(Stage):
    """S-Net and SOL-Net minimize S-Net's loss plus the weighted heatmap loss, whose gradient reaches S-Net too."""

    name = "backbone_heatmap"
    trained = ("s_net", "sol_net")

    def __init__(self, preset: Preset, compute: Compute, seed: int) -> None:
        networks = {name: build_network(name, preset) for name in ("s_net", "sol_net")}
        super().__init__(preset, compute, seed, networks=networks, augment=augment_crops)
        self.segmentation_loss = SegmentationLoss.from_preset(preset).to(compute.device)

    def training_step(self, batch: Batch) -> Iterator[Objective]:
        """Segment the crops and localize their small organs."""
        settings = self.preset.loss
        output = self.wrapped["s_net"](batch.image)
        heatmaps = self.wrapped["sol_net"](output.features)
        terms = self.segmentation_loss(output.logits, batch.label, batch.labeled)
        targets, known = heatmap_targets(batch, self.preset)
        heatmap = heatmap_loss(heatmaps, targets, known, peak_weight=settings.heatmap_peak_weight)
        loss = terms.total + settings.heatmap_weight * heatmap
        yield Objective(loss, self.trained, {"focal": terms.focal, "dice_loss": terms.dice, "heatmap": heatmap})

    def build_dataset(self, cases: CaseFolder) -> CaseDataset:
        """Crops of all cases."""
        return crop_dataset(cases, self.preset, self.seed)

    def build_validation(self, cases: CaseFolder) -> CaseValidation:
        """The best networks have a high mean Dice and heatmap peaks near the organs' centers."""
        return CaseValidation(FocusNet(self.preset, **self.networks), cases, self.compute, score=score)


def score(metrics: dict[str, float]) -> float:
    """Mean Dice minus the mean peak error, as a fraction of the largest error that is counted."""
    return metrics["dice"] - metrics["peak_error_mm"] / NOT_FOUND_MM


def main(argv: list[str] | None = None) -> int:
    """Train S-Net and SOL-Net."""
    return run_stage(BackboneHeatmapStage, open_training_cases, __doc__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))

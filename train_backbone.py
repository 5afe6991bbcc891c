"""Train S-Net to segment every organ (stage 1 of FocusNetv2)."""

import sys
from collections.abc import Iterator

from data_preprocess.augment import Batch, augment_crops
from data_preprocess.dataloaders import crop_dataset, open_training_cases
from data_preprocess.dataset import CaseDataset, CaseFolder
from losses.segmentation import SegmentationLoss
from models.focusnet import FocusNet, build_network
from models.validation import CaseValidation
from utils.config.preset import Preset
from utils.runtime.command_line import run_main
from utils.runtime.device import Compute
from utils.training.stage import Objective, Stage
from utils.training.trainer import run_stage


class BackboneStage(Stage):
    """S-Net minimizes focal loss and adaptive Dice loss."""

    name = "backbone"
    trained = ("s_net",)

    def __init__(self, preset: Preset, compute: Compute, seed: int) -> None:
        networks = {"s_net": build_network("s_net", preset)}
        super().__init__(preset, compute, seed, networks=networks, augment=augment_crops)
        self.segmentation_loss = SegmentationLoss.from_preset(preset).to(compute.device)

    def training_step(self, batch: Batch) -> Iterator[Objective]:
        """Segment the crops."""
        logits = self.wrapped["s_net"](batch.image).logits
        terms = self.segmentation_loss(logits, batch.label, batch.labeled)
        yield Objective(terms.total, self.trained, {"focal": terms.focal, "dice_loss": terms.dice})

    def build_dataset(self, cases: CaseFolder) -> CaseDataset:
        """Crops of all cases."""
        return crop_dataset(cases, self.preset, self.seed)

    def build_validation(self, cases: CaseFolder) -> CaseValidation:
        """The best S-Net has the highest mean Dice."""
        network = FocusNet(self.preset, **self.networks)
        return CaseValidation(network, cases, self.compute, score=lambda metrics: metrics["dice"])


def main(argv: list[str] | None = None) -> int:
    """Train S-Net."""
    return run_stage(BackboneStage, open_training_cases, __doc__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))

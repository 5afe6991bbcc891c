"""Train the shape AutoEncoder on reference masks of small organs (stage 3 of FocusNetv2)."""

import sys
from collections.abc import Iterator

import torch

from data_preprocess.augment import augment_shapes
from data_preprocess.dataloaders import open_training_cases, shape_dataset
from data_preprocess.dataset import CaseFolder, ShapeDataset
from data_preprocess.roi_fit import warn_of_large_organs
from losses.shape import mean_squared_error, soft_dice_loss
from models.focusnet import build_network
from models.validation import ShapeValidation
from utils.config.preset import Preset
from utils.runtime.command_line import run_main
from utils.runtime.device import Compute
from utils.training.stage import Objective, Stage
from utils.training.trainer import run_stage


class AutoEncoderStage(Stage):
    """The AutoEncoder minimizes the reconstruction error of reference masks."""

    name = "autoencoder"
    trained = ("autoencoder",)

    def __init__(self, preset: Preset, compute: Compute, seed: int) -> None:
        networks = {"autoencoder": build_network("autoencoder", preset)}
        super().__init__(preset, compute, seed, networks=networks, augment=augment_shapes)

    def training_step(self, batch: torch.Tensor) -> Iterator[Objective]:
        """Reconstruct masks (R, 1, d, h, w)."""
        reconstruction = self.wrapped["autoencoder"](batch).reconstruction
        squared = mean_squared_error(reconstruction, batch)
        dice = soft_dice_loss(reconstruction, batch)
        yield Objective(squared + dice, self.trained, {"reconstruction": squared, "dice_loss": dice})

    def build_dataset(self, cases: CaseFolder) -> ShapeDataset:
        """Masks of the small organs."""
        warn_of_large_organs(cases, self.preset)
        return shape_dataset(cases, self.preset, self.seed)

    def build_validation(self, cases: CaseFolder) -> ShapeValidation:
        """The best AutoEncoder has the highest mean Dice between masks and their reconstructions."""
        shapes = ShapeDataset(cases, self.preset, box_size_vox=self.preset.grid.roi_size_vox, seed=self.seed)
        return ShapeValidation(self.networks["autoencoder"], self.preset, shapes, self.compute)


def main(argv: list[str] | None = None) -> int:
    """Train the AutoEncoder."""
    return run_stage(AutoEncoderStage, open_training_cases, __doc__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))

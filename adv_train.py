"""Train SOS-Net against the shape AutoEncoder, with S-Net and SOL-Net frozen (stage 4 of FocusNetv2)."""

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch

from data_preprocess.augment import Batch, augment_crops
from data_preprocess.dataloaders import crop_dataset, open_training_cases
from data_preprocess.dataset import CaseDataset, CaseFolder
from data_preprocess.roi_fit import warn_of_large_organs
from losses.shape import discriminator_loss, segmentor_loss
from models.autoencoder import ShapeEncoding
from models.focusnet import NETWORK_NAMES, SEGMENTATION_NETWORKS, FocusNet, build_network
from models.roi import Rois, find_peaks
from models.validation import CaseValidation
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.initial_networks import load_initial_networks
from utils.runtime.command_line import run_main
from utils.runtime.device import Compute, copy_to
from utils.training.run import TrainingOptions
from utils.training.stage import Objective, Stage, frozen
from utils.training.trainer import run_stage


class SmallMasks(NamedTuple):
    """Masks of small organs in their boxes."""

    logits: torch.Tensor
    """(R, 1, d, h, w) of SOS-Net."""
    reference: torch.Tensor
    """(R, 1, d, h, w) float32, 0 or 1."""


class AdversarialStage(Stage):
    """The AutoEncoder learns to tell predicted from reference masks; SOS-Net learns masks that it cannot tell apart.

    Without `loss.adversarial` the AutoEncoder does not learn any more. With `loss.shape_weight` 0 it has no influence:
    that is FocusNet's first version.

    Gao et al., Medical Image Analysis 67 (2021) 101831, sec. 3.
    """

    name = "adversarial"
    required = ("s_net", "sol_net")
    remedy = "give --init-from the best.pt of train_SOL.py or train_backbone_heatmap.py"

    def __init__(self, preset: Preset, compute: Compute, seed: int) -> None:
        networks = {name: build_network(name, preset) for name in NETWORK_NAMES}
        super().__init__(preset, compute, seed, networks=networks, augment=augment_crops)
        self.trained = ("sos_net", "autoencoder") if preset.loss.adversarial else ("sos_net",)

    @cached_property
    def focusnet(self) -> FocusNet:
        """FocusNet of the wrapped networks, which are complete at the first step."""
        return FocusNet(self.preset, **{name: self.wrapped[name] for name in SEGMENTATION_NETWORKS})

    def training_step(self, batch: Batch) -> Iterator[Objective]:
        """The AutoEncoder's objective, then SOS-Net's, which takes its shape terms from the updated AutoEncoder."""
        masks = self._segment(batch)
        if self.preset.loss.adversarial:
            terms = self._discriminator_loss(masks)
            logged = {f"autoencoder_{name}": value for name, value in terms.items()}
            yield Objective(terms["total"], ("autoencoder",), logged)
        terms = self._segmentor_loss(masks)
        yield Objective(terms.pop("total"), ("sos_net",), terms)

    def build_dataset(self, cases: CaseFolder) -> CaseDataset:
        """Crops of the cases with small organs."""
        warn_of_large_organs(cases, self.preset)
        return crop_dataset(cases, self.preset, self.seed, of_small_organs=True)

    def build_validation(self, cases: CaseFolder) -> CaseValidation:
        """The best SOS-Net has the highest mean Dice of the small organs."""
        network = FocusNet(self.preset, **{name: self.networks[name] for name in SEGMENTATION_NETWORKS})
        return CaseValidation(network, cases, self.compute, score=lambda metrics: metrics["dice_small"])

    def load_initial_networks(self, options: TrainingOptions) -> None:
        """Load S-Net and SOL-Net from `--init-from` and the AutoEncoder from `--autoencoder`."""
        segmenting = {name: self.networks[name] for name in SEGMENTATION_NETWORKS}
        required, remedy = self.required, self.remedy
        load_initial_networks(segmenting, options.init_from, self.preset, required=required, remedy=remedy)
        if options.autoencoder is None:
            raise UserError("--autoencoder is missing; give the best.pt of train_autoencoder.py")
        shapes = {"autoencoder": self.networks["autoencoder"]}
        remedy = "--autoencoder takes the best.pt of train_autoencoder.py"
        load_initial_networks(shapes, [options.autoencoder], self.preset, remedy=remedy)

    def _segment(self, batch: Batch) -> SmallMasks:
        with torch.no_grad():
            localization = self.focusnet.localize(batch.image)
        rois = self._choose_rois(batch, localization.heatmaps)
        logits = self.focusnet.segment_rois(batch.image, localization, rois)
        own_label = copy_to(torch.tensor(self.preset.small_organs)[rois.organ_index] + 1, batch.label.device)
        label = rois.crop(batch.label[:, None])
        return SmallMasks(logits=logits, reference=(label == own_label[:, None, None, None, None]).float())

    def _choose_rois(self, batch: Batch, heatmaps: torch.Tensor) -> Rois:
        """Boxes around the contoured small organs whose center lies in the crop; if there is none, around all."""
        small = list(self.preset.small_organs)
        size = batch.label.shape[1:]
        centers, present = batch.centers_vox[:, small], batch.present[:, small]
        inside = ((centers >= 0) & (centers < centers.new_tensor(size))).all(dim=-1)
        wanted = present & inside
        wanted = torch.where(wanted.any(dim=1, keepdim=True), wanted, present)
        settings = self.preset.roi
        if settings.center != "reference":
            centers = find_peaks(heatmaps).position.float()
        jitter = torch.tensor(settings.jitter_vox, dtype=torch.float32) * batch.roi_jitter[:, small]
        return self.focusnet.select_rois(centers + copy_to(jitter, centers.device), wanted, size)

    def _discriminator_loss(self, masks: SmallMasks) -> dict[str, torch.Tensor]:
        predicted = masks.logits.detach().float().sigmoid()
        encodings = _split(self.wrapped["autoencoder"](torch.cat([predicted, masks.reference])))
        weight = self.preset.loss.adversarial_weight
        return discriminator_loss(*encodings, predicted, masks.reference, adversarial_weight=weight)

    def _segmentor_loss(self, masks: SmallMasks) -> dict[str, torch.Tensor]:
        weight = self.preset.loss.shape_weight
        if weight == 0:
            return segmentor_loss(None, None, masks.logits, masks.reference, shape_weight=0)
        with frozen(self.networks["autoencoder"]) as autoencoder:
            encodings = _split(autoencoder(torch.cat([masks.logits.float().sigmoid(), masks.reference])))
        return segmentor_loss(*encodings, masks.logits, masks.reference, shape_weight=weight)


def _split(encoding: ShapeEncoding) -> tuple[ShapeEncoding, ShapeEncoding]:
    """Split the encoding of predicted and reference masks, which one forward pass made with common batch statistics."""
    predicted, reference = zip(*(tensor.chunk(2) for tensor in encoding), strict=True)
    return ShapeEncoding(*predicted), ShapeEncoding(*reference)


def main(argv: list[str] | None = None) -> int:
    """Train SOS-Net and the AutoEncoder."""
    return run_stage(AdversarialStage, open_training_cases, __doc__, argv)


if __name__ == "__main__":
    sys.exit(run_main(main))

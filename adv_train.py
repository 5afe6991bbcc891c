"""Train SOS-Net against the shape AutoEncoder, with S-Net and SOL-Net frozen (stage 4 of FocusNetv2)."""

import sys
from typing import NamedTuple

import torch

from data_preprocess.augment import Batch, CropAugmentation
from data_preprocess.dataloaders import build_step_loader, open_training_cases, small_organ_dataset, training_preset
from data_preprocess.splits import choose_splits
from losses.shape import AdversarialWeights, DiscriminatorTerms, SegmentorTerms, discriminator_loss, segmentor_loss
from models.autoencoder import ShapeEncoding
from models.focusnet import NETWORK_NAMES, SEGMENTATION_NETWORKS, FocusNet, build_network
from models.roi import Rois, find_peaks
from models.validation import CaseValidation
from utils.config.preset import LossSettings
from utils.errors import UserError
from utils.io.checkpoint import load_initial_networks
from utils.runtime.command_line import run_main
from utils.training.optimization import OptimizerStep
from utils.training.run import parse_training_options, start_or_resume_run
from utils.training.stage import Stage
from utils.training.trainer import Trainer


class SmallMasks(NamedTuple):
    """Small organs in their boxes."""

    logits: torch.Tensor
    """(R, 1, d, h, w) of SOS-Net."""
    truth: torch.Tensor
    """(R, 1, d, h, w) float32, 0 or 1."""


class AdversarialStage(Stage):
    """In turns the AutoEncoder learns to tell predicted from true shapes, and SOS-Net to draw shapes like true ones.

    Without `loss.adversarial` the AutoEncoder judges, but learns no more; without `loss.shape_weight` it says nothing:
    that is FocusNet's first version.

    Gao et al., Medical Image Analysis 67 (2021) 101831, sec. 3.
    """

    name = "adversarial"

    @property
    def trained(self) -> tuple[str, ...]:
        """SOS-Net, and the AutoEncoder where it is the adversary."""
        return ("sos_net", "autoencoder") if self.preset.loss.adversarial else ("sos_net",)

    def optimize(self, batch: Batch, update: OptimizerStep) -> dict[str, torch.Tensor]:
        """One step of the AutoEncoder, then one of SOS-Net."""
        weights, losses = shape_weights(self.preset.loss), {}
        with update.forward():
            masks = self._segment(batch)
        if self.preset.loss.adversarial:
            with update.forward():
                judged = self._discriminator_loss(masks, weights)
            update(judged.total, "autoencoder")
            losses |= {f"autoencoder_{name}": value for name, value in judged._asdict().items()}
        with update.forward():
            drawn = self._segmentor_loss(masks, weights)
        update(drawn.total, "sos_net")
        losses |= {name: value for name, value in drawn._asdict().items() if name != "total"}
        return {"loss": drawn.total, **losses}

    def _segment(self, batch: Batch) -> SmallMasks:
        network = FocusNet(self.preset, **{name: self.live[name] for name in SEGMENTATION_NETWORKS})
        with torch.no_grad():
            location = network.localize(batch.image)
        rois = self._choose_rois(network, batch, location.heatmaps)
        logits = network.segment_rois(batch.image, location, rois)
        own_label = torch.tensor(self.preset.small_organs, device=batch.label.device)[rois.organ_index] + 1
        label = network.crop_rois(batch.label[:, None], rois)
        return SmallMasks(logits=logits, truth=(label == own_label[:, None, None, None, None]).float())

    def _choose_rois(self, network: FocusNet, batch: Batch, heatmaps: torch.Tensor) -> Rois:
        """Boxes around a crop's contoured small organs centered in it; if there is none, around all contoured ones."""
        small = list(self.preset.small_organs)
        size = batch.label.shape[1:]
        true_centers, present = batch.centers_vox[:, small], batch.present[:, small]
        inside = ((true_centers >= 0) & (true_centers < true_centers.new_tensor(size))).all(dim=-1)
        wanted = present & inside
        wanted = torch.where(wanted.any(dim=1, keepdim=True), wanted, present)
        settings = self.preset.roi
        centers = true_centers if settings.center == "reference" else find_peaks(heatmaps).position.float()
        jitter = centers.new_tensor(settings.jitter_vox) * batch.roi_jitter[:, small]
        return network.select_rois(centers + jitter, wanted, size)

    def _discriminator_loss(self, masks: SmallMasks, weights: AdversarialWeights) -> DiscriminatorTerms:
        predicted = masks.logits.detach().float().sigmoid()
        both = self.live["autoencoder"](torch.cat([predicted, masks.truth]))
        return discriminator_loss(*_halves(both), predicted, masks.truth, weights)

    def _segmentor_loss(self, masks: SmallMasks, weights: AdversarialWeights) -> SegmentorTerms:
        if self.preset.loss.shape_weight == 0:
            return segmentor_loss(None, None, masks.logits, masks.truth, weights)
        autoencoder = self.parts["autoencoder"].requires_grad_(False)  # judges, and does not learn from it
        both = autoencoder(torch.cat([masks.logits.float().sigmoid(), masks.truth]))
        autoencoder.requires_grad_(self.preset.loss.adversarial)
        return segmentor_loss(*_halves(both), masks.logits, masks.truth, weights)


def shape_weights(settings: LossSettings) -> AdversarialWeights:
    """The paper's weights, with the preset's share of the discriminator and strength of the shape terms."""
    paper = AdversarialWeights()
    return AdversarialWeights(
        reconstruction=1 - settings.adversarial_weight,
        distance=settings.adversarial_weight,
        code=paper.code * settings.shape_weight,
        feature_1=paper.feature_1 * settings.shape_weight,
        feature_2=paper.feature_2 * settings.shape_weight,
    )


def _halves(both: ShapeEncoding) -> tuple[ShapeEncoding, ShapeEncoding]:
    """Predicted and true masks, encoded in one pass so that they share batch statistics, apart again."""
    predicted, true = zip(*(tensor.chunk(2) for tensor in both), strict=True)
    return ShapeEncoding(*predicted), ShapeEncoding(*true)


def main(argv: list[str] | None = None) -> int:
    """Train SOS-Net and the AutoEncoder."""
    options = parse_training_options(__doc__, argv, adversarial=True)
    preset = training_preset(options)
    run = start_or_resume_run(options, choose_splits(options))
    parts = {name: build_network(name, preset) for name in NETWORK_NAMES}
    if not run.options.resume:
        located = {name: parts[name] for name in SEGMENTATION_NETWORKS}
        remedy = "give --init-from the best.pt of train_SOL.py or train_backbone_heatmap.py"
        load_initial_networks(located, options.init_from, preset, required=("s_net", "sol_net"), remedy=remedy)
        if options.autoencoder is None:
            raise UserError("--autoencoder is missing; give the best.pt of train_autoencoder.py")
        shapes = {"autoencoder": parts["autoencoder"]}
        remedy = "--autoencoder takes the best.pt of train_autoencoder.py"
        load_initial_networks(shapes, [options.autoencoder], preset, remedy=remedy)

    train, val = open_training_cases(run, preset)
    network = FocusNet(preset, **{name: parts[name] for name in SEGMENTATION_NETWORKS})
    validation = CaseValidation(network, preset, val, run.compute, score=lambda metrics: metrics["dice_small"])
    stage = AdversarialStage(preset, parts, prepare=CropAugmentation(preset, options.seed), validate=validation)
    feed = build_step_loader(small_organ_dataset(train, preset, options.seed), preset.adversarial, run)
    return Trainer(stage, feed, preset.adversarial, run).fit()


if __name__ == "__main__":
    sys.exit(run_main(main))

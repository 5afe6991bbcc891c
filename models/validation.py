"""Validation: scores of FocusNet on whole cases, and of the shape AutoEncoder on masks."""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from models.focusnet import FocusNet
from models.predictor import Prediction, Predictor
from models.roi import read_peaks
from utils.config.preset import Preset
from utils.errors import UserError
from utils.evaluation.overlap import dice_per_label
from utils.reporting.overlay import render_case
from utils.runtime.device import Compute, widest_float
from utils.runtime.distributed import current_distributed_context, gather_rows
from utils.training.stage import Validation

logger = logging.getLogger(__name__)

NOT_FOUND_MM = 100.0
"""Upper limit of a peak error, so that one missed organ does not dominate the mean."""


class LabeledCase(Protocol):
    """A CT (D, H, W) with its reference segmentation."""

    image: np.ndarray
    """int16 HU."""
    label: np.ndarray
    """uint8."""
    inside_fov: np.ndarray
    """bool: whether the scanner measured the voxel."""
    contoured: Sequence[bool]
    """Of every organ of the preset, whether the reference contains it."""
    centers_vox: np.ndarray
    """(organs, 3) float: centroids (z, y, x); NaN if not contoured."""


class LabeledCases(Protocol):
    """The cases of a split, opened on access; `contoured` (cases, organs) bool is known without opening them."""

    contoured: np.ndarray

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabeledCase: ...


class CaseScores(NamedTuple):
    """Scores of cases, one row each, NaN where an organ is not contoured."""

    dice: torch.Tensor
    """(cases, organs) 0..1."""
    backbone_dice: torch.Tensor
    """(cases, organs) 0..1, of S-Net alone."""
    peak_error_mm: torch.Tensor
    """(cases, K): distance from heatmap peak to centroid, at most `NOT_FOUND_MM`; K = 0 without SOL-Net."""


class CaseValidation:
    """Scores FocusNet on validation cases, which the ranks share; the trainer calls it.

    Cases that have become unreadable are logged and skipped. With SOL-Net, so are cases without a contoured small
    organ, because they cannot score it.

    Args:
        network: FocusNet.
        cases: of the validation split.
        compute: device and precision.
        score: maps the metrics of `mean_scores` to one number; the checkpoint with the highest one is the best.

    Raises:
        UserError: no case has a contoured organ with which the networks can be scored.
    """

    def __init__(
        self, network: FocusNet, cases: LabeledCases, compute: Compute, score: Callable[[dict[str, float]], float]
    ) -> None:
        self.network = network
        self.preset = network.preset
        self.cases = cases
        self.compute = compute
        self.score = score
        organs = range(len(self.preset.organs)) if network.sol_net is None else self.preset.small_organs
        self.usable = np.flatnonzero(cases.contoured[:, list(organs)].any(axis=1)).tolist()
        if not self.usable:
            names = ", ".join(self.preset.organ_names[organ] for organ in organs)
            raise UserError(
                f"validation: none of {names} is contoured in any of the {len(cases)} cases of the val split; move a "
                "case that has one into the split (splits.json)"
            )

    def __call__(self, num_cases: int) -> Validation:
        """Score at most `num_cases` cases, evenly spread over the split.

        Raises:
            UserError: none of them can be read.
        """
        count, context = min(num_cases, len(self.usable)), current_distributed_context()
        indices = [self.usable[i * len(self.usable) // count] for i in range(count)]
        own, picture = self._score_cases(indices[context.rank :: context.world_size])
        device = self.compute.device
        rows = gather_rows(own.to(device, widest_float(device)), count).cpu()
        num_organs = len(self.preset.organs)
        metrics = mean_scores(CaseScores(*rows.tensor_split([num_organs, 2 * num_organs], dim=1)), self.preset)
        if not metrics:
            raise UserError(f"validation: none of {count} cases can be read; check that their disk is mounted")
        return Validation(score=self.score(metrics), metrics=metrics, picture=picture)

    def _score_cases(self, indices: Sequence[int]) -> tuple[torch.Tensor, np.ndarray | None]:
        """A row of scores per case, NaN where it cannot be read; and a picture of the first readable case."""
        predictor = Predictor(self.network.eval(), autocast=self.compute.autocast())
        num_heatmaps = 0 if self.network.sol_net is None else len(self.preset.small_organs)
        rows = torch.full((len(indices), 2 * len(self.preset.organs) + num_heatmaps), torch.nan, dtype=torch.float64)
        picture = None
        for row, index in zip(rows, indices, strict=True):
            try:
                case = self.cases[index]
            except UserError as error:
                logger.warning("validation skips a case: %s", error)
                continue
            prediction = predictor.predict(torch.tensor(case.image), torch.from_numpy(case.inside_fov))
            row.copy_(score_case(prediction, case, self.preset))
            if picture is None:
                picture = render_example(prediction, case, self.preset)
        return rows, picture


class ShapeValidation:
    """Scores the AutoEncoder on masks of the validation split, which the ranks share; the trainer calls it.

    Args:
        autoencoder: the network.
        preset: names of the small organs.
        shapes: samples with `mask` (d, h, w) and `organ`, at least as many as are asked for.
        compute: device and precision.
    """

    MASKS_PER_CASE = 2
    MASKS_SHOWN = 6

    def __init__(self, autoencoder: nn.Module, preset: Preset, shapes: Dataset, compute: Compute) -> None:
        self.autoencoder = autoencoder
        self.preset = preset
        self.shapes = shapes
        self.compute = compute

    def __call__(self, num_cases: int) -> Validation:
        """Mean Dice between `num_cases` times two masks and their reconstructions."""
        count, context = num_cases * self.MASKS_PER_CASE, current_distributed_context()
        device, own = self.compute.device, range(context.rank, count, context.world_size)
        rows, picture = torch.zeros(0, 2, device=device), None
        if own:
            sample = default_collate([self.shapes[i] for i in own])
            masks = sample.mask[:, None].float().to(device)  # (R, 1, d, h, w)
            with self.compute.autocast():
                reconstructions = self.autoencoder(masks).reconstruction.float()
            binary = reconstructions > 0.5
            overlap = (masks * binary).sum(dim=(1, 2, 3, 4))
            sizes = masks.sum(dim=(1, 2, 3, 4)) + binary.sum(dim=(1, 2, 3, 4))
            rows = torch.stack([2 * overlap / sizes.clamp_min(1), sample.organ.to(device)], dim=1)
            picture = render_shapes(masks[: self.MASKS_SHOWN], reconstructions[: self.MASKS_SHOWN])
        dice, organs = gather_rows(rows, count).cpu().unbind(dim=1)
        metrics = {"dice": float(dice.mean())}
        for k, organ in enumerate(self.preset.small_organs):
            if (organs == k).any():
                metrics[f"dice/{self.preset.organ_names[organ]}"] = float(dice[organs == k].mean())
        return Validation(score=metrics["dice"], metrics=metrics, picture=picture)


def render_shapes(masks: torch.Tensor, reconstructions: torch.Tensor, zoom: int = 6) -> np.ndarray:
    """Render mean projections along z of masks (upper row) and of their reconstructions (lower row).

    Args:
        masks, reconstructions: (R, 1, d, h, w) in 0..1.
        zoom: pixels per voxel.

    Returns:
        (2 * h * zoom, R * w * zoom, 3) uint8.
    """
    rows = [torch.cat(list(volumes[:, 0].mean(dim=1)), dim=1) for volumes in (masks, reconstructions)]
    picture = torch.cat(rows, dim=0).cpu().numpy()
    picture = (255 * picture / max(picture.max(), 1e-6)).astype(np.uint8)
    return np.repeat(picture.repeat(zoom, axis=0).repeat(zoom, axis=1)[..., None], 3, axis=2)


def render_example(prediction: Prediction, case: LabeledCase, preset: Preset) -> np.ndarray:
    """Render slices of a case with reference, prediction and the maximum of the heatmaps: (h, w, 3) uint8."""
    return render_case(
        np.asarray(case.image),
        prediction.label.cpu().numpy(),
        spacing_zyx_mm=preset.grid.spacing_zyx_mm,
        colors=[organ.color for organ in preset.organs],
        names=preset.organ_names,
        reference=np.asarray(case.label),
        heatmap=prediction.heatmaps.amax(dim=0).cpu().numpy() if len(prediction.heatmaps) else None,
    )


def mean_scores(scores: CaseScores, preset: Preset) -> dict[str, float]:
    """Mean scores over the contoured organs: first over the cases of each organ, then over the organs.

    Returns:
        Scores by name, without NaN; those of one organ are named "dice/<organ>" and "peak_error_mm/<organ>".
    """
    names, small = preset.organ_names, list(preset.small_organs)
    large = [i for i in range(len(names)) if i not in small]
    dice, error_mm = scores.dice.nanmean(dim=0), scores.peak_error_mm.nanmean(dim=0)
    metrics = {
        "dice": dice.nanmean(),
        "dice_large": dice[large].nanmean(),
        "dice_small": dice[small].nanmean(),
        "backbone_dice_small": scores.backbone_dice[:, small].nanmean(dim=0).nanmean(),
        **{f"dice/{name}": value for name, value in zip(names, dice, strict=True)},
        "peak_error_mm": scores.peak_error_mm.nanmean(),
        **{f"peak_error_mm/{names[organ]}": value for organ, value in zip(small, error_mm, strict=False)},
    }
    return {name: float(value) for name, value in metrics.items() if not value.isnan()}


def score_case(prediction: Prediction, case: LabeledCase, preset: Preset) -> torch.Tensor:
    """The rows of `CaseScores` of one case, joined: (2 * organs + K,) float64."""
    reference, contoured = np.asarray(case.label), np.asarray(case.contoured)
    dice = [
        np.where(contoured, dice_per_label(label.cpu().numpy(), reference, len(preset.organs)), np.nan)
        for label in (prediction.label, prediction.backbone_label)
    ]
    peaks = read_peaks(prediction.heatmaps[None]).position[0].numpy()  # (K, 3)
    centers = case.centers_vox[list(preset.small_organs)][: len(peaks)]
    error_mm = np.linalg.norm((peaks - centers) * preset.grid.spacing_zyx_mm, axis=1)
    return torch.from_numpy(np.concatenate([*dice, np.minimum(error_mm, NOT_FOUND_MM)]))

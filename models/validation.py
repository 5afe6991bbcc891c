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
from utils.config.preset import Preset
from utils.errors import UserError
from utils.evaluation.overlap import dice_per_label
from utils.reporting.overlay import render_case
from utils.runtime.device import Compute
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

    dice: np.ndarray
    """(cases, organs) 0..1."""
    backbone_dice: np.ndarray
    """(cases, organs) 0..1, of S-Net alone."""
    peak_error_mm: np.ndarray
    """(cases, small organs): distance from heatmap peak to centroid, at most `NOT_FOUND_MM`; K = 0 without SOL-Net."""


class Example(NamedTuple):
    """A case to render."""

    case: LabeledCase
    prediction: Prediction


class CaseValidation:
    """Scores FocusNet on validation cases, which the ranks share; the trainer calls it.

    Cases that have become unreadable are logged and skipped. With SOL-Net, so are cases without a contoured small
    organ, because they cannot score it.

    Args:
        network: FocusNet.
        preset: organs, grid.
        cases: of the validation split.
        compute: device and precision.
        score: maps the metrics of `mean_scores` to one number; the checkpoint with the highest one is the best.

    Raises:
        UserError: no case has a contoured organ with which the networks can be scored.
    """

    def __init__(
        self,
        network: FocusNet,
        preset: Preset,
        cases: LabeledCases,
        compute: Compute,
        score: Callable[[dict[str, float]], float],
    ) -> None:
        self.network = network
        self.preset = preset
        organs = range(len(preset.organs)) if network.sol_net is None else preset.small_organs
        self.cases = cases
        self.usable = np.flatnonzero(cases.contoured[:, list(organs)].any(axis=1)).tolist()
        if not self.usable:
            names = ", ".join(preset.organ_names[organ] for organ in organs)
            raise UserError(
                f"validation: none of {names} is contoured in any of the {len(cases)} cases of the val split; move a "
                "case that has one into the split (splits.json)"
            )
        self.compute = compute
        self.score = score

    def __call__(self, num_cases: int) -> Validation:
        """Score at most `num_cases` cases, evenly spread over the split.

        Raises:
            UserError: none of them can be read.
        """
        count, context = min(num_cases, len(self.usable)), current_distributed_context()
        indices = [self.usable[i * len(self.usable) // count] for i in range(count)]
        own, example = self._score_cases(indices[context.rank :: context.world_size])
        device = self.compute.device
        scores = CaseScores(*(gather_rows(torch.from_numpy(x).to(device), count).cpu().numpy() for x in own))
        metrics = mean_scores(scores, self.preset)
        if not metrics:
            raise UserError(f"validation: none of {count} cases can be read; check that their disk is mounted")
        picture = render_example(example, self.preset) if example is not None and context.is_rank_zero else None
        return Validation(score=self.score(metrics), metrics=metrics, picture=picture)

    def _score_cases(self, indices: Sequence[int]) -> tuple[CaseScores, Example | None]:
        """Scores of these cases, NaN where a case cannot be read; and the first readable case."""
        predictor = Predictor(self.network.eval(), autocast=self.compute.autocast())
        num_organs, num_heatmaps = len(self.preset.organs), len(self.preset.small_organs)
        columns = (num_organs, num_organs, num_heatmaps if self.network.sol_net is not None else 0)
        scores, first = CaseScores(*(np.full((len(indices), n), np.nan) for n in columns)), None
        for row, index in enumerate(indices):
            try:
                case = self.cases[index]
            except UserError as error:
                logger.warning("validation skips a case: %s", error)
                continue
            prediction = predictor.predict(torch.tensor(case.image), torch.from_numpy(case.inside_fov))
            for target, values in zip(scores, score_case(prediction, case, self.preset), strict=True):
                target[row] = values
            first = first or Example(case, prediction)
        return scores, first


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
        dice, organs, picture = torch.zeros(0, device=device), torch.zeros(0, device=device), None
        if own:
            sample = default_collate([self.shapes[i] for i in own])
            masks = sample.mask[:, None].float().to(device)  # (R, 1, d, h, w)
            with self.compute.autocast():
                reconstructions = self.autoencoder(masks).reconstruction.float()
            binary = reconstructions > 0.5
            overlap = (masks * binary).sum(dim=(1, 2, 3, 4))
            sizes = masks.sum(dim=(1, 2, 3, 4)) + binary.sum(dim=(1, 2, 3, 4))
            dice, organs = 2 * overlap / sizes.clamp_min(1), sample.organ.float().to(device)
            picture = render_shapes(masks[: self.MASKS_SHOWN], reconstructions[: self.MASKS_SHOWN])
        dice, organs = gather_rows(dice, count).cpu(), gather_rows(organs, count).cpu()
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


def render_example(example: Example, preset: Preset) -> np.ndarray:
    """Render slices of a case with reference, prediction and the maximum of the heatmaps: (h, w, 3) uint8."""
    case, prediction = example
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
    small = list(preset.small_organs)
    large = [i for i in range(len(preset.organs)) if i not in small]
    per_organ = np.array([_nanmean(column) for column in scores.dice.T])
    metrics = {"dice": _nanmean(per_organ), "dice_large": _nanmean(per_organ[large])}
    metrics["dice_small"] = _nanmean(per_organ[small])
    metrics["backbone_dice_small"] = _nanmean([_nanmean(scores.backbone_dice[:, i]) for i in small])
    metrics |= {f"dice/{name}": value for name, value in zip(preset.organ_names, per_organ.tolist(), strict=True)}
    if scores.peak_error_mm.shape[1]:
        metrics["peak_error_mm"] = _nanmean(scores.peak_error_mm)
        for k, organ in enumerate(small):
            metrics[f"peak_error_mm/{preset.organ_names[organ]}"] = _nanmean(scores.peak_error_mm[:, k])
    return {name: value for name, value in metrics.items() if not np.isnan(value)}


def score_case(prediction: Prediction, case: LabeledCase, preset: Preset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row of each array of `CaseScores`."""
    reference, contoured = np.asarray(case.label), np.asarray(case.contoured)
    dice, backbone_dice = (
        np.where(contoured, dice_per_label(label.cpu().numpy(), reference, len(preset.organs)), np.nan)
        for label in (prediction.label, prediction.backbone_label)
    )
    centers = case.centers_vox[list(preset.small_organs)]
    error_mm = [
        np.linalg.norm((np.unravel_index(int(heatmap.argmax()), heatmap.shape) - center) * preset.grid.spacing_zyx_mm)
        for heatmap, center in zip(prediction.heatmaps, centers, strict=False)  # there are none without SOL-Net
    ]
    return dice, backbone_dice, np.minimum(error_mm, NOT_FOUND_MM)


def _nanmean(values: np.ndarray | list[float]) -> float:
    values = np.asarray(values, dtype=float)
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else float("nan")

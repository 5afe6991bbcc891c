"""How well FocusNet segments and localizes whole validation cases."""

import logging
from collections.abc import Callable, Iterable, Sequence
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
"""Largest peak error counted, so that one miss does not hide all others in the mean."""


class LabelledCase(Protocol):
    """A CT with its contours."""

    image: np.ndarray
    """(D, H, W) int16 HU."""
    label: np.ndarray
    """(D, H, W) uint8."""

    @property
    def contoured(self) -> Sequence[bool]: ...

    @property
    def centers_vox(self) -> np.ndarray: ...

    @property
    def inside_fov(self) -> np.ndarray: ...


class LabelledCases(Protocol):
    """Cases of a split, opened on demand."""

    contoured: np.ndarray
    """(cases, organs) bool, known without opening any."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledCase: ...


class CaseScores(NamedTuple):
    """Scores of a set of cases; all arrays (cases, organs), NaN where an organ was not contoured."""

    dice: np.ndarray
    backbone_dice: np.ndarray
    """Of S-Net alone."""
    peak_error_mm: np.ndarray
    """(cases, small organs), capped at `NOT_FOUND_MM`; no columns without SOL-Net."""


class Example(NamedTuple):
    """One case to look at."""

    case: LabelledCase
    prediction: Prediction


class CaseValidation:
    """Scores FocusNet on validation cases, shared among the ranks; what the trainer calls.

    A case that has become unreadable is named and left out.

    With SOL-Net, cases without a contoured small organ are passed over: they say nothing of what it was trained for.

    Args:
        network: FocusNet; the trainer puts its parts into eval mode.
        preset: organs, grid.
        cases: of the validation split.
        compute: precision.
        score: metrics of `mean_scores` to the number, the larger the better, by which the best checkpoint is chosen.

    Raises:
        UserError: no case has an organ contoured by which the networks could be scored.
    """

    def __init__(
        self,
        network: FocusNet,
        preset: Preset,
        cases: LabelledCases,
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
                "case that has one into it (splits.json)"
            )
        self.compute = compute
        self.score = score

    def __call__(self, num_cases: int) -> Validation:
        """Score at most `num_cases` cases, evenly spread over the split.

        Raises:
            UserError: none of them can be read any more.
        """
        count, ranks = min(num_cases, len(self.usable)), current_distributed_context()
        indices = [self.usable[i * len(self.usable) // count] for i in range(count)]
        predictor = Predictor(self.network.eval(), self.preset, autocast=self.compute.autocast())
        own, example = self._score(predictor, indices[ranks.rank :: ranks.world_size])
        device = self.compute.device
        scores = CaseScores(*(gather_rows(torch.from_numpy(x).to(device), count).cpu().numpy() for x in own))
        metrics = mean_scores(scores, self.preset)
        if not metrics:
            raise UserError(f"validation: none of {count} cases could be read; is the disk still there?")
        picture = draw_example(example, self.preset) if example is not None and ranks.is_rank_zero else None
        return Validation(score=self.score(metrics), metrics=metrics, picture=picture)

    def _score(self, predictor: Predictor, indices: Sequence[int]) -> tuple[CaseScores, Example | None]:
        """Scores of these cases, a row each, NaN where the case cannot be read; and the first one to look at."""
        num_organs, num_heatmaps = len(self.preset.organs), len(self.preset.small_organs)
        columns = (num_organs, num_organs, num_heatmaps if self.network.sol_net is not None else 0)
        scores = CaseScores(*(np.full((len(indices), n), np.nan) for n in columns))
        first = None
        for row, index in enumerate(indices):
            try:
                case = self.cases[index]
            except (ValueError, OSError) as error:
                logger.warning("validation: %s; scored without it", error)
                continue
            one, example = score_cases(predictor, [case], self.preset)
            for target, values in zip(scores, one, strict=True):
                target[row] = values[0]
            first = first or example
        return scores, first


class ShapeValidation:
    """Scores the AutoEncoder on held-out masks, shared among the ranks; what the trainer calls.

    Args:
        autoencoder: the network.
        preset: names and colors of the small organs.
        shapes: held-out samples with `mask` and `organ`, any number of them.
        center: collated sample to masks (R, 1, d, h, w).
        compute: device and precision.
    """

    MASKS_PER_CASE = 2
    MASKS_SHOWN = 6

    def __init__(
        self, autoencoder: nn.Module, preset: Preset, shapes: Dataset, center: Callable, compute: Compute
    ) -> None:
        self.autoencoder = autoencoder
        self.preset = preset
        self.shapes = shapes
        self.center = center
        self.compute = compute

    def __call__(self, num_cases: int) -> Validation:
        """Mean Dice between masks and their reconstructions."""
        count, ranks = num_cases * self.MASKS_PER_CASE, current_distributed_context()
        device, own = self.compute.device, range(ranks.rank, count, ranks.world_size)
        dice, organs, picture = torch.zeros(0, device=device), torch.zeros(0, device=device), None
        if own:
            sample = default_collate([self.shapes[i] for i in own])
            masks = self.center(sample).to(device)
            with self.compute.autocast():
                reconstructions = self.autoencoder(masks).reconstruction.float()
            overlap = (masks * (reconstructions > 0.5)).sum(dim=(1, 2, 3, 4))
            sizes = masks.sum(dim=(1, 2, 3, 4)) + (reconstructions > 0.5).sum(dim=(1, 2, 3, 4))
            dice, organs = 2 * overlap / sizes.clamp_min(1), sample.organ.float().to(device)
            picture = draw_shapes(masks[: self.MASKS_SHOWN], reconstructions[: self.MASKS_SHOWN])
        dice, organs = gather_rows(dice, count).cpu(), gather_rows(organs, count).cpu()
        metrics = {"dice": float(dice.mean())}
        for k, organ in enumerate(self.preset.small_organs):
            if (organs == k).any():
                metrics[f"dice/{self.preset.organ_names[organ]}"] = float(dice[organs == k].mean())
        return Validation(score=metrics["dice"], metrics=metrics, picture=picture)


def draw_shapes(masks: torch.Tensor, reconstructions: torch.Tensor, zoom: int = 6) -> np.ndarray:
    """Projections along z of masks (upper row) and reconstructions (lower row), (R, 1, d, h, w): (h, w, 3) uint8."""
    rows = [torch.cat(list(volumes[:, 0].mean(dim=1)), dim=1) for volumes in (masks, reconstructions)]
    picture = torch.cat(rows, dim=0).cpu().numpy()
    picture = (255 * picture / max(picture.max(), 1e-6)).astype(np.uint8)
    return np.repeat(picture.repeat(zoom, axis=0).repeat(zoom, axis=1)[..., None], 3, axis=2)


def score_cases(predictor: Predictor, cases: Iterable[LabelledCase], preset: Preset) -> tuple[CaseScores, Example]:
    """Predict every case and compare it with its contours.

    Args:
        predictor: with networks in eval mode.
        cases: at least one.
        preset: organs and spacing.

    Returns:
        The scores, and the first case with its prediction.
    """
    rows, example = [], None
    for case in cases:
        prediction = predictor.predict(torch.tensor(case.image), torch.from_numpy(case.inside_fov))
        rows.append(_score(prediction, case, preset))
        example = example or Example(case, prediction)
    return CaseScores(*(np.stack(column) for column in zip(*rows, strict=True))), example


def draw_example(example: Example, preset: Preset) -> np.ndarray:
    """Slices of a case with truth, prediction and the heatmaps' maximum: (h, w, 3) uint8."""
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
    """Means over cases and organs, skipping what was not contoured; organ by organ under "dice/<organ>" and so on."""
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


def _score(prediction: Prediction, case: LabelledCase, preset: Preset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference, contoured = np.asarray(case.label), np.asarray(case.contoured)
    dice, backbone_dice = (
        np.where(contoured, dice_per_label(label.cpu().numpy(), reference, len(preset.organs)), np.nan)
        for label in (prediction.label, prediction.backbone_label)
    )
    centers = case.centers_vox[list(preset.small_organs)]
    error_mm = [
        np.linalg.norm((np.unravel_index(int(heatmap.argmax()), heatmap.shape) - center) * preset.grid.spacing_zyx_mm)
        for heatmap, center in zip(prediction.heatmaps, centers, strict=False)
    ]
    return dice, backbone_dice, np.minimum(error_mm, NOT_FOUND_MM)


def _nanmean(values: np.ndarray | list[float]) -> float:
    values = np.asarray(values, dtype=float)
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if finite.size else float("nan")

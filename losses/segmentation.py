"""Focal loss and adaptive Dice loss, of all organs for S-Net and of one organ per row for SOS-Net.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config.preset import Preset
from utils.runtime.distributed import mean_count, sum_over_ranks

MissingContours = Literal["marginal", "zero_weight"]


class SegmentationTerms(NamedTuple):
    """Scalars, float32, all differentiable; `total` is `focal` + dice_weight * `dice`."""

    total: Tensor
    focal: Tensor
    dice: Tensor


class SegmentationLoss(nn.Module):
    """Weighted focal loss plus adaptive Dice loss of S-Net, where not every sample has every organ contoured.

    The focal loss is the mean over the batch's voxels. Dice sums over batch and space, then averages over classes,
    background being one. A class without a true voxel in the batch is left out: its Dice would be a constant with zero
    gradient, and the focal loss punishes its false positives already. The batch is that of all ranks together.

    An organ that nobody contoured hides somewhere in the background, so neither it nor background has a known truth:

    - "marginal" adds its probability to background's. The sum is what the labels do tell, so every voxel counts.
    - "zero_weight", the paper's release, gives the sample's missing organs and its background no focal weight and
      leaves them out of the Dice sums.

    Args:
        focal_alpha: weight of each class, background first, then the organs in the preset's order.
        focal_gamma: focusing exponent; 0 gives cross-entropy.
        dice_weight: weight of the Dice loss in the total.
        missing_contours: "marginal" or "zero_weight", see above.

    Raises:
        ValueError: `missing_contours` is neither.
    """

    def __init__(
        self,
        *,
        focal_alpha: Sequence[float],
        focal_gamma: float = 2.0,
        dice_weight: float = 0.2,
        missing_contours: MissingContours,
    ):
        super().__init__()
        if missing_contours not in get_args(MissingContours):
            raise ValueError(f"missing_contours is one of {get_args(MissingContours)}, got {missing_contours!r}")
        self.register_buffer("focal_alpha", torch.tensor(focal_alpha, dtype=torch.float32), persistent=False)
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.missing_contours = missing_contours

    @classmethod
    def from_preset(cls, preset: Preset) -> "SegmentationLoss":
        """The loss that a preset describes."""
        settings = preset.loss
        return cls(
            focal_alpha=[settings.background_alpha, *(organ.focal_alpha for organ in preset.organs)],
            focal_gamma=settings.focal_gamma,
            dice_weight=settings.dice_weight,
            missing_contours=settings.missing_contours,
        )

    def forward(self, logits: Tensor, label: Tensor, present: Tensor) -> SegmentationTerms:
        """Compare predictions with label maps, in float32 whatever the logits' dtype.

        Args:
            logits: (B, C, D, H, W), background first.
            label: (B, D, H, W), any integer dtype, 0 = background, organ i = i + 1. Voxels of an organ that is not
                present count as background.
            present: (B, C - 1) bool, which organs were contoured.

        Returns:
            The total and its unweighted terms.

        Raises:
            ValueError: shapes do not fit each other, or there are not as many `focal_alpha` as classes.
        """
        self._check_shapes(logits, label, present)
        known = F.pad(present, (1, 0), value=True)  # (B, C)
        label = label.long()
        label = label * known.gather(1, label.flatten(1)).view_as(label)
        logits = logits.float()
        if self.missing_contours == "marginal":
            logits = merge_missing_into_background(logits, present)
        else:
            known = torch.cat([present.all(1, keepdim=True), present], dim=1)

        log_probability = logits.log_softmax(1)
        log_true = log_probability.gather(1, label.unsqueeze(1)).squeeze(1)  # (B, D, H, W): of each voxel's true class
        alpha = (self.focal_alpha * known).gather(1, label.flatten(1)).view_as(log_true)
        focal = (alpha * _focal_terms(log_true, self.focal_gamma)).mean()

        dice = _adaptive_dice_loss(
            overlap=(_sum_by_class(log_true.exp(), label, known.shape[1]) * known).sum(0),
            predicted=(log_probability.exp().sum((2, 3, 4)) * known).sum(0),
            true=(_sum_by_class(torch.ones_like(log_true), label, known.shape[1]) * known).sum(0),
        )
        return SegmentationTerms(focal + self.dice_weight * dice, focal, dice)

    def _check_shapes(self, logits: Tensor, label: Tensor, present: Tensor) -> None:
        batch_size, num_classes, *size = logits.shape
        if len(self.focal_alpha) != num_classes:
            raise ValueError(
                f"expected {num_classes} focal_alpha, one per channel of the logits (background first), "
                f"got {len(self.focal_alpha)}"
            )
        if label.shape != (batch_size, *size) or present.shape != (batch_size, num_classes - 1):
            raise ValueError(
                f"logits {tuple(logits.shape)} need labels {(batch_size, *size)} and present "
                f"{(batch_size, num_classes - 1)}, got {tuple(label.shape)} and {tuple(present.shape)}"
            )


def merge_missing_into_background(logits: Tensor, present: Tensor) -> Tensor:
    """Add the probabilities of organs that were not contoured to background's, in log space.

    Args:
        logits: (B, C, D, H, W), background first.
        present: (B, C - 1) bool, which organs were contoured.

    Returns:
        Logits of the same shape: those of missing organs are -inf, and the softmax of the others is unchanged.
    """
    missing = ~present[:, :, None, None, None]
    in_background = F.pad(missing, (0, 0, 0, 0, 0, 0, 1, 0), value=True)  # (B, C, 1, 1, 1)
    background = logits.masked_fill(~in_background, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(missing, -torch.inf)], dim=1)


def binary_focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.5, gamma: float = 2.0) -> Tensor:
    """Focal loss of SOS-Net's masks: the mean over all rows and voxels.

    Args:
        logits: (R, 1, d, h, w), one row per sample and small organ; computed in float32.
        target: as `logits`, 0 or 1 in any dtype.
        alpha: weight of the organ's voxels; the others weigh 1 - alpha.
        gamma: focusing exponent.

    Returns:
        Scalar; 0 where there is no row.
    """
    inside = target.bool()
    logits = logits.float()
    log_true = F.logsigmoid(torch.where(inside, logits, -logits))
    weight = torch.where(inside, alpha, 1 - alpha)
    return (weight * _focal_terms(log_true, gamma)).sum() / mean_count(logits.numel(), logits.device)


def binary_adaptive_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Adaptive Dice loss of SOS-Net's masks, with sums over all rows and space as S-Net's are over batch and space.

    A row without a true voxel therefore counts through its false positives.

    Args:
        logits: (R, 1, d, h, w), one row per sample and small organ; computed in float32.
        target: as `logits`, 0 or 1 in any dtype.

    Returns:
        Scalar in 0..1; 0 where no row has a true voxel.
    """
    probability = logits.float().sigmoid()
    target = target.float()
    return _adaptive_dice_loss(overlap=(probability * target).sum(), predicted=probability.sum(), true=target.sum())


def _focal_terms(log_true: Tensor, gamma: float) -> Tensor:
    # Off zero, or below it by rounding, fractional powers have no finite gradient.
    probability_missed = (-log_true.expm1()).clamp(min=1e-12)
    return -(probability_missed**gamma) * log_true


def _sum_by_class(values: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Sum (B, D, H, W) values over the voxels of each class: (B, C)."""
    # Row by row first: float32 that adds up a whole volume in one place loses what the small addends carry.
    rows = values.new_zeros(*values.shape[:3], num_classes)
    return rows.scatter_add(3, label, values).sum((1, 2))


def _adaptive_dice_loss(*, overlap: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
    """Mean of 1 - TP / (TP + a FP + (1 - a) FN) over the classes with a true voxel, given a rank's soft sums per class.

    The weight a = FP / (FP + FN) in 0.2..0.8 favours the kind of error that prevails. It is a constant to the gradient.
    """
    overlap, predicted, true = sum_over_ranks(torch.stack([overlap, predicted, true]))
    false_positive, false_negative = predicted - overlap, true - overlap
    errors = (false_positive + false_negative).clamp(min=1e-6)
    a = (false_positive / errors).clamp(0.2, 0.8).detach()
    similarity = overlap / (overlap + a * false_positive + (1 - a) * false_negative).clamp(min=1e-6)
    counts = true > 0
    return ((1 - similarity) * counts).sum() / counts.sum().clamp(min=1)

"""Focal loss and adaptive Dice loss: of all organs for S-Net, and of one organ per row for SOS-Net.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.config.preset import Preset
from utils.imaging.masks import UNKNOWN_LABEL
from utils.runtime.distributed import mean_count, sum_over_ranks

MissingContours = Literal["marginal", "zero_weight"]


class SegmentationTerms(NamedTuple):
    """Differentiable float32 scalars; `total` is `focal` + dice_weight * `dice`."""

    total: Tensor
    focal: Tensor
    dice: Tensor


class SegmentationLoss(nn.Module):
    """S-Net's weighted focal loss plus adaptive Dice loss, for partially annotated samples.

    The focal loss is the mean over the voxels of the batch. Dice sums over batch and space, then averages over classes,
    including background. Classes without a reference voxel in the batch are left out: their Dice is constant with zero
    gradient, and the focal loss already penalizes their false positives. The batch comprises all ranks.

    Voxels labeled `UNKNOWN_LABEL`, where a pseudo-label is not sure, do not count.

    An organ that is not contoured lies somewhere in the background. Neither its label nor background's is then known:

    - "marginal" adds the organ's probability to background's. The labels do determine the sum, so every voxel counts.
    - "zero_weight", the authors' release, gives the missing organs and the background of that sample no focal weight
      and excludes them from the Dice sums.

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
            raise ValueError(f"missing_contours: expected one of {get_args(MissingContours)}, got {missing_contours!r}")
        self.register_buffer("focal_alpha", torch.tensor(focal_alpha, dtype=torch.float32), persistent=False)
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.missing_contours = missing_contours

    @classmethod
    def from_preset(cls, preset: Preset) -> "SegmentationLoss":
        """Build the loss from a preset."""
        settings = preset.loss
        return cls(
            focal_alpha=[settings.background_alpha, *(organ.focal_alpha for organ in preset.organs)],
            focal_gamma=settings.focal_gamma,
            dice_weight=settings.dice_weight,
            missing_contours=settings.missing_contours,
        )

    def forward(self, logits: Tensor, label: Tensor, present: Tensor) -> SegmentationTerms:
        """Compare predictions with label maps; always computed in float32.

        Args:
            logits: (B, C, D, H, W), before softmax, background first.
            label: (B, D, H, W), any integer dtype, 0 = background, organ i = i + 1, or `UNKNOWN_LABEL`. Voxels of an
                organ that is not present count as background.
            present: (B, C - 1) bool, which organs are contoured, or have a pseudo-label.

        Returns:
            The total and its unweighted terms, all at least 0.

        Raises:
            ValueError: the shapes do not match, or there is not one `focal_alpha` per class.
        """
        self._check_shapes(logits, label, present)
        known = F.pad(present, (1, 0), value=True)  # (B, C)
        label = label.long()
        counts = (label != UNKNOWN_LABEL).float()  # (B, D, H, W)
        label = label.masked_fill(label == UNKNOWN_LABEL, 0)
        label = label * known.gather(1, label.flatten(1)).view_as(label)
        logits = logits.float()
        if self.missing_contours == "marginal":
            logits = merge_missing_into_background(logits, present)
        else:
            known = torch.cat([present.all(1, keepdim=True), present], dim=1)

        log_probability = logits.log_softmax(1)
        log_target = log_probability.gather(1, label.unsqueeze(1)).squeeze(1)  # (B, D, H, W): of the voxel's own class
        alpha = (self.focal_alpha * known).gather(1, label.flatten(1)).view_as(log_target)
        focal = (counts * alpha * _focal_terms(log_target, self.focal_gamma)).mean()

        dice = _adaptive_dice_loss(
            overlap=(_sum_by_class(counts * log_target.exp(), label, known.shape[1]) * known).sum(0),
            predicted=((log_probability.exp() * counts[:, None]).sum((2, 3, 4)) * known).sum(0),
            reference=(_sum_by_class(counts, label, known.shape[1]) * known).sum(0),
        )
        return SegmentationTerms(focal + self.dice_weight * dice, focal, dice)

    def _check_shapes(self, logits: Tensor, label: Tensor, present: Tensor) -> None:
        batch_size, num_classes, *size = logits.shape
        if len(self.focal_alpha) != num_classes:
            raise ValueError(f"expected {num_classes} focal_alpha, one per class, got {len(self.focal_alpha)}")
        if label.shape != (batch_size, *size) or present.shape != (batch_size, num_classes - 1):
            raise ValueError(
                f"logits {tuple(logits.shape)}: expected labels {(batch_size, *size)} and present "
                f"{(batch_size, num_classes - 1)}, got {tuple(label.shape)} and {tuple(present.shape)}"
            )


def merge_missing_into_background(logits: Tensor, present: Tensor) -> Tensor:
    """Add the probabilities of organs that are not contoured to background's, in log space.

    Args:
        logits: (B, C, D, H, W), background first.
        present: (B, C - 1) bool, which organs are contoured.

    Returns:
        Logits of the same shape: those of missing organs are -inf; the softmax of the contoured organs is unchanged.
    """
    missing = ~present[:, :, None, None, None]
    in_background = F.pad(missing, (0, 0, 0, 0, 0, 0, 1, 0), value=True)  # (B, C, 1, 1, 1)
    background = logits.masked_fill(~in_background, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([background, logits[:, 1:].masked_fill(missing, -torch.inf)], dim=1)


def binary_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss of SOS-Net's masks with alpha 0.5 and gamma 2: the mean over the voxels of all ranks, in float32.

    Args:
        logits: (R, 1, d, h, w), before sigmoid, one row per sample and small organ.
        target: as `logits`, 0 or 1 in any dtype.

    Returns:
        Scalar, at least 0; 0 if there is no row.
    """
    logits = logits.float()
    log_target = F.logsigmoid(torch.where(target.bool(), logits, -logits))
    return 0.5 * _focal_terms(log_target, 2.0).sum() / mean_count(logits.numel(), logits.device)


def binary_adaptive_dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Adaptive Dice loss of SOS-Net's masks, whose sums run over the rows and voxels of all ranks, in float32.

    A row without a reference voxel therefore counts through its false positives.

    Args:
        logits, target: as for `binary_focal_loss`.

    Returns:
        Scalar in 0..1; 0 if no row has a reference voxel.
    """
    probability = logits.float().sigmoid()
    target = target.float()
    return _adaptive_dice_loss(
        overlap=(probability * target).sum(), predicted=probability.sum(), reference=target.sum()
    )


def _focal_terms(log_target: Tensor, gamma: float) -> Tensor:
    """Focal loss of every voxel, given the log probability of its own class."""
    # At zero, or below it by rounding, fractional powers have no finite gradient.
    probability_of_others = (-log_target.expm1()).clamp(min=1e-12)
    return -(probability_of_others**gamma) * log_target


def _sum_by_class(values: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Sum (B, D, H, W) values over the voxels of each class: (B, C)."""
    # First within each row: a float32 sum over a whole volume would lose the small summands.
    rows = values.new_zeros(*values.shape[:3], num_classes)
    return rows.scatter_add(3, label, values).sum((1, 2))


def _adaptive_dice_loss(*, overlap: Tensor, predicted: Tensor, reference: Tensor) -> Tensor:
    """Mean of 1 - TP / (TP + a FP + (1 - a) FN) over the classes with a reference voxel.

    The weight a = FP / (FP + FN), clamped to 0.2..0.8, emphasizes the prevailing kind of error; no gradient flows
    through it. The arguments are this rank's soft sums per class.
    """
    overlap, predicted, reference = sum_over_ranks(torch.stack([overlap, predicted, reference]))
    false_positive, false_negative = predicted - overlap, reference - overlap
    errors = (false_positive + false_negative).clamp(min=1e-6)
    a = (false_positive / errors).clamp(0.2, 0.8).detach()
    similarity = overlap / (overlap + a * false_positive + (1 - a) * false_negative).clamp(min=1e-6)
    counts = reference > 0
    return ((1 - similarity) * counts).sum() / counts.sum().clamp(min=1)

"""Losses of the shape AutoEncoder, alone and as the discriminator of SOS-Net's masks.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3. R counts rows, one per sample and small organ;
every loss is computed in float32, also under autocast, is 0 where there is no row, and averages over all ranks' rows.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.segmentation import binary_adaptive_dice_loss, binary_focal_loss
from utils.runtime.distributed import mean_count


class Encoding(Protocol):
    """What the AutoEncoder makes of R masks."""

    @property
    def code(self) -> Tensor: ...

    @property
    def feature_1(self) -> Tensor: ...

    @property
    def feature_2(self) -> Tensor: ...

    @property
    def reconstruction(self) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class AdversarialWeights:
    """Weights of the adversarial stage's terms; the defaults are the paper's."""

    reconstruction: float = 0.999
    """Discriminator: reconstruct predicted and true masks."""
    distance: float = 0.001
    """Discriminator: tell predicted from true masks, by code and features together."""
    distance_features: float = 0.2
    """Discriminator: each feature's share in that distance, next to 1 for the code."""
    dice: float = 0.5
    """SOS-Net: binary adaptive Dice loss, next to 1 for the focal loss."""
    code: float = 5.0
    """SOS-Net: distance of the shape codes."""
    feature_1: float = 1.0
    """SOS-Net: distance of the decoder's first features."""
    feature_2: float = 1.0
    """SOS-Net: distance of the decoder's second features."""
    mask: float = 1.0
    """SOS-Net: mean squared error between predicted and true mask."""


class DiscriminatorTerms(NamedTuple):
    """The discriminator's total and its unweighted terms, scalars."""

    total: Tensor
    predicted_reconstruction: Tensor
    true_reconstruction: Tensor
    code: Tensor
    feature_1: Tensor
    feature_2: Tensor


class SegmentorTerms(NamedTuple):
    """SOS-Net's total and its unweighted terms, scalars."""

    total: Tensor
    focal: Tensor
    dice_loss: Tensor
    code: Tensor
    feature_1: Tensor
    feature_2: Tensor
    mask: Tensor


def reconstruction_loss(reconstruction: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of reconstructed masks.

    Args:
        reconstruction: (R, 1, d, h, w) probabilities.
        mask: as `reconstruction`, in 0..1, any dtype; no gradient reaches it.

    Returns:
        Scalar.
    """
    return _mean_squared_error(reconstruction, mask.detach())


def soft_dice_loss(reconstruction: Tensor, mask: Tensor) -> Tensor:
    """1 - soft Dice of each row, averaged: a small organ's mask counts as much as a large one's.

    Not in the paper. Added to the mean squared error while the AutoEncoder learns true masks: an organ fills under one
    percent of its box, so that blurred answers near zero already have a small squared error.

    Args:
        reconstruction: (R, 1, d, h, w) probabilities.
        mask: the same shape, 0 or 1.

    Returns:
        Scalar float32; 0 where there is no row.
    """
    reconstruction, mask = reconstruction.float().flatten(1), mask.float().flatten(1)
    overlap = 2 * (reconstruction * mask).sum(1)
    sizes = (reconstruction + mask).sum(1)
    return (1 - overlap / sizes.clamp_min(1e-6)).sum() / mean_count(len(mask), mask.device)


def code_distance(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of shape codes, each first scaled to a mean square of 1.

    Deviation from the paper, which compares the codes as they are: the discriminator is rewarded for their distance,
    and a linear code has no bound, so it learns to make codes longer, not different. On OpenKBP the plain distance was
    over a million after 300 steps, and SOS-Net's Dice 0. Scaled, the distance is 2 - 2 cos(angle), 0 to 4.

    Args:
        predicted: (R, L) codes of predicted masks.
        true: (R, L) codes of true masks.

    Returns:
        Scalar float32.
    """
    scaled = (F.normalize(code.float(), dim=-1) * code.shape[-1] ** 0.5 for code in (predicted, true))
    return _mean_squared_error(*scaled)


def discriminator_loss(
    predicted: Encoding, true: Encoding, predicted_mask: Tensor, true_mask: Tensor, weights: AdversarialWeights
) -> DiscriminatorTerms:
    """Teach the AutoEncoder to reconstruct masks while pushing the encodings of predicted and true ones apart.

    True masks are reconstructed as in the stage before, with soft Dice beside the paper's squared error: without it the
    AutoEncoder forgets them for a blur.

    Gradients reach the AutoEncoder through both encodings. None reach the masks as the reconstructions' targets; encode
    `predicted_mask.detach()`, so that none reach SOS-Net through its encoding either.

    Args:
        predicted: encoding of `predicted_mask`.
        true: encoding of `true_mask`.
        predicted_mask: (R, 1, d, h, w) probabilities of SOS-Net.
        true_mask: as `predicted_mask`, 0 or 1 in any dtype.
        weights: weights of the terms.

    Returns:
        The total, which may be negative, and its unweighted terms.
    """
    predicted_reconstruction = reconstruction_loss(predicted.reconstruction, predicted_mask)
    true_reconstruction = reconstruction_loss(true.reconstruction, true_mask)
    true_reconstruction = true_reconstruction + soft_dice_loss(true.reconstruction, true_mask)
    code = code_distance(predicted.code, true.code)
    feature_1 = _mean_squared_error(predicted.feature_1, true.feature_1)
    feature_2 = _mean_squared_error(predicted.feature_2, true.feature_2)
    distance = code + weights.distance_features * (feature_1 + feature_2)
    total = weights.reconstruction * (predicted_reconstruction + true_reconstruction) - weights.distance * distance
    return DiscriminatorTerms(total, predicted_reconstruction, true_reconstruction, code, feature_1, feature_2)


def segmentor_loss(
    predicted: Encoding | None, true: Encoding | None, logits: Tensor, true_mask: Tensor, weights: AdversarialWeights
) -> SegmentorTerms:
    """Teach SOS-Net to segment small organs with masks that the AutoEncoder encodes as it does the true ones.

    Gradients reach SOS-Net directly and through `predicted`; `true` is a constant. They pass through the AutoEncoder,
    which the caller freezes or whose gradients it drops, for it is not to learn from this loss.

    Deviation from the paper: the shape terms count in proportion to how far masks overlap already (1 - Dice loss, a
    constant to the gradient). A mask that has nothing to do with the organ has no shape worth judging, and the way to
    look like a true mask, which is empty nearly everywhere, is then to be empty: see docs/experiments.md.

    Args:
        predicted: encoding of `logits.sigmoid()`; None leaves the shape terms out.
        true: encoding of `true_mask`, or None.
        logits: (R, 1, d, h, w) of SOS-Net.
        true_mask: as `logits`, 0 or 1 in any dtype.
        weights: weights of the terms.

    Returns:
        The total and its unweighted terms.
    """
    focal = binary_focal_loss(logits, true_mask)
    dice = binary_adaptive_dice_loss(logits, true_mask)
    code = feature_1 = feature_2 = torch.zeros((), device=logits.device)
    if predicted is not None and true is not None:
        code = code_distance(predicted.code, true.code.detach())
        feature_1 = _mean_squared_error(predicted.feature_1, true.feature_1.detach())
        feature_2 = _mean_squared_error(predicted.feature_2, true.feature_2.detach())
    mask = _mean_squared_error(logits.float().sigmoid(), true_mask)
    shape = weights.code * code + weights.feature_1 * feature_1 + weights.feature_2 * feature_2
    overlap = 1 - dice.detach()
    total = focal + weights.dice * dice + overlap * shape + weights.mask * mask
    return SegmentorTerms(total, focal, dice, code, feature_1, feature_2, mask)


def _mean_squared_error(left: Tensor, right: Tensor) -> Tensor:
    if left.shape != right.shape:
        raise ValueError(f"expected two tensors of one shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (left.float() - right.float()).square().sum() / mean_count(left.numel(), left.device)

"""Losses of the shape AutoEncoder, alone and as the discriminator of SOS-Net's masks.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3. R is the number of rows, one per sample and
small organ. Every loss is computed in float32, averages over the rows of all ranks, and is 0 if there is no row.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.segmentation import binary_adaptive_dice_loss, binary_focal_loss
from utils.runtime.distributed import mean_count


class Encoding(Protocol):
    """The AutoEncoder's outputs for R masks; see `models.autoencoder.ShapeEncoding`."""

    code: Tensor
    feature_1: Tensor
    feature_2: Tensor
    reconstruction: Tensor


@dataclass(frozen=True, kw_only=True)
class AdversarialWeights:
    """Weights of the adversarial stage's terms; the defaults are the paper's."""

    reconstruction: float = 0.999
    """Discriminator: reconstruction of predicted and reference masks."""
    distance: float = 0.001
    """Discriminator: distance between predicted and reference masks, by code and features together."""
    distance_features: float = 0.2
    """Discriminator: weight of each feature in that distance; the code has weight 1."""
    dice: float = 0.5
    """SOS-Net: binary adaptive Dice loss; the focal loss has weight 1."""
    code: float = 5.0
    """SOS-Net: distance of the shape codes."""
    feature_1: float = 1.0
    """SOS-Net: distance of the decoder's first features."""
    feature_2: float = 1.0
    """SOS-Net: distance of the decoder's second features."""
    mask: float = 1.0
    """SOS-Net: mean squared error between predicted and reference mask."""


class DiscriminatorTerms(NamedTuple):
    """The discriminator's total and its unweighted terms, scalars."""

    total: Tensor
    predicted_reconstruction: Tensor
    reference_reconstruction: Tensor
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
        Scalar in 0..1.
    """
    return _mean_squared_error(reconstruction, mask.detach())


def soft_dice_loss(reconstruction: Tensor, mask: Tensor) -> Tensor:
    """Mean over the rows of 1 - soft Dice: every mask counts the same, whatever its size.

    Deviation: it is not in the paper. It complements the mean squared error while the AutoEncoder learns reference
    masks: an organ fills less than one percent of its box, so that even blurred masks near zero have a small error.

    Args:
        reconstruction: (R, 1, d, h, w) probabilities.
        mask: as `reconstruction`, 0 or 1.

    Returns:
        Scalar in 0..1.
    """
    reconstruction, mask = reconstruction.float().flatten(1), mask.float().flatten(1)
    overlap = 2 * (reconstruction * mask).sum(1)
    sizes = (reconstruction + mask).sum(1)
    return (1 - overlap / sizes.clamp_min(1e-6)).sum() / mean_count(len(mask), mask.device)


def code_distance(predicted: Tensor, reference: Tensor) -> Tensor:
    """Mean squared error of shape codes, each of which is first scaled to a mean square of 1.

    Deviation: the paper does not scale the codes. The discriminator maximizes their distance, and linear codes are
    unbounded, so it learns longer codes instead of different ones. On OpenKBP the unscaled distance exceeded a million
    after 300 steps, and SOS-Net's Dice was 0. The scaled distance is 2 - 2 cos(angle).

    Args:
        predicted: (R, L) codes of predicted masks.
        reference: (R, L) codes of reference masks.

    Returns:
        Scalar in 0..4.
    """
    scaled = (F.normalize(code.float(), dim=-1) * code.shape[-1] ** 0.5 for code in (predicted, reference))
    return _mean_squared_error(*scaled)


def discriminator_loss(
    predicted: Encoding,
    reference: Encoding,
    predicted_mask: Tensor,
    reference_mask: Tensor,
    weights: AdversarialWeights,
) -> DiscriminatorTerms:
    """Loss that trains the AutoEncoder to reconstruct masks, and to encode predicted and reference masks differently.

    As in the stage before, reference masks have soft Dice besides the paper's squared error: without it the AutoEncoder
    unlearns them and reconstructs blurred masks.

    Gradients reach the AutoEncoder through both encodings. No gradient reaches the masks as targets of the
    reconstruction. Encode `predicted_mask.detach()`, so that none reaches SOS-Net through the encoding either.

    Args:
        predicted: encoding of `predicted_mask`.
        reference: encoding of `reference_mask`.
        predicted_mask: (R, 1, d, h, w) probabilities of SOS-Net.
        reference_mask: as `predicted_mask`, 0 or 1 in any dtype.
        weights: of the terms.

    Returns:
        The total, which may be negative, and its unweighted terms.
    """
    predicted_reconstruction = reconstruction_loss(predicted.reconstruction, predicted_mask)
    reference_reconstruction = reconstruction_loss(reference.reconstruction, reference_mask)
    reference_reconstruction = reference_reconstruction + soft_dice_loss(reference.reconstruction, reference_mask)
    code = code_distance(predicted.code, reference.code)
    feature_1 = _mean_squared_error(predicted.feature_1, reference.feature_1)
    feature_2 = _mean_squared_error(predicted.feature_2, reference.feature_2)
    distance = code + weights.distance_features * (feature_1 + feature_2)
    total = weights.reconstruction * (predicted_reconstruction + reference_reconstruction) - weights.distance * distance
    return DiscriminatorTerms(total, predicted_reconstruction, reference_reconstruction, code, feature_1, feature_2)


def segmentor_loss(
    predicted: Encoding | None,
    reference: Encoding | None,
    logits: Tensor,
    reference_mask: Tensor,
    weights: AdversarialWeights,
) -> SegmentorTerms:
    """Loss that trains SOS-Net to predict masks that overlap with the references and have similar encodings.

    Gradients reach SOS-Net directly and through `predicted`, but not through `reference`. The caller freezes the
    AutoEncoder, which must not learn from this loss.

    Deviation: the shape terms are multiplied by the current overlap (1 - Dice loss, without gradient). Before SOS-Net
    finds the organ, the shape terms drive it to an empty mask: reference masks are mostly empty, so that an empty
    prediction is close to them. See docs/experiments.md.

    Args:
        predicted: encoding of `logits.sigmoid()`; None omits the shape terms.
        reference: encoding of `reference_mask`, or None.
        logits: (R, 1, d, h, w) of SOS-Net, before sigmoid.
        reference_mask: as `logits`, 0 or 1 in any dtype.
        weights: of the terms.

    Returns:
        The total and its unweighted terms, all at least 0.
    """
    focal = binary_focal_loss(logits, reference_mask)
    dice = binary_adaptive_dice_loss(logits, reference_mask)
    code = feature_1 = feature_2 = torch.zeros((), device=logits.device)
    if predicted is not None and reference is not None:
        code = code_distance(predicted.code, reference.code.detach())
        feature_1 = _mean_squared_error(predicted.feature_1, reference.feature_1.detach())
        feature_2 = _mean_squared_error(predicted.feature_2, reference.feature_2.detach())
    mask = _mean_squared_error(logits.float().sigmoid(), reference_mask)
    shape = weights.code * code + weights.feature_1 * feature_1 + weights.feature_2 * feature_2
    overlap = 1 - dice.detach()
    total = focal + weights.dice * dice + overlap * shape + weights.mask * mask
    return SegmentorTerms(total, focal, dice, code, feature_1, feature_2, mask)


def _mean_squared_error(left: Tensor, right: Tensor) -> Tensor:
    if left.shape != right.shape:
        raise ValueError(f"expected two tensors of the same shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (left.float() - right.float()).square().sum() / mean_count(left.numel(), left.device)

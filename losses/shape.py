"""Losses of the shape AutoEncoder, alone and as the discriminator of SOS-Net's masks.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3. R is the number of rows, one per sample and
small organ. Every loss is computed in float32, averages over the rows of all ranks, and is 0 if there is no row.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.segmentation import binary_adaptive_dice_loss, binary_focal_loss
from utils.runtime.distributed import mean_count

FEATURE_WEIGHT = 0.2
"""Weight of each feature in the distance that the discriminator maximizes; the code has weight 1."""
CODE_WEIGHT = 5.0
"""Weight of the code's distance among SOS-Net's shape terms; each feature has weight 1."""
DICE_WEIGHT = 0.5
"""Weight of SOS-Net's Dice loss; the focal loss and the masks' mean squared error have weight 1."""


class Encoding(Protocol):
    """The AutoEncoder's outputs for R masks; see `models.autoencoder.ShapeEncoding`."""

    code: Tensor
    feature_1: Tensor
    feature_2: Tensor
    reconstruction: Tensor


def mean_squared_error(left: Tensor, right: Tensor) -> Tensor:
    """Mean squared error over all rows and elements.

    Args:
        left, right: (R, ...) of the same shape, any dtype.

    Raises:
        ValueError: the shapes differ.
    """
    if left.shape != right.shape:
        raise ValueError(f"expected two tensors of the same shape, got {tuple(left.shape)} and {tuple(right.shape)}")
    return (left.float() - right.float()).square().sum() / mean_count(left.numel(), left.device)


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
    return mean_squared_error(*scaled)


def discriminator_loss(
    predicted: Encoding,
    reference: Encoding,
    predicted_mask: Tensor,
    reference_mask: Tensor,
    *,
    adversarial_weight: float,
) -> dict[str, Tensor]:
    """Loss that trains the AutoEncoder to reconstruct masks, and to encode predicted and reference masks differently.

    As in the stage before, reference masks have soft Dice besides the paper's squared error: without it the AutoEncoder
    unlearns them and reconstructs blurred masks.

    Gradients reach the AutoEncoder through both encodings, but not the masks that it reconstructs. Encode
    `predicted_mask.detach()`, so that none reaches SOS-Net through the encoding either.

    Args:
        predicted: encoding of `predicted_mask`.
        reference: encoding of `reference_mask`.
        predicted_mask: (R, 1, d, h, w) probabilities of SOS-Net.
        reference_mask: as `predicted_mask`, 0 or 1 in any dtype.
        adversarial_weight: of the distance between the encodings, 0..1; the reconstructions have the rest. The paper's
            is 0.001.

    Returns:
        Scalars: "total", which may be negative, and its unweighted terms.
    """
    predicted_reconstruction = mean_squared_error(predicted.reconstruction, predicted_mask.detach())
    reference_reconstruction = mean_squared_error(reference.reconstruction, reference_mask)
    reference_reconstruction = reference_reconstruction + soft_dice_loss(reference.reconstruction, reference_mask)
    code = code_distance(predicted.code, reference.code)
    feature_1 = mean_squared_error(predicted.feature_1, reference.feature_1)
    feature_2 = mean_squared_error(predicted.feature_2, reference.feature_2)
    reconstruction = predicted_reconstruction + reference_reconstruction
    distance = code + FEATURE_WEIGHT * (feature_1 + feature_2)
    return {
        "total": (1 - adversarial_weight) * reconstruction - adversarial_weight * distance,
        "predicted_reconstruction": predicted_reconstruction,
        "reference_reconstruction": reference_reconstruction,
        "code": code,
        "feature_1": feature_1,
        "feature_2": feature_2,
    }


def segmentor_loss(
    predicted: Encoding | None,
    reference: Encoding | None,
    logits: Tensor,
    reference_mask: Tensor,
    *,
    shape_weight: float,
) -> dict[str, Tensor]:
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
        shape_weight: factor on the shape terms, at least 0; the paper's is 1.

    Returns:
        Scalars, at least 0: "total" and its unweighted terms.
    """
    focal = binary_focal_loss(logits, reference_mask)
    dice = binary_adaptive_dice_loss(logits, reference_mask)
    code = feature_1 = feature_2 = torch.zeros((), device=logits.device)
    if predicted is not None and reference is not None:
        code = code_distance(predicted.code, reference.code.detach())
        feature_1 = mean_squared_error(predicted.feature_1, reference.feature_1.detach())
        feature_2 = mean_squared_error(predicted.feature_2, reference.feature_2.detach())
    mask = mean_squared_error(logits.float().sigmoid(), reference_mask)
    shape = shape_weight * CODE_WEIGHT * code + shape_weight * feature_1 + shape_weight * feature_2
    return {
        "total": focal + DICE_WEIGHT * dice + (1 - dice.detach()) * shape + mask,
        "focal": focal,
        "dice_loss": dice,
        "code": code,
        "feature_1": feature_1,
        "feature_2": feature_2,
        "mask": mask,
    }

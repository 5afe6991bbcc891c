import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses.shape import (
    code_distance,
    discriminator_loss,
    mean_squared_error,
    segmentor_loss,
    soft_dice_loss,
)

WEIGHT = 0.001
ROW = (1, 2, 3, 4)


class Encoding(NamedTuple):
    code: Tensor
    feature_1: Tensor
    feature_2: Tensor
    reconstruction: Tensor


class TinyAutoEncoder(nn.Module):
    """The least that has a parameter and all four outputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, mask):
        scaled = self.scale * mask
        code = F.pad(scaled.flatten(1), (0, 1), value=1.0)  # its direction depends on the mask
        return Encoding(code, scaled**2, scaled**3, scaled.sigmoid())


def stack(terms):
    return torch.stack(list(terms.values()))


def constant(value, rows=2):
    return torch.full((rows, *ROW), value)


def encoding(code, feature_1, feature_2, reconstruction, rows=2):
    return Encoding(*(constant(value, rows) for value in (code, feature_1, feature_2, reconstruction)))


def test_reconstruction_worked_by_hand():
    mask = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 1, 2)
    reconstruction = torch.tensor([0.8, 0.4]).view(1, 1, 1, 1, 2)
    assert mean_squared_error(reconstruction, mask).item() == pytest.approx((0.04 + 0.16) / 2)
    assert mean_squared_error(reconstruction, mask.bool()).item() == pytest.approx((0.04 + 0.16) / 2)


def test_discriminator_worked_by_hand():
    predicted, true = encoding(-3.0, 2.0, 1.0, 0.5), encoding(1.0, 1.0, 4.0, 0.9)
    terms = discriminator_loss(predicted, true, constant(0.3), constant(1.0), adversarial_weight=WEIGHT)
    reference_reconstruction = 0.01 + (1 - 2 * 0.9 / (0.9 + 1))
    assert stack(terms)[1:].tolist() == pytest.approx([0.04, reference_reconstruction, 4.0, 1.0, 9.0], rel=1e-5)
    expected = 0.999 * (0.04 + reference_reconstruction) - 0.001 * (4.0 + 0.2 * 1.0 + 0.2 * 9.0)
    assert terms["total"].item() == pytest.approx(expected, rel=1e-5)


def test_segmentor_worked_by_hand():
    predicted, true = encoding(-3.0, 2.0, 1.0, 0.5), encoding(1.0, 1.0, 4.0, 0.9)
    terms = segmentor_loss(predicted, true, constant(0.0), constant(1.0), shape_weight=1)
    # Probability 1/2 inside the organ everywhere: TP .5, FN .5 of every voxel, a .2.
    focal, dice, mask = 0.5 * 0.25 * math.log(2), 4 / 9, 0.25
    assert stack(terms)[1:].tolist() == pytest.approx([focal, dice, 4.0, 1.0, 9.0, mask])
    shape = 5 * 4.0 + 1.0 + 9.0
    assert terms["total"].item() == pytest.approx(focal + 0.5 * dice + (1 - dice) * shape + mask)


def test_the_presets_weights_reach_their_terms():
    predicted, true = encoding(-3.0, 2.0, 1.0, 0.5), encoding(1.0, 1.0, 4.0, 0.9)
    terms = discriminator_loss(predicted, true, constant(0.3), constant(1.0), adversarial_weight=0.25)
    assert terms["total"].item() == pytest.approx(0.75 * (0.05 + 1 / 19) - 0.25 * (4 + 0.2 * (1 + 9)))
    terms = segmentor_loss(predicted, true, constant(0.0), constant(1.0), shape_weight=3)
    shape = 3 * (5 * 4 + 1 + 9)
    expected = terms["focal"] + 0.5 * terms["dice_loss"] + (1 - terms["dice_loss"]) * shape + 0.25
    assert terms["total"].item() == pytest.approx(expected.item())


def test_rows_count_alike():
    """Two rows cost the mean of what each costs, in all the terms that are means."""
    generator = torch.Generator().manual_seed(0)
    predicted, true = (Encoding(*torch.rand(4, 2, *ROW, generator=generator)) for _ in range(2))
    mask = torch.rand(2, *ROW, generator=generator)
    both = discriminator_loss(predicted, true, mask, mask > 0.5, adversarial_weight=WEIGHT)
    single = [
        discriminator_loss(
            *(Encoding(*(part[[row]] for part in side)) for side in (predicted, true)),
            mask[[row]],
            mask[[row]] > 0.5,
            adversarial_weight=WEIGHT,
        )
        for row in range(2)
    ]
    torch.testing.assert_close(stack(both), (stack(single[0]) + stack(single[1])) / 2)


def test_discriminator_teaches_the_autoencoder_only():
    autoencoder = TinyAutoEncoder()
    logits = constant(0.4).requires_grad_()
    predicted_mask, true_mask = logits.sigmoid(), constant(1.0)
    predicted, true = autoencoder(predicted_mask.detach()), autoencoder(true_mask)
    terms = discriminator_loss(predicted, true, predicted_mask, true_mask, adversarial_weight=WEIGHT)
    terms["total"].backward()
    assert autoencoder.scale.grad.abs() > 0
    assert logits.grad is None


def test_discriminator_pushes_both_encodings_apart():
    predicted, true = encoding(3.0, 2.0, 1.0, 0.3), encoding(1.0, 1.0, 4.0, 1.0)
    for part in (*predicted, *true):
        part.requires_grad_()
    discriminator_loss(predicted, true, constant(0.3), constant(1.0), adversarial_weight=WEIGHT)["total"].backward()
    # Gradient descent on -(2 - 1)^2 makes 2 larger and 1 smaller.
    assert predicted.feature_1.grad.max() < 0
    assert true.feature_1.grad.min() > 0


def test_discriminator_turns_codes_away_from_each_other():
    predicted, true = encoding(1.0, 1.0, 1.0, 0.3), encoding(1.0, 1.0, 1.0, 1.0)
    with torch.no_grad():
        predicted.code[..., 0] = 2.0
    for part in (*predicted, *true):
        part.requires_grad_()
    discriminator_loss(predicted, true, constant(0.3), constant(1.0), adversarial_weight=WEIGHT)["total"].backward()
    # The predicted code already leans to its first entry: descent lets it lean further, and the true one less.
    assert predicted.code.grad[..., 0].max() < 0
    assert true.code.grad[..., 0].min() > 0


def test_segmentor_learns_through_predicted_encoding_only():
    autoencoder = TinyAutoEncoder().requires_grad_(False)
    logits = constant(0.4).requires_grad_()
    true_mask = constant(1.0).requires_grad_()
    terms = segmentor_loss(autoencoder(logits.sigmoid()), autoencoder(true_mask), logits, constant(1.0), shape_weight=1)
    (through_code,) = torch.autograd.grad(terms["code"], logits, retain_graph=True)
    assert through_code.max() < 0
    terms["total"].backward()
    assert logits.grad.isfinite().all()
    assert autoencoder.scale.grad is None
    assert true_mask.grad is None


def test_shape_is_not_judged_where_nothing_overlaps():
    autoencoder = TinyAutoEncoder()
    true_mask = constant(0.0)
    true_mask[:, :, 1] = 1.0
    elsewhere = (60 * (0.5 - true_mask)).requires_grad_()
    terms = segmentor_loss(
        autoencoder(elsewhere.sigmoid()), autoencoder(true_mask), elsewhere, true_mask, shape_weight=1
    )
    assert terms["feature_1"] > 0.01
    expected = terms["focal"] + 0.5 * terms["dice_loss"] + terms["mask"]
    assert terms["total"].item() == pytest.approx(expected.item())


def test_perfect_masks_cost_nothing():
    autoencoder = TinyAutoEncoder()
    true_mask = constant(0.0)
    true_mask[:, :, 1] = 1.0
    logits = 80 * true_mask - 40
    terms = segmentor_loss(autoencoder(logits.sigmoid()), autoencoder(true_mask), logits, true_mask, shape_weight=1)
    assert stack(terms).abs().max() < 1e-6


def test_no_rows_cost_nothing():
    autoencoder = TinyAutoEncoder()
    logits = constant(0.0, rows=0).requires_grad_()
    none = constant(1.0, rows=0)
    segmentor = segmentor_loss(autoencoder(logits.sigmoid()), autoencoder(none), logits, none, shape_weight=1)
    discriminator = discriminator_loss(autoencoder(none), autoencoder(none), none, none, adversarial_weight=WEIGHT)
    assert all(term.item() == 0 for term in (*segmentor.values(), *discriminator.values()))
    (segmentor["total"] + discriminator["total"]).backward()
    assert autoencoder.scale.grad.item() == 0


def test_computes_in_float32_under_autocast():
    predicted, true = (
        Encoding(*(part.bfloat16() for part in encoding(*values)))
        for values in ((1.0, 1.0, 1.0, 0.5), (1.0, 1.0078125, 1.0, 0.5))
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        segmentor = segmentor_loss(predicted, true, constant(0.0).bfloat16(), constant(1.0).bool(), shape_weight=1)
        discriminator = discriminator_loss(
            predicted, true, constant(0.5).bfloat16(), constant(1.0), adversarial_weight=WEIGHT
        )
    assert all(term.dtype == torch.float32 for term in (*segmentor.values(), *discriminator.values()))
    assert segmentor["feature_1"].item() == discriminator["feature_1"].item() == pytest.approx(2**-14)


def test_rejects_shapes_that_would_broadcast():
    with pytest.raises(ValueError, match="same shape"):
        mean_squared_error(constant(0.5), constant(1.0)[0])


def test_soft_dice_by_hand_counts_every_row_alike():
    mask = torch.zeros(2, 1, 1, 2, 4)
    mask[0, ..., :2] = 1  # four voxels
    mask[1, ..., 0, 0] = 1  # one voxel
    reconstruction = torch.zeros_like(mask)
    reconstruction[0] = mask[0]  # Dice 1
    reconstruction[1, ..., 0, :2] = 0.5  # Dice 2 * 0.5 / (1 + 1) = 0.5
    assert soft_dice_loss(reconstruction, mask).item() == pytest.approx((0 + 0.5) / 2)
    assert soft_dice_loss(mask[:0], mask[:0]).item() == 0


def test_code_distance_sees_direction_not_length():
    code = torch.tensor([[3.0, 4.0]])
    assert code_distance(code, 1e6 * code).item() == pytest.approx(0)
    assert code_distance(code, -code).item() == pytest.approx(4)
    assert code_distance(code, torch.tensor([[-4.0, 3.0]])).item() == pytest.approx(2)

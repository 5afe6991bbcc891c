import math

import pytest
import torch

from benchmarks.baseline import OneHotLoss
from losses.segmentation import (
    SegmentationLoss,
    SegmentationTerms,
    binary_adaptive_dice_loss,
    binary_focal_loss,
    merge_missing_into_background,
)
from utils.imaging.masks import UNKNOWN_LABEL

MODES = ("marginal", "zero_weight")
ALPHA = (0.5, 1.0, 8.0, 2.0)


def logits_of(*voxels):
    """One sample of one row of voxels, each given as the probabilities of its classes: (1, C, 1, 1, W)."""
    return torch.tensor(voxels).log().T[None, :, None, None, :]


def row(*labels):
    return torch.tensor(labels)[None, None, None, :]


def random_batch():
    """Two samples, four classes, D, H, W = 3, 5, 7; the second lacks organs 1 and 3, organ 2 touches a border."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, 4, 3, 5, 7, generator=generator)
    label = torch.randint(0, 4, (2, 3, 5, 7), generator=generator)
    label[1][(label[1] == 1) | (label[1] == 3)] = 0
    label[1, :, 0] = 2
    return logits, label, torch.tensor([[True, True, True], [False, True, False]])


def naive_loss(logits, label, present, mode):
    """Focal + 0.2 adaptive Dice with one-hot volumes and loops, as one would write it down from the paper."""
    probabilities = list(logits.double().softmax(1).unbind(0))
    one_hot = torch.nn.functional.one_hot(label, 4).movedim(-1, 1).double()
    known = torch.ones(2, 4)
    for sample in range(2):
        for organ in (1, 2, 3):
            if present[sample, organ - 1]:
                continue
            known[sample, organ] = 0
            if mode == "zero_weight":
                known[sample, 0] = 0
            else:
                merged = list(probabilities[sample].unbind(0))
                merged[0], merged[organ] = merged[0] + merged[organ], torch.zeros_like(merged[0])
                probabilities[sample] = torch.stack(merged)
    probabilities = torch.stack(probabilities)
    known = known[:, :, None, None, None]
    true = (probabilities * one_hot).sum(1, keepdim=True)
    alpha = torch.tensor(ALPHA)[None, :, None, None, None]
    focal = (alpha * known * one_hot * -((1 - true) ** 2) * true.log()).sum() / label.numel()
    dice = []
    for channel in range(4):
        p, t, k = probabilities[:, channel], one_hot[:, channel], known[:, channel]
        tp, fp, fn = (k * p * t).sum(), (k * p * (1 - t)).sum(), (k * (1 - p) * t).sum()
        a = (fp / (fp + fn)).detach().clamp(0.2, 0.8)
        dice.append(1 - tp / (tp + a * fp + (1 - a) * fn))
    dice = sum(dice) / 4
    return SegmentationTerms(focal + 0.2 * dice, focal, dice)


@pytest.mark.parametrize("mode", MODES)
def test_worked_by_hand(mode):
    loss = SegmentationLoss(focal_alpha=(0.5, 2.0), missing_contours=mode)
    terms = loss(logits_of((0.8, 0.2), (0.4, 0.6)), row(0, 1), torch.tensor([[True]]))
    focal = (0.5 * 0.2**2 * -math.log(0.8) + 2.0 * 0.4**2 * -math.log(0.6)) / 2
    # Background: TP .8, FP .4, FN .2, a = 2/3, TP / (.8 + .8/3 + .2/3) = 12/17. Organ: TP .6, FP .2, FN .4: 9/14.
    dice = (5 / 17 + 5 / 14) / 2
    assert terms.focal.item() == pytest.approx(focal)
    assert terms.dice.item() == pytest.approx(dice)
    assert terms.total.item() == pytest.approx(focal + 0.2 * dice)


def test_adaptive_weight_is_clamped():
    loss = SegmentationLoss(focal_alpha=(1.0, 1.0), missing_contours="marginal")
    terms = loss(logits_of((1.0, 1e-30), (0.5, 0.5)), row(0, 1), torch.tensor([[True]]))
    # Organ: TP .5, FN .5 only, a .2: .5 / (.5 + .8 * .5) = 5/9. Background: TP 1, FP .5 only, a .8: 1 / 1.4 = 5/7.
    assert terms.dice.item() == pytest.approx((4 / 9 + 2 / 7) / 2)


@pytest.mark.parametrize("mode", MODES)
def test_equals_naive_reference(mode):
    logits, label, present = random_batch()
    fast, naive = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    terms = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)(fast, label, present)
    reference = naive_loss(naive, label, present, mode)
    torch.testing.assert_close(torch.stack(terms).double(), torch.stack(reference))
    terms.total.backward()
    reference.total.backward()
    torch.testing.assert_close(fast.grad, naive.grad, rtol=1e-4, atol=1e-7)


def test_equals_the_one_hot_baseline_of_the_benchmarks():
    logits, label, _ = random_batch()
    present = torch.ones(2, 3, dtype=torch.bool)
    losses = [kind(focal_alpha=ALPHA, missing_contours="marginal") for kind in (SegmentationLoss, OneHotLoss)]
    terms, baseline = (torch.stack(loss(logits, label, present)) for loss in losses)
    torch.testing.assert_close(terms, baseline, rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_batch_of_two(mode):
    logits, label, present = random_batch()
    loss = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)
    both = loss(logits, label, present)
    first, second = (loss(logits[i : i + 1], label[i : i + 1], present[i : i + 1]) for i in range(2))
    torch.testing.assert_close(both.focal, (first.focal + second.focal) / 2)
    twice = loss(logits[[0, 0]], label[[0, 0]], present[[0, 0]])
    torch.testing.assert_close(torch.stack(twice), torch.stack(first))


@pytest.mark.parametrize("mode", MODES)
def test_dtypes_of_labels_and_logits(mode):
    logits, label, present = random_batch()
    loss = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)
    half = logits.bfloat16()
    expected = loss(half.float(), label, present)
    actual = loss(half, label.to(torch.uint8), present)
    assert all(term.dtype == torch.float32 for term in actual)
    assert torch.equal(torch.stack(actual), torch.stack(expected))


@pytest.mark.parametrize("mode", MODES)
def test_perfect_prediction_costs_nothing(mode):
    _, label, present = random_batch()
    logits = 40 * torch.nn.functional.one_hot(label, 4).movedim(-1, 1).float()
    logits.requires_grad_()
    terms = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)(logits, label, present)
    terms.total.backward()
    assert torch.stack(terms).abs().max() < 1e-6
    assert logits.grad.abs().max() < 1e-6


def test_marginal_does_not_tell_background_from_missing_organ():
    loss = SegmentationLoss(focal_alpha=(0.5, 1.0, 2.0), missing_contours="marginal")
    label, present = row(0, 2), torch.tensor([[False, True]])
    logits = logits_of((0.5, 0.2, 0.3), (0.1, 0.1, 0.8)).requires_grad_()
    moved = loss(logits_of((0.1, 0.6, 0.3), (0.15, 0.05, 0.8)), label, present)
    terms = loss(logits, label, present)
    torch.testing.assert_close(torch.stack(moved), torch.stack(terms))
    terms.total.backward()
    # A step dp from background to the organ moves their logits by -dp / p and dp / p: the two effects cancel.
    effect = logits.grad / logits.detach().exp()
    torch.testing.assert_close(effect[:, 0], effect[:, 1])
    assert effect.abs().min() > 0


def test_marginal_worked_by_hand():
    loss = SegmentationLoss(focal_alpha=(0.5, 1.0, 2.0), missing_contours="marginal")
    logits, label = logits_of((0.6, 0.2, 0.2), (0.3, 0.1, 0.6)), row(0, 2)
    # Merged background .8 and .4: the two-class example above; the missing organ is no class of the Dice mean.
    terms = loss(logits, label, torch.tensor([[False, True]]))
    assert terms.focal.item() == pytest.approx((0.02 * -math.log(0.8) + 0.32 * -math.log(0.6)) / 2)
    assert terms.dice.item() == pytest.approx((5 / 17 + 5 / 14) / 2)


def test_merged_probabilities():
    merged = merge_missing_into_background(logits_of((0.5, 0.2, 0.3)), torch.tensor([[False, True]])).softmax(1)
    torch.testing.assert_close(merged.flatten(), torch.tensor([0.7, 0.0, 0.3]))


def test_voxels_of_a_missing_organ_count_as_background():
    logits, _, _ = random_batch()
    loss = SegmentationLoss(focal_alpha=ALPHA, missing_contours="marginal")
    present = torch.tensor([[True, False, True]] * 2)
    as_organ = loss(logits, torch.full((2, 3, 5, 7), 2), present)
    as_background = loss(logits, torch.zeros(2, 3, 5, 7, dtype=torch.long), present)
    assert torch.equal(torch.stack(as_organ), torch.stack(as_background))


def test_zero_weight_worked_by_hand():
    loss = SegmentationLoss(focal_alpha=(0.5, 1.0, 2.0), missing_contours="zero_weight")
    logits = torch.cat([logits_of((0.8, 0.1, 0.1), (0.3, 0.1, 0.6)), logits_of((0.2, 0.7, 0.1), (0.2, 0.2, 0.6))])
    logits.requires_grad_()
    terms = loss(logits, torch.cat([row(0, 2), row(0, 2)]), torch.tensor([[True, True], [False, True]]))
    # The second sample's background voxel weighs nothing; four voxels share the mean.
    assert terms.focal.item() == pytest.approx((0.02 * -math.log(0.8) + 2 * 0.32 * -math.log(0.6)) / 4)
    # Background, first sample only: TP .8, FP .3, FN .2, a .6: .8 / (.8 + .18 + .08) = 40/53. Organ 2, both samples:
    # TP 1.2, FP .2, FN .8, a .2: 1.2 / (1.2 + .04 + .64) = 30/47. Organ 1 has no voxel.
    assert terms.dice.item() == pytest.approx((13 / 53 + 17 / 47) / 2)
    (gradient,) = torch.autograd.grad(terms.focal, logits)
    assert torch.equal(gradient[1, ..., 0], torch.zeros(3, 1, 1))
    assert gradient[1, ..., 1].abs().min() > 0


@pytest.mark.parametrize("mode", MODES)
def test_nothing_contoured(mode):
    logits, label, _ = random_batch()
    logits.requires_grad_()
    terms = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)(logits, label, torch.zeros(2, 3).bool())
    terms.total.backward()
    assert terms.total.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_contoured_organ_outside_the_crop_leaves_dice_and_stays_in_focal(mode):
    loss = SegmentationLoss(focal_alpha=(0.5, 1.0, 2.0), missing_contours=mode)
    logits = logits_of((0.7, 0.2, 0.1), (0.1, 0.1, 0.8)).requires_grad_()
    terms = loss(logits, row(0, 2), torch.tensor([[True, True]]))
    # Background: TP .7, FP .1, FN .3, a .25. Organ 2: TP .8, FP .1, FN .2, a 1/3. Organ 1 has no voxel.
    assert terms.dice.item() == pytest.approx((0.25 / 0.95 + 0.5 / 2.9) / 2)
    (gradient,) = torch.autograd.grad(terms.focal, logits)
    assert gradient[:, 1].min() > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_is_finite_at_extreme_logits(mode, gamma):
    logits, label, present = random_batch()
    logits = (1e4 * logits).requires_grad_()
    terms = SegmentationLoss(focal_alpha=ALPHA, focal_gamma=gamma, missing_contours=mode)(logits, label, present)
    terms.total.backward()
    assert terms.total.isfinite()
    assert logits.grad.isfinite().all()


def test_sums_keep_precision_over_a_whole_crop():
    size = (40, 192, 192)
    logits = torch.tensor([0.97, 0.03]).log().view(1, 2, 1, 1, 1).expand(1, 2, *size)
    loss = SegmentationLoss(focal_alpha=(1.0, 1.0), missing_contours="marginal")
    terms = loss(logits, torch.zeros(1, *size, dtype=torch.uint8), torch.tensor([[True]]))
    # Background: TP .97, FN .03 of every voxel, a .2.
    assert terms.dice.item() == pytest.approx(0.024 / 0.994, rel=1e-4)


def test_rejects_shapes_that_do_not_match():
    logits, label, present = random_batch()
    with pytest.raises(ValueError, match="expected 4 focal_alpha"):
        SegmentationLoss(focal_alpha=(0.5, 1.0), missing_contours="marginal")(logits, label, present)
    loss = SegmentationLoss(focal_alpha=ALPHA, missing_contours="marginal")
    with pytest.raises(ValueError, match="expected labels"):
        loss(logits, label[:, :2], present)
    with pytest.raises(ValueError, match="expected labels"):
        loss(logits, label, present[:, :2])
    with pytest.raises(ValueError, match="missing_contours"):
        SegmentationLoss(focal_alpha=ALPHA, missing_contours="ignore")


def test_binary_focal_worked_by_hand():
    # Probabilities 1/2 and 3/4 of the organ; the second voxel, outside, is right with probability 1/4.
    logits = torch.tensor([0.0, math.log(3)]).view(1, 1, 1, 1, 2)
    target = torch.tensor([1, 0], dtype=torch.uint8).view(1, 1, 1, 1, 2)
    expected = (0.5 * 0.25 * math.log(2) + 0.5 * 0.75**2 * math.log(4)) / 2
    assert binary_focal_loss(logits, target).item() == pytest.approx(expected)


def test_binary_focal_treats_both_classes_alike():
    logits = torch.linspace(-30, 30, 7).view(1, 1, 1, 1, 7)
    inside = binary_focal_loss(logits, torch.ones_like(logits))
    outside = binary_focal_loss(-logits, torch.zeros_like(logits))
    torch.testing.assert_close(inside, outside)
    assert binary_focal_loss(torch.full((1, 1, 1, 1, 1), -30.0), torch.zeros(1, 1, 1, 1, 1)).item() < 1e-6


def test_binary_dice_pools_rows():
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4]]).logit().view(2, 1, 1, 1, 2)
    target = torch.tensor([[True, False], [False, False]]).view(2, 1, 1, 1, 2)
    # TP .8, FP .2 + .6 + .4, FN .2, a .8: .8 / (.8 + .96 + .04) = 4/9.
    assert binary_adaptive_dice_loss(logits, target).item() == pytest.approx(5 / 9)


@pytest.mark.parametrize("loss", [binary_focal_loss, binary_adaptive_dice_loss])
def test_binary_losses_of_degenerate_rows(loss):
    empty = torch.zeros(0, 1, 2, 3, 4, requires_grad=True)
    value = loss(empty, torch.zeros(0, 1, 2, 3, 4))
    value.backward()
    assert value.item() == 0
    extreme = torch.tensor([1e4, -1e4]).view(2, 1, 1, 1, 1).bfloat16().requires_grad_()
    right, wrong = loss(extreme, (extreme > 0)), loss(extreme, (extreme < 0))
    assert right.item() == pytest.approx(0, abs=1e-6)
    assert wrong.item() > 0.9
    (right + wrong).backward()
    assert extreme.grad.isfinite().all()
    nothing_true = loss(torch.full((1, 1, 1, 1, 2), -40.0), torch.zeros(1, 1, 1, 1, 2))
    assert nothing_true.item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_voxels_do_not_count(mode):
    """Whatever is predicted there, the loss and its gradient are those of the other voxels."""
    loss = SegmentationLoss(focal_alpha=ALPHA, missing_contours=mode)
    logits, label, present = random_batch()
    unknown = torch.zeros_like(label, dtype=torch.bool)
    unknown[0, 1], unknown[1, :, 4] = True, True
    label[unknown] = UNKNOWN_LABEL
    changed = torch.where(unknown[:, None], 3 * logits.flip(1), logits)
    results = []
    for values in (logits, changed):
        values = values.clone().requires_grad_()
        terms = loss(values, label, present)
        terms.total.backward()
        assert not values.grad.movedim(1, -1)[unknown].any()
        results.append(terms)
    assert torch.equal(torch.stack(results[0]), torch.stack(results[1]))


def test_loss_beside_an_unknown_voxel_by_hand():
    """Two voxels, one of them unknown: its share of the mean is 0, and Dice is that of the other."""
    loss = SegmentationLoss(focal_alpha=(0.5, 2.0), missing_contours="marginal")
    terms = loss(logits_of([0.2, 0.8], [0.4, 0.6]), row(1, UNKNOWN_LABEL), torch.tensor([[True]]))
    assert terms.focal.item() == pytest.approx(2.0 * 0.2**2 * -math.log(0.8) / 2, rel=1e-5)
    false_negative, weight = 0.2, 0.2
    assert terms.dice.item() == pytest.approx(1 - 0.8 / (0.8 + (1 - weight) * false_negative), rel=1e-5)

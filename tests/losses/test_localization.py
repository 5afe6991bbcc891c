import pytest
import torch

from losses.localization import heatmap_loss


def two_channels():
    """Batch 2, two organs, one row of two voxels; every heatmap is (0.5, 0.5), every target (1, 0)."""
    heatmaps = torch.full((2, 2, 1, 1, 2), 0.5)
    targets = torch.zeros(2, 2, 1, 1, 2)
    targets[..., 0] = 1.0
    return heatmaps, targets


def test_worked_by_hand():
    heatmaps, targets = two_channels()
    known = torch.ones(2, 2, dtype=torch.bool)
    assert heatmap_loss(heatmaps, targets, known).item() == pytest.approx(0.25)
    # The peak's voxel weighs 4, the other 1: (4 * .25 + .25) / 2.
    assert heatmap_loss(heatmaps, targets, known, peak_weight=3.0).item() == pytest.approx(0.625)


def test_plain_loss_is_mean_squared_error():
    heatmaps, targets = torch.rand(2, 3, 4, 5, 6), torch.rand(2, 3, 4, 5, 6)
    loss = heatmap_loss(heatmaps, targets, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(heatmaps, targets))


def test_unknown_channels_do_not_count():
    heatmaps, targets = two_channels()
    heatmaps[0, 1], heatmaps[1, 0] = 1.0, targets[1, 0]
    heatmaps.requires_grad_()
    known = torch.tensor([[True, False], [True, True]])
    loss = heatmap_loss(heatmaps, targets, known)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 0 + 0.25) / 3)
    assert torch.equal(heatmaps.grad[0, 1], torch.zeros(1, 1, 2))
    assert heatmaps.grad[0, 0].abs().min() > 0


def test_nothing_known_gives_zero_with_a_graph():
    heatmaps, targets = two_channels()
    heatmaps.requires_grad_()
    loss = heatmap_loss(heatmaps, targets, torch.zeros(2, 2, dtype=torch.bool), peak_weight=10.0)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(heatmaps.grad, torch.zeros_like(heatmaps))


def test_loss_of_zero_heatmaps():
    """The numbers that the docstring names."""
    z, y, x = torch.meshgrid(torch.arange(40), torch.arange(192), torch.arange(192), indexing="ij")
    square_distance = (z - 20) ** 2 + (y - 90) ** 2 + (x - 100) ** 2
    target = torch.exp(-square_distance / (2 * 5**2)) * ((z - 20).abs() <= 1)
    target[target < 0.01] = 0
    target, known = target[None, None], torch.tensor([[True]])
    plain = heatmap_loss(torch.zeros_like(target), target, known).item()
    weighted = heatmap_loss(torch.zeros_like(target), target, known, peak_weight=1000.0).item()
    assert plain == pytest.approx(1.6e-4, rel=0.05)
    assert (weighted - plain) / 1000 == pytest.approx(1.0e-4, rel=0.05)


def test_computes_in_float32():
    heatmaps, targets = two_channels()
    known = torch.ones(2, 2, dtype=torch.bool)
    loss = heatmap_loss(heatmaps.bfloat16(), targets.bfloat16(), known)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.25)


def test_rejects_shapes_that_do_not_match():
    heatmaps, targets = two_channels()
    with pytest.raises(ValueError, match="known"):
        heatmap_loss(heatmaps, targets[:, :1], torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="known"):
        heatmap_loss(heatmaps, targets, torch.ones(2, dtype=torch.bool))

"""Tests of models/sol_net.py."""

import pytest
import torch

from models.sol_net import SOLNet


def test_sol_net_has_the_reference_parameters():
    network = SOLNet(in_channels=32, num_organs=3)

    assert sum(parameter.numel() for parameter in network.parameters()) == 55_523


def test_sol_net_starts_near_the_background():
    torch.manual_seed(0)

    heatmaps = SOLNet(in_channels=32, num_organs=3)(torch.randn(2, 32, 4, 9, 11))

    assert heatmaps.shape == (2, 3, 4, 9, 11)
    assert heatmaps.median().item() == pytest.approx(0.01, rel=0.5)
    assert heatmaps.max() < 0.2


def test_sol_net_heat_is_the_sigmoid_of_its_head():
    network = SOLNet(in_channels=8, num_organs=2).eval()
    torch.nn.init.zeros_(network.head.weight)
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([0.0, 100.0]))

    heatmaps = network(torch.randn(1, 8, 2, 3, 4))

    assert torch.equal(heatmaps[:, 0], torch.full((1, 2, 3, 4), 0.5))
    assert torch.equal(heatmaps[:, 1], torch.ones(1, 2, 3, 4))


def test_sol_net_batched_equals_one_by_one():
    torch.manual_seed(0)
    network = SOLNet(in_channels=8, num_organs=2).eval()
    features = torch.randn(2, 8, 3, 5, 7)

    torch.testing.assert_close(network(features), torch.cat([network(sample[None]) for sample in features]))


def test_sol_net_heatmaps_are_float32_under_autocast():
    torch.manual_seed(0)
    network = SOLNet(in_channels=8, num_organs=2).eval().to(memory_format=torch.channels_last_3d)
    features = torch.randn(2, 8, 3, 5, 7).to(memory_format=torch.channels_last_3d)
    expected = network(features)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        heatmaps = network(features)

    assert heatmaps.dtype == torch.float32
    torch.testing.assert_close(heatmaps, expected, rtol=0.1, atol=1e-3)

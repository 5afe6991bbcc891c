"""Tests of models/s_net.py."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models.blocks
import models.layers
import models.s_net
from models.layers import InPlaceReLU
from models.s_net import SNet, feature_channels


def test_s_net_has_the_reference_parameters_and_operations():
    with torch.device("meta"):
        network = SNet(num_classes=10)
        with FlopCounterMode(display=False) as counter:
            output = network(torch.empty(1, 1, 40, 192, 192))

    assert sum(parameter.numel() for parameter in network.parameters()) == 1_963_114
    assert round(counter.get_total_flops() / 1e9, 2) == 1031.77
    assert output.logits.shape == (1, 10, 40, 192, 192)
    assert output.features.shape[1] == output.stem.shape[1] == feature_channels(1.0) == 32


@pytest.mark.parametrize("size", [(4, 8, 12), (5, 11, 18), (1, 7, 6)])
def test_s_net_keeps_any_size(size):
    network = SNet(num_classes=4, in_channels=2, width=0.25)

    output = network(torch.randn(2, 2, *size))

    assert feature_channels(0.25) == 8
    assert output.logits.shape == (2, 4, *size)
    assert output.features.shape == output.stem.shape == (2, 8, *size)


def test_s_net_batched_equals_one_by_one():
    torch.manual_seed(0)
    network = SNet(num_classes=3, width=0.25).eval()
    images = torch.randn(2, 1, 3, 8, 10)

    batched = network(images)
    one_by_one = [network(image[None]) for image in images]

    for field, fields in zip(batched, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(field, torch.cat(fields), rtol=1e-4, atol=1e-4)


def test_s_net_learns_as_without_checkpointing_and_in_place_relu(monkeypatch):
    torch.manual_seed(0)
    network = SNet(num_classes=3, width=0.25)
    plain = copy.deepcopy(network)
    image = torch.randn(2, 1, 3, 8, 10)

    network(image).logits.square().sum().backward()
    for module in (models.blocks, models.layers, models.s_net):
        monkeypatch.setattr(module, "checkpoint_activations", lambda module, forward, features: forward(features))
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if isinstance(child, InPlaceReLU):
                setattr(module, name, nn.ReLU())
    plain(image).logits.square().sum().backward()

    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)
    for name, value in plain.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert network.stem[2].residual[0][0].num_batches_tracked == 1
    assert {norm.momentum for norm in network.modules() if isinstance(norm, nn.BatchNorm3d)} == {0.1}


def test_s_net_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    network = SNet(num_classes=3, width=0.25)

    network(torch.randn(2, 1, 4, 12, 16)).logits.square().sum().backward()

    assert all(parameter.grad is not None for parameter in network.parameters())


def test_s_net_runs_in_bfloat16_and_channels_last():
    torch.manual_seed(0)
    network = SNet(num_classes=3, width=0.25).eval()
    image = torch.randn(2, 1, 3, 8, 10)
    expected = network(image).logits

    network.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image.to(memory_format=torch.channels_last_3d))

    assert output.logits.dtype == torch.bfloat16
    error = (output.logits.float() - expected).norm() / expected.norm()
    assert error < 0.03


@pytest.mark.slow
def test_compiled_s_net_learns_like_the_eager_one():
    """With the backend that traces as --compile does, but generates no code: compilation would take a minute."""
    torch.manual_seed(0)
    eager = SNet(num_classes=3, width=0.25)
    network = copy.deepcopy(eager)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    image = torch.randn(2, 1, 3, 8, 10)

    expected, output = eager(image), compiled(image)
    for logits in (expected.logits, output.logits):
        logits.square().mean().backward()

    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
    for (name, parameter), own in zip(network.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, own.grad, rtol=1e-3, atol=1e-5, msg=name)
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)

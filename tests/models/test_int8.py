"""models/int8.py: 8-bit convolutions agree with floating-point ones up to rounding."""

import copy

import pytest
import torch
from torch import nn

from models.blocks import PreActConv3d
from models.focusnet import FocusNet, build_network
from models.int8 import (
    MAX_ACTIVATION,
    NUM_DEVIATIONS,
    Int8Conv3d,
    Int8Convolutions,
    QuantizedNorm,
    channel_ranges,
    quantize_convolutions,
)
from utils.config.preset import load_preset
from utils.runtime.device import computes_int8

pytestmark = pytest.mark.skipif(not computes_int8(), reason="this CPU has no VNNI instructions")


def randomize_norms(network, run):
    """Give the norms of a network random weights and biases, and the statistics of a run."""
    for norm in (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm3d)):
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    with torch.no_grad():
        run()
    return network.eval()


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_norm_rounds_to_each_channels_range():
    norm = nn.BatchNorm3d(2).eval()  # y = x, up to eps
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    assert channel_ranges(norm).tolist() == [NUM_DEVIATIONS, 2 * NUM_DEVIATIONS]
    step = NUM_DEVIATIONS / MAX_ACTIVATION
    values = torch.tensor([-1.0, 0.0, 0.4, 0.6, 3.4, 254.7, 1000.0]) * step

    quantized = QuantizedNorm(norm).eval()(values.expand(1, 2, 1, 1, 7))

    assert quantized.dtype == torch.uint8
    assert quantized[0, :, 0, 0].tolist() == [[0, 0, 0, 1, 3, 255, 255]] * 2


def test_channel_that_is_never_positive_stays_zero():
    norm = nn.BatchNorm3d(1).eval()
    nn.init.constant_(norm.bias, -100)
    assert channel_ranges(norm) > 0
    assert not QuantizedNorm(norm).eval()(torch.randn(1, 1, 2, 3, 4)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolution_by_hand(dtype):
    norm = nn.BatchNorm3d(2)
    conv = nn.Conv3d(2, 1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([127.0, -64.0]).view(1, 2, 1, 1, 1))  # exact in 8 bits
        conv.bias.fill_(3)
    steps = torch.tensor([[10, 200], [20, 100]], dtype=torch.uint8).view(1, 2, 1, 1, 2)

    found = Int8Conv3d(conv, norm)(steps, dtype)

    step = NUM_DEVIATIONS / MAX_ACTIVATION
    expected = [(127 * 10 - 64 * 20) * step + 3, (127 * 200 - 64 * 100) * step + 3]
    assert found.dtype == dtype
    torch.testing.assert_close(found.flatten().float(), torch.tensor(expected), rtol=4e-3, atol=1e-3)


def test_convolution_before_a_norm_returns_uint8_after_relu():
    norm, following = nn.BatchNorm3d(1), nn.BatchNorm3d(3).eval()
    conv = nn.Conv3d(1, 3, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([1.0, -1.0, 100.0]).view(3, 1, 1, 1, 1))
    steps = torch.full((1, 1, 1, 1, 1), 50, dtype=torch.uint8)

    found = Int8Conv3d(conv, norm, following)(steps, torch.float32)

    assert found.dtype == torch.uint8
    assert found.flatten().tolist() == [50, 0, 255]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_consecutive_layers_agree_with_floating_point(count, dtype):
    torch.manual_seed(0)
    channels = [16, 24, 8, 16]
    layers = nn.Sequential(
        *(PreActConv3d(channels[i], channels[i + 1], (1, 3, 3), dilation=(1, 2, 2), bias=i == 1) for i in range(count))
    )
    features = torch.randn(2, 16, 3, 9, 11)
    randomize_norms(layers, lambda: layers(features))
    with torch.no_grad():
        expected = layers(features)
        found = Int8Convolutions(layers)(features.to(dtype))

    assert found.dtype == dtype
    assert relative_error(found.float(), expected) < 0.06


@pytest.mark.slow
def test_all_networks_are_quantized_and_agree():
    torch.manual_seed(0)
    preset = load_preset("phantom", ["networks.sos_input=image"])  # SOS-Net's input is then the same
    network = FocusNet(preset, **{name: build_network(name, preset) for name in ("s_net", "sol_net", "sos_net")})
    image = torch.randn(1, 1, *preset.grid.crop_size_vox)
    centers = torch.tensor(preset.grid.crop_size_vox) // 2
    wanted = torch.ones(1, len(preset.small_organs), dtype=torch.bool)
    rois = network.select_rois(centers.expand(1, wanted.shape[1], 3), wanted, image.shape[2:])

    def run(network):
        output = network.localize(image)
        return output, network.segment_rois(image, output, rois)

    quantized = copy.deepcopy(randomize_norms(network, lambda: run(network)))
    quantize_convolutions(quantized)
    with torch.no_grad():
        exact, exact_rois = run(network)
        output, found_rois = run(quantized)

    kinds = [type(layer) for layer in quantized.modules()]
    assert PreActConv3d not in kinds
    assert kinds.count(Int8Convolutions) < kinds.count(Int8Conv3d)  # pairs were joined
    assert not any(layer.training for layer in quantized.modules())
    for found, expected in ((output.logits, exact.logits), (found_rois, exact_rois)):
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 0.15
    assert relative_error(output.heatmaps, exact.heatmaps) < 0.15
    label = output.logits.argmax(dim=1)
    assert (label == exact.logits.argmax(dim=1)).float().mean() > 0.9

"""Tests of models/blocks.py."""

import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.blocks import DenseASPP, PreActConv3d, SEResidualBlock, SqueezeExcite, UpBlock, make_divisible


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (48, 1.0, 48), (32, 2.0, 64), (48, 0.25, 16), (24, 0.25, 8), (64, 0.01, 8), (48, 0.75, 40)],
)
def test_make_divisible_gives_multiples_of_eight(channels, width, expected):
    assert make_divisible(channels, width) == expected


class CountedCalls(TorchDispatchMode):
    """Counts the calls of each of torch's operations, by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_pre_act_convolution_learns_as_without_checkpointing():
    torch.manual_seed(0)
    ours = PreActConv3d(4, 6, (3, 3, 3), bias=True)
    nn.init.normal_(ours[0].weight)
    plain = nn.Sequential(nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 6, 3, padding=1))
    plain.load_state_dict(ours.state_dict())
    volumes = [torch.randn(2, 4, 3, 5, 6) for _ in range(2)]
    gradients = {}
    for name, block in (("ours", ours), ("plain", plain)):
        inputs = [volume.clone().requires_grad_() for volume in volumes]
        for volume in inputs:
            block(volume).square().sum().backward()
        gradients[name] = [tensor.grad for tensor in (*inputs, *block.parameters())]

    torch.testing.assert_close(gradients["ours"], gradients["plain"])
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=0, atol=0)
    assert ours[0].momentum == plain[0].momentum


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pre_act_convolution_saves_its_input_only_and_convolves_once(dtype, saved_tensors):
    block = PreActConv3d(4, 6, (3, 3, 3))
    volume = torch.randn(1, 4, 3, 5, 6, dtype=dtype, requires_grad=True)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)

    with saved_tensors() as saved, CountedCalls() as calls:
        with autocast:
            convolved = block(volume)
        convolved.sum().backward()

    assert [x.shape for x in saved if x.numel() >= volume.numel() and x is not volume] == []
    convolutions = sum(calls.counts.get(name, 0) for name in ("convolution", "mkldnn_convolution"))
    assert convolutions == (2 if dtype == torch.float32 else 1)  # in float32 the volume's gradient is one too
    assert calls.counts["native_batch_norm"] == 2


def test_squeeze_excite_gates_channels_by_their_means():
    block = SqueezeExcite(2, reduction=2)
    squeeze, _, excite, _ = block.gate
    with torch.no_grad():
        squeeze.weight.copy_(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1))  # hidden = mean of channel 0
        excite.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1))
        excite.bias.zero_()
    features = torch.ones(2, 2, 2, 3, 4)
    features[0, 0, 0] = 3.0  # sample 0: mean (3 + 1) / 2 = 2; sample 1: mean 1

    weighted = block(features)

    gates = [[1 / (1 + math.exp(-mean)), 1 / (1 + math.exp(mean))] for mean in (2.0, 1.0)]
    torch.testing.assert_close(weighted, features * torch.tensor(gates).view(2, 2, 1, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_squeeze_excite_keeps_the_dtype_under_autocast(dtype):
    features = torch.ones(1, 8, 2, 3, 4, dtype=dtype)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert SqueezeExcite(8, reduction=4)(features).dtype == dtype


def test_residual_block_adds_the_identity():
    torch.manual_seed(0)
    block = SEResidualBlock(8, 8).eval()
    torch.nn.init.zeros_(block.residual[1][2].weight)  # the residual's second convolution
    features = torch.randn(2, 8, 3, 4, 5)

    torch.testing.assert_close(block(features), features)


def test_residual_block_projects_the_shortcut_where_channels_change():
    torch.manual_seed(0)
    block = SEResidualBlock(8, 16, kernel_size=(1, 3, 3), reduction=4, dilation=(1, 2, 2)).eval()

    assert block(torch.randn(2, 8, 3, 4, 5)).shape == (2, 16, 3, 4, 5)
    assert block.shortcut[2].weight.shape == (16, 8, 1, 1, 1)
    assert block.residual[0][2].dilation == (1, 1, 1)
    assert block.residual[1][2].dilation == (1, 2, 2)


def test_dense_aspp_puts_the_newest_branch_first_and_the_input_last():
    torch.manual_seed(0)
    aspp = DenseASPP(8, growth_rate=4, dilations=(3, 5)).eval()
    features = torch.randn(2, 8, 2, 7, 9)

    result = aspp(features)

    oldest = aspp.branches[0](features)
    assert result.shape == (2, aspp.out_channels, 2, 7, 9)
    assert aspp.out_channels == 16
    torch.testing.assert_close(result[:, 4:], torch.cat([oldest, features], dim=1))


def test_dense_aspp_dilates_in_plane_only():
    aspp = DenseASPP(1, growth_rate=1, dilations=(3,)).eval()
    for parameter in aspp.parameters():
        torch.nn.init.constant_(parameter, 1.0)  # all ReLUs open
    features = torch.ones(1, 1, 5, 9, 9, requires_grad=True)

    aspp(features)[0, 0, 2, 4, 4].backward()

    expected = torch.zeros(5, 9, 9, dtype=torch.bool)
    expected[1:4, 1:8:3, 1:8:3] = True
    assert torch.equal(features.grad[0, 0] > 0, expected)


def test_up_block_has_the_size_of_the_encoder_level():
    block = UpBlock(24, 16, 8)

    assert block(torch.zeros(2, 24, 2, 3, 4), torch.zeros(2, 16, 3, 5, 7)).shape == (2, 8, 3, 5, 7)

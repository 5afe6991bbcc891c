"""Tests of models/blocks.py."""

import math
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.blocks import (
    DenseASPP,
    InPlaceReLU,
    MaxPoolBy2,
    PreActConv3d,
    SEResidualBlock,
    SqueezeExcite,
    UpBlock,
    conv3d_he_init,
    global_avg_pool,
    make_divisible,
    relu_,
    relu_backward_,
    upsample_to,
)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(32, 1.0, 32), (48, 1.0, 48), (32, 2.0, 64), (48, 0.25, 16), (24, 0.25, 8), (64, 0.01, 8), (48, 0.75, 40)],
)
def test_scaled_channels_are_multiples_of_eight(channels, width, expected):
    assert make_divisible(channels, width) == expected


def test_upsampling_aligns_corners():
    line = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)

    upsampled = upsample_to(line, (2, 3, 5))

    assert upsampled.shape == (1, 1, 2, 3, 5)
    torch.testing.assert_close(upsampled, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(1, 1, 2, 3, 5))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_gradient_of_upsampled_features_in_a_concatenation(memory_format):
    torch.manual_seed(0)
    lateral = torch.randn(2, 3, 4, 6, 10).contiguous(memory_format=memory_format)
    coarse = torch.randn(2, 5, 2, 3, 5, requires_grad=True)
    weight = torch.randn(2, 8, 4, 6, 10)

    upsampled = upsample_to(coarse.contiguous(memory_format=memory_format), (4, 6, 10))
    (torch.cat([lateral, upsampled], dim=1) * weight).sum().backward()

    expected = coarse.detach().clone().requires_grad_()
    (F.interpolate(expected, size=(4, 6, 10), mode="trilinear", align_corners=True) * weight[:, 3:]).sum().backward()
    torch.testing.assert_close(coarse.grad, expected.grad)


def test_upsampling_in_the_plane_is_trilinear():
    torch.manual_seed(0)
    coarse = torch.randn(2, 5, 4, 3, 5).contiguous(memory_format=torch.channels_last_3d)

    upsampled = upsample_to(coarse, (4, 6, 10))

    expected = F.interpolate(coarse, size=(4, 6, 10), mode="trilinear", align_corners=True)
    torch.testing.assert_close(upsampled, expected)
    assert upsampled.is_contiguous(memory_format=torch.channels_last_3d)


def test_pooling_keeps_single_slices_and_last_voxels():
    volume = torch.arange(15.0).view(1, 1, 1, 3, 5)

    pooled = MaxPoolBy2(pool_z=True)(volume)

    torch.testing.assert_close(pooled, torch.tensor([[6.0, 8.0, 9.0], [11.0, 13.0, 14.0]]).view(1, 1, 1, 2, 3))
    assert MaxPoolBy2(pool_z=False)(torch.zeros(1, 1, 5, 6, 8)).shape == (1, 1, 5, 3, 4)


def test_pooling_under_autocast_keeps_the_dtype_and_finds_maxima_anew():
    torch.manual_seed(0)
    volume = torch.randn(2, 4, 5, 6, 7).bfloat16().requires_grad_()
    pool = MaxPoolBy2(pool_z=True)

    with torch.autocast("cpu", dtype=torch.bfloat16), kept_tensors() as kept:
        pooled = pool(volume)
    pooled.sum().backward()

    found = volume.grad
    volume.grad = None
    plain = F.max_pool3d(volume, 2, ceil_mode=True)
    plain.sum().backward()
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, plain)
    assert torch.equal(found, volume.grad)
    assert all(tensor is volume for tensor in kept)


def test_he_convolution_keeps_or_halves_the_size_and_the_variance():
    torch.manual_seed(0)
    volume = torch.zeros(1, 16, 5, 6, 7)

    conv = conv3d_he_init(16, 32, (3, 3, 3), dilation=(1, 2, 3), bias=True)

    assert conv(volume).shape == (1, 32, 5, 6, 7)
    assert conv3d_he_init(16, 8, (5, 5, 5), stride=2)(volume).shape == (1, 8, 3, 3, 4)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 27)), rel=0.05)
    assert not conv.bias.any()


@contextmanager
def kept_tensors():
    """The list of tensors that are kept for a backward pass."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        yield kept


class CountedCalls(TorchDispatchMode):
    """Counts the operations that torch runs, by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def test_in_place_relu_overwrites_features_and_gradient():
    features = torch.tensor([-1.0, 2.0, 0.0, 3.0], requires_grad=True)
    own = features * 1
    gradient = torch.tensor([10.0, 20.0, 30.0, 40.0])

    rectified = InPlaceReLU()(own)
    rectified.backward(gradient)

    assert rectified.data_ptr() == own.data_ptr()
    assert rectified.tolist() == [0, 2, 0, 3]
    assert features.grad.tolist() == gradient.tolist() == [0, 20, 0, 40]


def test_relu_of_bfloat16_by_its_bits_is_relu_for_every_one():
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    gradient = torch.randn(2**16).bfloat16()

    rectified = relu_(every.clone())
    stopped = relu_backward_(gradient.clone(), rectified)

    expected = torch.relu(every)
    torch.testing.assert_close(rectified, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~every.isnan()
    assert torch.equal(stopped[numbers], torch.where(expected > 0, gradient, 0)[numbers])


def test_pre_activated_convolution_learns_as_if_all_was_kept():
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
def test_pre_activated_convolution_keeps_one_feature_map_and_convolves_once(dtype):
    block = PreActConv3d(4, 6, (3, 3, 3))
    volume = torch.randn(1, 4, 3, 5, 6, dtype=dtype, requires_grad=True)
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)

    with kept_tensors() as kept, CountedCalls() as calls:
        with autocast:
            convolved = block(volume)
        convolved.sum().backward()

    assert [x.shape for x in kept if x.numel() >= volume.numel() and x is not volume] == []
    assert calls.counts["convolution"] == 1
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_spatial_mean_is_the_mean_over_voxels(dtype, memory_format):
    features = torch.randn(2, 5, 9, 120, 110).add(1).to(dtype).contiguous(memory_format=memory_format)
    expected = features.double().mean(dim=(2, 3, 4), keepdim=True)
    found = global_avg_pool(features)
    assert found.dtype == dtype
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-3 * rounding)


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
    aspp = DenseASPP(8, growth=4, dilations=(3, 5)).eval()
    features = torch.randn(2, 8, 2, 7, 9)

    result = aspp(features)

    oldest = aspp.branches[0](features)
    assert result.shape == (2, aspp.out_channels, 2, 7, 9)
    assert aspp.out_channels == 16
    torch.testing.assert_close(result[:, 4:], torch.cat([oldest, features], dim=1))


def test_dense_aspp_dilates_in_plane_only():
    aspp = DenseASPP(1, growth=1, dilations=(3,)).eval()
    for parameter in aspp.parameters():
        torch.nn.init.constant_(parameter, 1.0)  # all ReLUs open
    features = torch.ones(1, 1, 5, 9, 9, requires_grad=True)

    aspp(features)[0, 0, 2, 4, 4].backward()

    expected = torch.zeros(5, 9, 9, dtype=torch.bool)
    expected[1:4, 1:8:3, 1:8:3] = True
    assert torch.equal(features.grad[0, 0] > 0, expected)


def test_decoder_step_takes_the_size_of_the_encoder_level():
    block = UpBlock(24, 16, 8)

    assert block(torch.zeros(2, 24, 2, 3, 4), torch.zeros(2, 16, 3, 5, 7)).shape == (2, 8, 3, 5, 7)

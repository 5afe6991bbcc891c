"""Tests of models/layers.py."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.layers import (
    Conv3d,
    ConvParams,
    InPlaceReLU,
    MaxPoolBy2,
    conv3d_he_init,
    global_avg_pool,
    relu_,
    relu_backward_,
    upsample_to,
    volumes_to_slices,
    weight_gradient,
)

ROOT = Path(__file__).resolve().parents[2]

CONVOLUTIONS = [
    ((4, 5, 7), (3, 3, 3), ConvParams((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ((2, 5, 7), (5, 5, 5), ConvParams((1, 1, 1), (2, 2, 2), (1, 1, 1))),
    ((5, 6, 8), (5, 5, 5), ConvParams((2, 2, 2), (2, 2, 2), (1, 1, 1))),
    ((1, 6, 8), (3, 3, 3), ConvParams((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ((3, 9, 8), (3, 3, 3), ConvParams((1, 1, 1), (1, 3, 3), (1, 3, 3))),
    ((7, 9, 8), (3, 3, 3), ConvParams((1, 2, 1), (2, 1, 1), (2, 1, 1))),
    ((4, 5, 7), (1, 3, 3), ConvParams((1, 1, 1), (0, 1, 1), (1, 1, 1))),
    ((4, 5, 7), (3, 1, 1), ConvParams((3, 1, 1), (0, 0, 0), (1, 1, 1))),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("size", "kernel", "params"), CONVOLUTIONS)
def test_weight_gradient_from_slices_is_that_of_the_volume(size, kernel, params, memory_format):
    torch.manual_seed(0)
    features = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=memory_format)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
    convolved = F.conv3d(features, weight, None, *params)
    gradient = torch.randn_like(convolved)
    convolved.backward(gradient)

    torch.testing.assert_close(weight_gradient(features, gradient, weight.detach(), params), weight.grad)


def test_slices_of_one_channels_last_volume_are_not_copied():
    volume = torch.randn(1, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)

    slices = volumes_to_slices(volume[:, :, 1:3])

    assert torch.equal(slices, volume[0, :, 1:3].transpose(0, 1))
    assert slices.data_ptr() == volume[:, :, 1:].data_ptr()
    assert slices.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("autocast", [False, True])
def test_convolution_learns_like_torchs(autocast):
    torch.manual_seed(0)
    ours = Conv3d(3, 4, (3, 3, 3), padding=1)
    plain = nn.Conv3d(3, 4, (3, 3, 3), padding=1)
    plain.load_state_dict(ours.state_dict())
    volumes = [torch.randn(2, 3, 5, 6, 7, requires_grad=True) for _ in range(2)]
    with torch.no_grad():
        volumes[1].copy_(volumes[0])

    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        convolved = [layer(volume) for layer, volume in zip((ours, plain), volumes, strict=True)]
    for result in convolved:
        result.float().square().sum().backward()

    assert torch.equal(*convolved)
    assert convolved[0].dtype == (torch.bfloat16 if autocast else torch.float32)
    tolerance = {"rtol": 0.02, "atol": 0.2} if autocast else {}
    torch.testing.assert_close(volumes[0].grad, volumes[1].grad, **tolerance)
    for name, weight in ours.named_parameters():
        assert weight.grad.dtype == torch.float32
        torch.testing.assert_close(weight.grad, getattr(plain, name).grad, **tolerance)


LEARN_IN_DIRTY_MEMORY = """
import ctypes, platform
import torch
from models.layers import Conv3d
if platform.libc_ver()[0] == "glibc":
    ctypes.CDLL(None).mallopt(-6, 0x80)  # M_PERTURB: memory that is handed out is full of large numbers
for channels, kernel, size in [(32, 3, (2, 128, 130)), (32, 1, (4, 128, 64)), (24, 5, (4, 32, 32)), (16, 5, (2, 9, 8))]:
    layer = Conv3d(channels, 32, kernel, padding=kernel // 2).to(memory_format=torch.channels_last_3d)
    volume = torch.randn(1, channels, *size).bfloat16().float().contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16())
    gradient = torch.randn(1, 32, *size).bfloat16()
    gradients = []
    for precise in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
            convolved = layer(volume)
        gradients.append(torch.autograd.grad(convolved, layer.weight, gradient.to(convolved.dtype))[0])
    error = (gradients[1] - gradients[0]).abs().max() / gradients[0].abs().max()
    assert error < 0.01, (channels, kernel, size, error)
"""


@pytest.mark.slow
def test_weight_gradients_of_few_wide_slices_in_bfloat16_equal_those_of_float32():
    finished = subprocess.run(
        [sys.executable, "-c", LEARN_IN_DIRTY_MEMORY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )

    assert finished.returncode == 0, finished.stderr  # nn.Conv3d crashes or hangs here where the CPU has AMX


def test_upsampling_aligns_corners():
    line = torch.tensor([0.0, 1.0]).view(1, 1, 1, 1, 2)

    upsampled = upsample_to(line, (2, 3, 5))

    assert upsampled.shape == (1, 1, 2, 3, 5)
    torch.testing.assert_close(upsampled, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).expand(1, 1, 2, 3, 5))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_gradient_of_upsampled_features_in_a_concatenation(memory_format):
    torch.manual_seed(0)
    skip = torch.randn(2, 3, 4, 6, 10).contiguous(memory_format=memory_format)
    coarse = torch.randn(2, 5, 2, 3, 5, requires_grad=True)
    weight = torch.randn(2, 8, 4, 6, 10)

    upsampled = upsample_to(coarse.contiguous(memory_format=memory_format), (4, 6, 10))
    (torch.cat([skip, upsampled], dim=1) * weight).sum().backward()

    expected = coarse.detach().clone().requires_grad_()
    (F.interpolate(expected, size=(4, 6, 10), mode="trilinear", align_corners=True) * weight[:, 3:]).sum().backward()
    torch.testing.assert_close(coarse.grad, expected.grad)


def test_upsampling_by_slices_equals_trilinear():
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


def test_pooling_under_autocast_keeps_the_dtype_and_recomputes_the_maxima(saved_tensors):
    torch.manual_seed(0)
    volume = torch.randn(2, 4, 5, 6, 7).bfloat16().requires_grad_()
    pool = MaxPoolBy2(pool_z=True)

    with torch.autocast("cpu", dtype=torch.bfloat16), saved_tensors() as saved:
        pooled = pool(volume)
    pooled.sum().backward()

    found = volume.grad
    volume.grad = None
    plain = F.max_pool3d(volume, 2, ceil_mode=True)
    plain.sum().backward()
    assert pooled.dtype == torch.bfloat16
    assert torch.equal(pooled, plain)
    assert torch.equal(found, volume.grad)
    assert all(tensor is volume for tensor in saved)


def test_he_convolution_keeps_or_halves_the_size_and_the_variance():
    torch.manual_seed(0)
    volume = torch.zeros(1, 16, 5, 6, 7)

    conv = conv3d_he_init(16, 32, (3, 3, 3), dilation=(1, 2, 3), bias=True)

    assert conv(volume).shape == (1, 32, 5, 6, 7)
    assert conv3d_he_init(16, 8, (5, 5, 5), stride=2)(volume).shape == (1, 8, 3, 3, 4)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 27)), rel=0.05)
    assert not conv.bias.any()


def test_in_place_relu_overwrites_features_and_gradient():
    features = torch.tensor([-1.0, 2.0, 0.0, 3.0], requires_grad=True)
    own = features * 1
    gradient = torch.tensor([10.0, 20.0, 30.0, 40.0])

    output = InPlaceReLU()(own)
    output.backward(gradient)

    assert output.data_ptr() == own.data_ptr()
    assert output.tolist() == [0, 2, 0, 3]
    assert features.grad.tolist() == gradient.tolist() == [0, 20, 0, 40]


def test_relu_by_bits_equals_relu_for_every_bfloat16():
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    gradient = torch.randn(2**16).bfloat16()

    output = relu_(every.clone())
    passed = relu_backward_(gradient.clone(), output)

    expected = torch.relu(every)
    torch.testing.assert_close(output, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~every.isnan()
    assert torch.equal(passed[numbers], torch.where(expected > 0, gradient, 0)[numbers])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_global_avg_pool_is_the_mean_over_voxels(dtype, memory_format):
    features = torch.randn(2, 5, 9, 120, 110).add(1).to(dtype).contiguous(memory_format=memory_format)
    expected = features.double().mean(dim=(2, 3, 4), keepdim=True)
    found = global_avg_pool(features)
    assert found.dtype == dtype
    rounding = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(found.double(), expected, rtol=rounding, atol=1e-3 * rounding)

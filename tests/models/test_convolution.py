"""Tests of models/convolution.py."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.convolution import (
    Conv3d,
    ConvParams,
    conv3d_he_init,
    features_gradient,
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


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "kernel", "params"), CONVOLUTIONS)
def test_features_gradient_is_torchs(size, kernel, params, dtype, memory_format):
    torch.manual_seed(0)
    features = torch.randn(2, 3, *size, dtype=dtype).contiguous(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, 3, *kernel, dtype=dtype)
    convolved = F.conv3d(features, weight, None, *params)
    gradient = torch.randn_like(convolved)
    convolved.backward(gradient)

    found = features_gradient(features.detach(), gradient, weight, params)

    torch.testing.assert_close(found, features.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize(("kernel", "dilation", "channels"), [(3, 1, 32), (3, 6, 32), (1, 1, 32), (1, 1, 2)])
def test_small_features_and_pointwise_kernels_are_convolved_by_onednn(kernel, dilation, channels):
    layer = Conv3d(channels, 16, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    volume = torch.randn(1, channels, 16, 9, 7, requires_grad=True)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(volume).sum().backward()
        with torch.no_grad():
            layer(volume)

    operations = [event.name for event in profile.events()]
    assert not [name for name in operations if "slow_conv" in name]
    assert operations.count("aten::mkldnn_convolution") >= 3  # forward, gradient of the volume, forward


def test_convolution_of_no_volumes_is_empty():
    volumes = torch.zeros(0, 3, 4, 5, 6, requires_grad=True)
    layer = Conv3d(3, 4, 3, padding=1)

    layer(volumes).sum().backward()

    assert layer(volumes).shape == (0, 4, 4, 5, 6)
    assert not layer.weight.grad.any()


def test_convolution_of_constants_has_weight_gradients_only():
    layer = Conv3d(3, 4, 3, padding=1)

    layer(torch.ones(1, 3, 4, 5, 6)).sum().backward()

    assert layer.weight.grad.any()
    assert layer.bias.grad.tolist() == [120] * 4


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

    torch.testing.assert_close(*convolved)
    assert convolved[0].dtype == (torch.bfloat16 if autocast else torch.float32)
    tolerance = {"rtol": 0.02, "atol": 0.2} if autocast else {}
    torch.testing.assert_close(volumes[0].grad, volumes[1].grad, **tolerance)
    for name, weight in ours.named_parameters():
        assert weight.grad.dtype == torch.float32
        torch.testing.assert_close(weight.grad, getattr(plain, name).grad, **tolerance)


LEARN_IN_DIRTY_MEMORY = """
import ctypes, platform
import torch
from models.convolution import Conv3d
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
        encoding="utf-8",
        check=False,
        timeout=120,
    )

    assert finished.returncode == 0, finished.stderr  # nn.Conv3d crashes or hangs here where the CPU has AMX


def test_he_convolution_keeps_or_halves_the_size_and_the_variance():
    torch.manual_seed(0)
    volume = torch.zeros(1, 16, 5, 6, 7)

    conv = conv3d_he_init(16, 32, (3, 3, 3), dilation=(1, 2, 3), bias=True)

    assert conv(volume).shape == (1, 32, 5, 6, 7)
    assert conv3d_he_init(16, 8, (5, 5, 5), stride=2)(volume).shape == (1, 8, 3, 3, 4)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (16 * 27)), rel=0.05)
    assert not conv.bias.any()

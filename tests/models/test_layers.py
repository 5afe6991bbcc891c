"""Tests of models/layers.py."""

import pytest
import torch
import torch.nn.functional as F

from models.layers import InPlaceReLU, MaxPoolBy2, global_avg_pool, relu_, relu_backward_, upsample_to


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

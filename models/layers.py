"""Layers that compute the same as torch's, but faster and in less memory, and correctly in bfloat16 on CPUs.

docs/performance.md tells how much each of them gains. Under torch.compile they fall back to torch's own operations.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.activation_checkpointing import checkpoint_activations

Triple = tuple[int, int, int]


class ConvParams(NamedTuple):
    """Parameters of a 3D convolution besides its weights; each is (z, y, x), in voxels."""

    stride: Triple
    padding: Triple
    dilation: Triple


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that assembles its weight gradient from 2D convolutions in bfloat16 on CPUs.

    The 3D weight gradient of torch 2.13 (oneDNN 3.12) is wrong there. On CPUs with AMX it writes past its buffers when
    a volume has few slices for their size: training crashes, hangs or learns from noise. On CPUs without AMX it adds
    uninitialized memory when the volume has at least two slices, but fewer than the kernel. The 2D gradient is correct
    in all of these cases and as fast: docs/performance.md. Under torch.compile the 3D gradient is used, which
    utils/training/run.py therefore refuses in bfloat16 on CPUs.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, D, H, W), floating point, to (B, out_channels, D', H', W')."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not _computes_bf16_on_cpu(features):
            return super().forward(features)
        params = ConvParams(self.stride, self.padding, self.dilation)
        features, weight = features.bfloat16(), self.weight.bfloat16()
        bias = None if self.bias is None else self.bias.bfloat16()
        weight_path = _WeightPath.apply(features.detach(), weight, bias, params)
        constant_bias = None if bias is None else bias.detach()
        convolved = F.conv3d(features, weight.detach(), constant_bias, *params)
        return _JoinPaths.apply(convolved, weight_path)


def _computes_bf16_on_cpu(features: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else features.dtype
    return features.device.type == "cpu" and dtype == torch.bfloat16


class _WeightPath(torch.autograd.Function):
    """Zeros in the shape of a convolution's output, whose gradient becomes that of the weights and the bias.

    They take no memory. They are computed before the convolution: a checkpoint stops its recomputation as soon as it
    has the tensors saved here, so that the convolution is not computed twice.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, params: ConvParams) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.params, ctx.has_bias = params, bias is not None
        extents = zip(features.shape[2:], weight.shape[2:], *params, strict=True)
        size = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, pad, dilation in extents]
        return features.new_zeros(()).expand(len(features), len(weight), *size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        # The gradient of one input of a concatenation is not contiguous.
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)
        bias_gradient = gradient.sum(dim=(0, 2, 3, 4)) if ctx.has_bias else None
        return None, weight_gradient(features, gradient, weight, ctx.params), bias_gradient, None


class _JoinPaths(torch.autograd.Function):
    """Returns a convolution's output; its gradient goes both to the features and to `_WeightPath`."""

    @staticmethod
    def forward(ctx: Any, convolved: Tensor, weight_path: Tensor) -> Tensor:
        ctx.mark_dirty(convolved)
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


def weight_gradient(features: Tensor, gradient: Tensor, weight: Tensor, params: ConvParams) -> Tensor:
    """Weight gradient of a 3D convolution; each z position of the kernel takes one 2D convolution over slices.

    Args:
        features: (B, C, D, H, W), the convolution's input.
        gradient: (B, C', D', H', W'), of its output.
        weight: (C', C, d, h, w), as the result; only its shape and dtype are used.
        params: of the convolution.
    """
    (stride, *in_plane_stride), (padding, *in_plane_padding), (dilation, *in_plane_dilation) = params
    kernel = weight[:, :, 0]  # (C', C, h, w)
    num_input_slices, num_output_slices = features.shape[2], gradient.shape[2]
    slices = []
    for tap in range(weight.shape[2]):
        shift = tap * dilation - padding  # output slice i reads input slice i * stride + shift
        first = max(0, -(shift // stride))
        stop = min(num_output_slices, (num_input_slices - 1 - shift) // stride + 1)
        if first >= stop:
            slices.append(torch.zeros_like(kernel))
            continue
        read = features[:, :, first * stride + shift : (stop - 1) * stride + shift + 1 : stride]
        pair = volumes_to_slices(gradient[:, :, first:stop]), volumes_to_slices(read)
        in_plane = (in_plane_stride, in_plane_padding, in_plane_dilation, False, [0, 0], 1)
        weight_only = [False, True, False]
        slices.append(torch.ops.aten.convolution_backward(*pair, kernel, None, *in_plane, weight_only)[1])
    return torch.stack(slices, dim=2)


def volumes_to_slices(volumes: Tensor) -> Tensor:
    """Reshape (B, C, D, H, W) to (B * D, C, H, W), channels-last; a single channels-last volume is not copied."""
    return volumes.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)


def conv3d_he_init(
    in_channels: int,
    out_channels: int,
    kernel_size: Triple,
    *,
    stride: int = 1,
    dilation: Triple = (1, 1, 1),
    bias: bool = False,
) -> Conv3d:
    """Build a padded convolution with He initialization, for convolutions that feed a ReLU.

    Args:
        in_channels, out_channels: of the convolution.
        kernel_size: odd extents (z, y, x).
        stride: along all axes; 1 keeps the size, 2 halves it and rounds up.
        dilation: spacing of the kernel's taps (z, y, x), in voxels.
        bias: whether to add one, initially zero.
    """
    padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel_size, strict=True))
    conv = Conv3d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class InPlaceReLU(nn.ReLU):
    """ReLU that overwrites its input, and in the backward pass the gradient of its output.

    The output must therefore have one consumer that creates its gradient and does not keep it, as a convolution does,
    or several consumers, whose gradients torch adds into a new tensor.
    """

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Set negative values of any shape, floating point, to 0."""
        return super().forward(features) if torch.compiler.is_compiling() else _InPlaceReLU.apply(features)


class _InPlaceReLU(torch.autograd.Function):
    """ReLU in place whose backward pass is in place too; torch's is not."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.mark_dirty(features)
        ctx.save_for_backward(relu_(features))
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return relu_backward_(gradient, *ctx.saved_tensors)


def relu_(features: Tensor) -> Tensor:
    """Apply ReLU in place; bfloat16 on CPUs is read as int16, which takes a quarter of the time.

    A bfloat16 and its bits read as int16 have the same sign. Negative numbers map to -32768..-128; NaNs with the sign
    bit set map above -128 and are unchanged.
    """
    if features.dtype == torch.bfloat16 and features.device.type == "cpu":
        F.threshold_(features.view(torch.int16), -128, 0)
        return features
    return features.relu_()


def relu_backward_(gradient: Tensor, output: Tensor) -> Tensor:
    """Set the gradient to 0 in place wherever the output of `relu_` is not positive; bfloat16 as there."""
    values = gradient, output
    if gradient.dtype == torch.bfloat16 and gradient.device.type == "cpu":
        values = gradient.view(torch.int16), output.view(torch.int16)
    torch.ops.aten.threshold_backward.grad_input(*values, 0, grad_input=values[0])
    return gradient


class MaxPoolBy2(nn.MaxPool3d):
    """Max-pooling by two, in-plane and, with `pool_z`, along z.

    Odd sizes are rounded up: no voxel is left out, and a single slice stays a single slice.
    """

    def __init__(self, *, pool_z: bool):
        super().__init__((2, 2, 2) if pool_z else (1, 2, 2), ceil_mode=True)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, D, H, W) to (B, C, D or D/2, H/2, W/2) of the same dtype."""
        # Autocast on CPUs would keep a float32 copy for the same maxima. The backward pass recomputes the maxima's
        # indices, which take eight bytes each.
        with torch.autocast("cpu", enabled=False):
            return checkpoint_activations(self, super().forward, features)


def global_avg_pool(features: Tensor) -> Tensor:
    """Map (B, C, D, H, W) to the means over all voxels (B, C, 1, 1, 1), in the same dtype.

    Means of bfloat16 are a matrix product, since torch's are slow on CPUs.
    """
    if features.dtype != torch.bfloat16:  # a product in float16 would overflow
        return features.mean(dim=(2, 3, 4), keepdim=True)
    batch_size, channels, *size = features.shape
    num_voxels = math.prod(size)
    num_blocks = math.gcd(num_voxels, 16)  # 16 times as many columns make the product twice as fast
    voxels = features.permute(0, 2, 3, 4, 1)  # (B, D, H, W, C), contiguous if the features are channels-last
    rows = voxels.reshape(batch_size, num_voxels // num_blocks, num_blocks * channels)
    sums = rows.new_ones(batch_size, 1, rows.shape[1]) @ rows  # (B, 1, num_blocks * C)
    mean = sums.view(batch_size, num_blocks, channels).float().sum(dim=1) / num_voxels
    return mean.to(features.dtype)[:, :, None, None, None]  # (B, C, 1, 1, 1)


def upsample_to(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (B, C, d, h, w) to a size (D, H, W) by trilinear interpolation with aligned corners."""
    channels_last = features.is_contiguous(memory_format=torch.channels_last_3d)
    if channels_last and features.shape[2] == size[0]:
        # Where z keeps its size, bilinear interpolation of slices gives the same values in three quarters of the time.
        slices = features.movedim(2, 1).flatten(0, 1)  # (B * D, C, h, w)
        resized = F.interpolate(slices, size=tuple(size[1:]), mode="bilinear", align_corners=True)
        upsampled = resized.unflatten(0, (-1, size[0])).movedim(1, 2)
    else:
        upsampled = F.interpolate(features, size=tuple(size), mode="trilinear", align_corners=True)
    if upsampled.requires_grad and not torch.compiler.is_compiling():
        # A concatenation hands back a gradient that is not contiguous; torch's backward pass takes seven times as long.
        memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        upsampled.register_hook(lambda gradient: gradient.contiguous(memory_format=memory_format))
    return upsampled

"""Convolutions in 3D whose weights get right gradients also in bfloat16 on a CPU."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Geometry(NamedTuple):
    """How a kernel moves over a volume; each (z, y, x)."""

    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    dilation: tuple[int, int, int]


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, except for the gradient of its weights in bfloat16 on a CPU, which is put together from 2D ones.

    The 3D one of torch 2.13 (oneDNN 3.12) is wrong in two ways. Where the CPU has AMX, it writes past its buffers when
    a volume has few slices for their size: such trainings crash, hang, or learn from noise. Without AMX, it adds memory
    that nobody wrote when there are from two slices to one less than the kernel has. The 2D one is right in all of
    these cases and as fast: docs/performance.md. Under torch.compile the 3D one stays.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Convolve.

        Args:
            features: (B, in_channels, D, H, W).

        Returns:
            (B, out_channels, D', H', W').
        """
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not _computes_bf16_on_cpu(features):
            return super().forward(features)
        geometry = Geometry(self.stride, self.padding, self.dilation)
        features, weight = features.bfloat16(), self.weight.bfloat16()
        bias = None if self.bias is None else self.bias.bfloat16()
        weights_part = _WeightsPart.apply(features.detach(), weight, bias, geometry)
        constant_bias = None if bias is None else bias.detach()
        convolved = F.conv3d(features, weight.detach(), constant_bias, *geometry)
        return _Join.apply(convolved, weights_part)


def _computes_bf16_on_cpu(features: Tensor) -> bool:
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else features.dtype
    return features.device.type == "cpu" and dtype == torch.bfloat16


class _WeightsPart(torch.autograd.Function):
    """Zeros of a convolution's shape, which take no memory and hand its gradient to weights and bias.

    They exist before the convolution is computed, so that a checkpoint that finds here what
    the backward pass needs stops before it computes that anew.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry, ctx.has_bias = geometry, bias is not None
        extents = zip(features.shape[2:], weight.shape[2:], *geometry, strict=True)
        size = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, pad, dilation in extents]
        return features.new_zeros(()).expand(len(features), len(weight), *size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last_3d)  # of a concatenation's part it has gaps
        in_weight = weight_gradient(features, gradient, weight, ctx.geometry)
        in_bias = gradient.sum(dim=(0, 2, 3, 4)) if ctx.has_bias else None
        return None, in_weight, in_bias, None


class _Join(torch.autograd.Function):
    """A convolution whose gradient goes to two places: through it to the features, and to `_WeightsPart`."""

    @staticmethod
    def forward(ctx: Any, convolved: Tensor, weights_part: Tensor) -> Tensor:
        ctx.mark_dirty(convolved)
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


def weight_gradient(features: Tensor, gradient: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    """Gradient of a 3D convolution's weights, each slice of the kernel by a 2D convolution over all slices that it met.

    Args:
        features: (B, C, D, H, W), what was convolved.
        gradient: (B, C', D', H', W'), of the result.
        weight: (C', C, d, h, w), for its shape and dtype.
        geometry: of the convolution.

    Returns:
        (C', C, d, h, w).
    """
    (stride, *in_plane_stride), (padding, *in_plane_padding), (dilation, *in_plane_dilation) = geometry
    kernel = weight[:, :, 0]  # (C', C, h, w)
    num_read, num_written = features.shape[2], gradient.shape[2]
    slices = []
    for tap in range(weight.shape[2]):
        shift = tap * dilation - padding  # slice i of the result meets slice i * stride + shift
        first = max(0, -(shift // stride))
        stop = min(num_written, (num_read - 1 - shift) // stride + 1)
        if first >= stop:
            slices.append(torch.zeros_like(kernel))
            continue
        met = features[:, :, first * stride + shift : (stop - 1) * stride + shift + 1 : stride]
        pair = as_planes(gradient[:, :, first:stop]), as_planes(met)
        in_plane = (in_plane_stride, in_plane_padding, in_plane_dilation, False, [0, 0], 1)
        only_weight = [False, True, False]
        slices.append(torch.ops.aten.convolution_backward(*pair, kernel, None, *in_plane, only_weight)[1])
    return torch.stack(slices, dim=2)


def as_planes(volumes: Tensor) -> Tensor:
    """(B, C, D, H, W) as (B * D, C, H, W) in channels-last order; of one volume in that order nothing is copied."""
    return volumes.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)

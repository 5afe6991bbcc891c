"""Layers other than convolutions that compute the same as torch's, but faster and in less memory.

docs/performance.md tells how much each of them gains. Under torch.compile they fall back to torch's own operations.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.activation_checkpointing import checkpoint_activations


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

"""Building blocks that the networks share: convolutions, squeeze-excite residual block, DenseASPP and decoder step."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.activation_checkpointing import checkpoint_activations
from models.layers import Conv3d

Triple = tuple[int, int, int]

CHANNEL_STEP = 8


def make_divisible(channels: int, width: float) -> int:
    """Scale a channel count by a network's width.

    Args:
        channels: the count at width 1.
        width: factor, greater than 0.

    Returns:
        The multiple of 8 nearest to `channels * width` (halves go up), at least 8.
    """
    return max(CHANNEL_STEP, int(channels * width / CHANNEL_STEP + 0.5) * CHANNEL_STEP)


def upsample_to(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize features to a given size, trilinear with aligned corners.

    Args:
        features: (B, C, d, h, w), floating point.
        size: (D, H, W), the size of the tensor that the result is to be combined with.

    Returns:
        (B, C, D, H, W).
    """
    channels_last = features.is_contiguous(memory_format=torch.channels_last_3d)
    if channels_last and features.shape[2] == size[0]:
        # The same values in three quarters of the time, as slices of which each is resized in its plane.
        slices = features.movedim(2, 1).flatten(0, 1)  # (B * D, C, h, w)
        resized = F.interpolate(slices, size=tuple(size[1:]), mode="bilinear", align_corners=True)
        upsampled = resized.unflatten(0, (-1, size[0])).movedim(1, 2)
    else:
        upsampled = F.interpolate(features, size=tuple(size), mode="trilinear", align_corners=True)
    if upsampled.requires_grad and not torch.compiler.is_compiling():
        # The gradient of a concatenation's part has gaps, over which torch's backward pass takes seven times as long.
        order = torch.channels_last_3d if channels_last else torch.contiguous_format
        upsampled.register_hook(lambda gradient: gradient.contiguous(memory_format=order))
    return upsampled


def conv3d_he_init(
    in_channels: int,
    out_channels: int,
    kernel_size: Triple,
    *,
    stride: int = 1,
    dilation: Triple = (1, 1, 1),
    bias: bool = False,
) -> Conv3d:
    """Build a padded convolution with He's initialization, for convolutions that feed a ReLU.

    Args:
        in_channels: channels of its input.
        out_channels: channels of its result.
        kernel_size: odd extents (z, y, x).
        stride: step along all axes; with 1 the size is kept, with 2 it is halved, rounded up.
        dilation: spacing of the kernel's taps (z, y, x).
        bias: whether to add one, initially zero.

    Returns:
        The layer.
    """
    padding = tuple(d * (k // 2) for d, k in zip(dilation, kernel_size, strict=True))
    conv = Conv3d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class MaxPoolBy2(nn.MaxPool3d):
    """Max-pooling by two, in-plane or along all three axes.

    It rounds odd sizes up, so that no voxel is left out and one slice stays one slice.

    Args:
        pool_z: pool z as well.
    """

    def __init__(self, *, pool_z: bool):
        super().__init__((2, 2, 2) if pool_z else (1, 2, 2), ceil_mode=True)

    def forward(self, features: Tensor) -> Tensor:
        """Pool in the dtype of the features: autocast on CPUs would keep a float32 copy of them, for the same maxima.

        In training the places of the maxima, eight bytes each, are found anew in the backward pass.

        Args:
            features: (B, C, D, H, W).

        Returns:
            (B, C, D or D/2, H/2, W/2), in the dtype of `features`.
        """
        with torch.autocast("cpu", enabled=False):
            return checkpoint_activations(self, super().forward, features)


def relu_(features: Tensor) -> Tensor:
    """ReLU in place, of bfloat16 on CPUs by its bits, which takes a quarter of the time.

    Read as an integer they are negative where it is: from -32768 to -128 for numbers, above for what is none and stays.

    Args:
        features: any shape, floating point; overwritten.
    """
    if features.dtype == torch.bfloat16 and features.device.type == "cpu":
        F.threshold_(features.view(torch.int16), -128, 0)
        return features
    return features.relu_()


def relu_backward_(gradient: Tensor, rectified: Tensor) -> Tensor:
    """Backward pass of ReLU, in place and by bits as `relu_`: 0 where the rectified features are not positive.

    Args:
        gradient: any shape, floating point; overwritten.
        rectified: what `relu_` returned, in the shape and dtype of `gradient`.
    """
    values = gradient, rectified
    if gradient.dtype == torch.bfloat16 and gradient.device.type == "cpu":
        values = gradient.view(torch.int16), rectified.view(torch.int16)
    torch.ops.aten.threshold_backward.grad_input(*values, 0, grad_input=values[0])
    return gradient


class _Rectify(torch.autograd.Function):
    """ReLU in place, and so is its backward pass, which torch's is not."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.mark_dirty(features)
        ctx.save_for_backward(relu_(features))
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return relu_backward_(gradient, *ctx.saved_tensors)


class InPlaceReLU(nn.ReLU):
    """ReLU that overwrites its input, and in the backward pass the gradient of its result.

    So the result must have one consumer that makes that gradient and does not keep it, as a convolution does, or
    several, whose gradients are summed up.
    """

    def __init__(self) -> None:
        super().__init__(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """Set what is negative to 0.

        Args:
            features: any shape, floating point; overwritten.
        """
        return super().forward(features) if torch.compiler.is_compiling() else _Rectify.apply(features)


class PreActConv3d(nn.Sequential):
    """Norm, ReLU, convolution: the order in which all of FocusNet's segmentation blocks compute.

    In training only the input is kept for the backward pass, which normalizes it anew: that saves one of two feature
    maps, and takes little time beside the convolution.

    Args:
        in_channels: channels of its input.
        out_channels: channels of its result.
        kernel_size: odd extents (z, y, x); the size is kept.
        dilation: spacing of the kernel's taps (z, y, x).
        bias: whether the convolution adds one.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        *,
        dilation: Triple = (1, 1, 1),
        bias: bool = False,
    ):
        super().__init__(
            nn.BatchNorm3d(in_channels),
            InPlaceReLU(),
            conv3d_he_init(in_channels, out_channels, kernel_size, dilation=dilation, bias=bias),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Compute the three.

        Args:
            features: (B, in_channels, D, H, W).

        Returns:
            (B, out_channels, D, H, W).
        """
        return checkpoint_activations(self, super().forward, features)


def global_avg_pool(features: Tensor) -> Tensor:
    """Mean over all voxels, of bfloat16 features as a matrix product: on CPUs torch's mean is slow for these.

    Args:
        features: (B, C, D, H, W), floating point; float16 has neither the range for sums nor the steps for shares.

    Returns:
        (B, C, 1, 1, 1), in the dtype of `features`.
    """
    if features.dtype != torch.bfloat16:
        return features.mean(dim=(2, 3, 4), keepdim=True)
    batch_size, channels, *size = features.shape
    num_voxels = math.prod(size)
    side_by_side = math.gcd(num_voxels, 16)  # 16 times as many columns: twice as fast
    voxels = features.permute(0, 2, 3, 4, 1)  # (B, D, H, W, C), contiguous if the features are in channels-last order
    rows = voxels.reshape(batch_size, num_voxels // side_by_side, side_by_side * channels)
    totals = rows.new_ones(batch_size, 1, rows.shape[1]) @ rows  # (B, 1, side_by_side * C)
    mean = totals.view(batch_size, side_by_side, channels).float().sum(dim=1) / num_voxels
    return mean.to(features.dtype)[:, :, None, None, None]  # (B, C, 1, 1, 1)


class SqueezeExcite(nn.Module):
    """Weighs every channel by a gate computed from the global means of all channels.

    Args:
        channels: channels of input and result.
        reduction: the gate's hidden layer has `channels // reduction` channels.
    """

    def __init__(self, channels: int, *, reduction: int):
        super().__init__()
        self.gate = nn.Sequential(
            conv3d_he_init(channels, channels // reduction, (1, 1, 1), bias=True),
            nn.ReLU(inplace=True),
            Conv3d(channels // reduction, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Reweigh the channels.

        Args:
            features: (B, C, D, H, W).

        Returns:
            (B, C, D, H, W), in the dtype of `features`.
        """
        weights = self.gate(global_avg_pool(features))  # (B, C, 1, 1, 1)
        # Under autocast the gate may come in another dtype, and the product would promote the whole volume to it.
        return features * weights.to(features.dtype)


class SEResidualBlock(nn.Module):
    """Pre-activation residual block of two convolutions and a squeeze-excite, FocusNetv2 sec. 3.

    The shortcut is the identity, or norm, ReLU, 1x1x1 convolution where the number of channels changes.

    Args:
        in_channels: channels of its input.
        out_channels: channels of its result.
        kernel_size: of both convolutions (z, y, x).
        reduction: of the squeeze-excite.
        dilation: of the second convolution (z, y, x).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: Triple = (3, 3, 3),
        reduction: int = 2,
        dilation: Triple = (1, 1, 1),
    ):
        super().__init__()
        self.residual = nn.Sequential(
            PreActConv3d(in_channels, out_channels, kernel_size),
            PreActConv3d(out_channels, out_channels, kernel_size, dilation=dilation),
            SqueezeExcite(out_channels, reduction=reduction),
        )
        self.shortcut = (
            nn.Identity() if in_channels == out_channels else PreActConv3d(in_channels, out_channels, (1, 1, 1))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Add residual and shortcut.

        Args:
            features: (B, in_channels, D, H, W).

        Returns:
            (B, out_channels, D, H, W), not normalized.
        """
        return self.residual(features) + self.shortcut(features)


class DenseASPP(nn.Module):
    """Densely connected atrous pyramid: each branch sees the input and all earlier branches, FocusNetv2 sec. 3.

    Only the plane is dilated: slices are few and further apart than the pixels within them.

    Args:
        in_channels: channels of its input.
        growth: channels that every branch adds; its bottleneck has twice as many.
        dilations: in-plane dilation of each branch.

    Attributes:
        out_channels: channels of its result, `in_channels + growth * len(dilations)`.
    """

    def __init__(self, in_channels: int, *, growth: int, dilations: Sequence[int]):
        super().__init__()
        self.out_channels = in_channels + growth * len(dilations)
        self.branches = nn.ModuleList(
            nn.Sequential(
                PreActConv3d(in_channels + index * growth, 2 * growth, (1, 1, 1), bias=True),
                PreActConv3d(2 * growth, growth, (3, 3, 3), dilation=(1, dilation, dilation), bias=True),
            )
            for index, dilation in enumerate(dilations)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Concatenate the branches' results, newest first, and the input.

        Args:
            features: (B, in_channels, D, H, W).

        Returns:
            (B, out_channels, D, H, W).
        """
        for branch in self.branches:
            features = torch.cat([branch(features), features], dim=1)  # (B, C + growth, D, H, W)
        return features


class UpBlock(nn.Module):
    """Decoder step: upsample to the size of an encoder level, concatenate with that level, fuse.

    Args:
        in_channels: channels of the coarse features.
        lateral_channels: channels of the encoder level.
        out_channels: channels of the result.
    """

    def __init__(self, in_channels: int, lateral_channels: int, out_channels: int):
        super().__init__()
        self.lateral = conv3d_he_init(lateral_channels, lateral_channels, (3, 3, 3), bias=True)
        self.fuse = SEResidualBlock(lateral_channels + in_channels, out_channels)

    def forward(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        """Fuse coarse features with the encoder level that they came from.

        Args:
            coarse: (B, in_channels, d, h, w).
            lateral: (B, lateral_channels, D, H, W).

        Returns:
            (B, out_channels, D, H, W).
        """
        # Nothing else holds the parts of the concatenation, which are as large as itself.
        return self.fuse(torch.cat([self.lateral(lateral), upsample_to(coarse, lateral.shape[2:])], dim=1))

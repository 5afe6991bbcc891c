"""Building blocks of the networks: SE-residual block, encoder step, DenseASPP and decoder step.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.activation_checkpointing import checkpoint_activations
from models.convolution import Conv3d, Triple, conv3d_he_init
from models.layers import InPlaceReLU, MaxPoolBy2, global_avg_pool, upsample_to

CHANNEL_STEP = 8


def make_divisible(channels: int, width: float) -> int:
    """The multiple of 8 nearest to `channels * width` (halves are rounded up), at least 8."""
    return max(CHANNEL_STEP, int(channels * width / CHANNEL_STEP + 0.5) * CHANNEL_STEP)


class PreActConv3d(nn.Sequential):
    """Norm, ReLU, convolution: the order of operations in all of FocusNet's segmentation blocks.

    Training keeps only the input for the backward pass, which repeats the norm. That saves one of two feature maps and
    takes little time compared with the convolution.

    The arguments are those of `conv3d_he_init`; the size is kept.
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
        """Map (B, in_channels, D, H, W) to (B, out_channels, D, H, W)."""
        return checkpoint_activations(self, super().forward, features)


class SqueezeExcite(nn.Module):
    """Multiplies every channel by a gate in 0..1, computed from the global means of all channels.

    The gate's hidden layer has `channels // reduction` channels.
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
        """Reweight the channels of (B, C, D, H, W); shape and dtype stay."""
        weights = self.gate(global_avg_pool(features))  # (B, C, 1, 1, 1)
        # Autocast may return the gate in a wider dtype, to which the product would promote the whole volume.
        return features * weights.to(features.dtype)


class SEResidualBlock(nn.Module):
    """Pre-activation residual block of two convolutions and a squeeze-excite.

    The shortcut is the identity, or norm, ReLU, 1x1x1 convolution where the number of channels changes.

    Args:
        in_channels, out_channels: of the block.
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
        """Map (B, in_channels, D, H, W) to (B, out_channels, D, H, W), not normalized."""
        return self.residual(features) + self.shortcut(features)


class DownBlock(nn.Sequential):
    """Encoder step: pooling by two, then residual blocks.

    Args:
        in_channels, out_channels: of the step.
        pool_z: whether to pool along z as well.
        dilations: in-plane dilation of each residual block.
    """

    def __init__(self, in_channels: int, out_channels: int, *, pool_z: bool, dilations: Sequence[int] = (1, 1)):
        first, *others = [(1, dilation, dilation) for dilation in dilations]
        super().__init__(
            MaxPoolBy2(pool_z=pool_z),
            SEResidualBlock(in_channels, out_channels, dilation=first),
            *(SEResidualBlock(out_channels, out_channels, dilation=dilation) for dilation in others),
        )


class DenseASPP(nn.Module):
    """Densely connected atrous spatial pyramid: each branch reads the input and the output of all earlier branches.

    Only the plane is dilated: there are few slices, and they lie further apart than the pixels within them.

    Args:
        in_channels: of the input.
        growth_rate: channels that every branch adds; its bottleneck has twice as many.
        dilations: in-plane dilation of each branch, in voxels.

    Attributes:
        out_channels: channels of the output, `in_channels + growth_rate * len(dilations)`.
    """

    def __init__(self, in_channels: int, *, growth_rate: int, dilations: Sequence[int]):
        super().__init__()
        self.out_channels = in_channels + growth_rate * len(dilations)
        self.branches = nn.ModuleList(
            nn.Sequential(
                PreActConv3d(in_channels + index * growth_rate, 2 * growth_rate, (1, 1, 1), bias=True),
                PreActConv3d(2 * growth_rate, growth_rate, (3, 3, 3), dilation=(1, dilation, dilation), bias=True),
            )
            for index, dilation in enumerate(dilations)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, D, H, W) to (B, out_channels, D, H, W): newest branch first, the input last."""
        for branch in self.branches:
            features = torch.cat([branch(features), features], dim=1)  # (B, C + growth_rate, D, H, W)
        return features


class UpBlock(nn.Module):
    """Decoder step: upsample coarse features to the size of an encoder level, concatenate with that level, fuse."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        self.lateral = conv3d_he_init(skip_channels, skip_channels, (3, 3, 3), bias=True)
        self.fuse = SEResidualBlock(skip_channels + in_channels, out_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Map (B, in_channels, d, h, w) and the level (B, skip_channels, D, H, W) to (B, out_channels, D, H, W)."""
        # In one expression, so that both inputs of the concatenation are freed before the fusion.
        return self.fuse(torch.cat([self.lateral(skip), upsample_to(coarse, skip.shape[2:])], dim=1))

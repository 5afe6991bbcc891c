"""Trained networks with convolutions of 8-bit integers, for inference on CPUs.

What a convolution reads has passed a norm and a ReLU: it is not negative, and its range follows from the norm's
weights, so no CT is needed to find it. Each channel has a range of its own, whose scale goes into the weights of the
convolution (as Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, do).
Convolutions of features that no norm precedes, 1 in 8 of S-Net's operations, stay as they are, like the heads.
"""

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from torch import Tensor, nn

from models.blocks import PreActConv3d

NUM_STEPS = 255
"""Of an unsigned 8-bit integer; 0 is 0."""

LARGEST_WEIGHT = 127

NUM_DEVIATIONS = 24
"""A channel's range reaches to its mean and so many standard deviations; what lies above is cut off. Bone and metal lie
far out: at 10 organs are lost, from 16 to 48 little changes (docs/performance.md)."""


def quantize_convolutions(network: nn.Module) -> None:
    """Replace the convolutions that a norm and a ReLU precede, in place.

    Args:
        network: trained, on a CPU; afterwards it can only infer.
    """
    for name, child in list(network.named_children()):
        if isinstance(child, PreActConv3d):
            setattr(network, name, Int8Convolutions([child]))
            continue
        if isinstance(child, nn.Sequential):
            leading = list(takewhile(lambda layer: isinstance(layer, PreActConv3d), child))
            if leading:  # as one, so that no floating-point features lie between them
                child[0] = Int8Convolutions(leading)
                del child[1 : len(leading)]
        quantize_convolutions(child)


class Int8Convolutions(nn.Module):
    """Consecutive `PreActConv3d` in 8-bit integers, from floating-point features to floating-point features.

    Args:
        layers: trained; at least one.
    """

    def __init__(self, layers: Sequence[PreActConv3d]) -> None:
        super().__init__()
        self.quantize = QuantizedNorm(layers[0][0])
        self.convolutions = nn.ModuleList(
            [Int8Conv3d(conv, norm, following) for (norm, _, conv), (following, _, _) in pairwise(layers)]
            + [Int8Conv3d(layers[-1][2], layers[-1][0])]
        )
        self.eval()

    def forward(self, features: Tensor) -> Tensor:
        """Compute all of them.

        Args:
            features: (B, C, D, H, W), float32 or bfloat16.

        Returns:
            (B, C', D, H, W), in the same dtype.
        """
        steps = self.quantize(features)  # (B, C, D, H, W) uint8
        for convolution in self.convolutions:
            steps = convolution(steps, features.dtype)
        return steps


class QuantizedNorm(nn.Module):
    """Norm, ReLU and rounding to steps of 1 / 255 of each channel's range.

    Args:
        norm: trained.
    """

    @torch.no_grad()
    def __init__(self, norm: nn.BatchNorm3d) -> None:
        super().__init__()
        steps = NUM_STEPS / channel_ranges(norm)
        self.norm = nn.BatchNorm3d(norm.num_features, eps=norm.eps)
        self.norm.load_state_dict(norm.state_dict())
        self.norm.weight *= steps
        self.norm.bias *= steps

    def forward(self, features: Tensor) -> Tensor:
        """Normalize and round.

        Args:
            features: (B, C, D, H, W), floating point.

        Returns:
            (B, C, D, H, W) uint8, in channels-last order.
        """
        steps = self.norm(features).clamp(0, NUM_STEPS).round()  # in place torch takes twice as long
        # To uint8 at once, too.
        return steps.to(torch.int16).to(torch.uint8, memory_format=torch.channels_last_3d)


class Int8Conv3d(nn.Module):
    """Convolution of 8-bit steps, its weights rounded to 8 bits by output channel.

    Args:
        conv: trained.
        norm: that precedes it.
        following: the norm that, with a ReLU, follows it; then the result is in steps as well.
    """

    @torch.no_grad()
    def __init__(self, conv: nn.Conv3d, norm: nn.BatchNorm3d, following: nn.BatchNorm3d | None = None) -> None:
        super().__init__()
        weight = conv.weight * _along(1, channel_ranges(norm) / NUM_STEPS)
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias
        if following is not None:
            gain = following.weight * (following.running_var + following.eps).rsqrt()
            shift = following.bias - gain * following.running_mean
            steps = NUM_STEPS / channel_ranges(following)
            weight, bias = weight * _along(0, gain * steps), (bias * gain + shift) * steps
        scale = weight.abs().amax(dim=(1, 2, 3, 4)).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_WEIGHT
        rounded = (weight / _along(0, scale)).round().to(torch.int8)
        self.in_steps = following is not None
        self.geometry = [list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups]
        self.scale, self.zero, self.bias = scale, torch.zeros_like(scale, dtype=torch.long), bias
        self.packed = torch.ops.onednn.qconv_prepack(rounded, scale, 1.0, 0, *self.geometry)

    def forward(self, steps: Tensor, dtype: torch.dtype) -> Tensor:
        """Convolve.

        Args:
            steps: (B, C, D, H, W) uint8.
            dtype: of the result where it is not in steps, float32 or bfloat16.

        Returns:
            (B, C', D, H, W) of `dtype`, or uint8; negative values become 0 steps, which is the ReLU.
        """
        result = (1.0, 0, torch.uint8 if self.in_steps else dtype)
        weights = (self.packed, self.scale, self.zero, self.bias)
        return torch.ops.onednn.qconv3d_pointwise(steps, 1.0, 0, *weights, *self.geometry, *result, "none", [], "")


def channel_ranges(norm: nn.BatchNorm3d) -> Tensor:
    """Largest value of each channel after a norm and a ReLU that 8 bits are to tell apart: (C,), positive."""
    largest = norm.bias + NUM_DEVIATIONS * norm.weight.abs()
    return largest.clamp_min(1e-3)  # of a channel that is never positive


def _along(axis: int, values: Tensor) -> Tensor:
    """(C,) values, ready to multiply the weights (C_out, C_in, d, h, w) of a convolution along an axis."""
    return values.reshape([-1 if i == axis else 1 for i in range(5)])

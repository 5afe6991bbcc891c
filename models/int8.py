"""Post-training quantization: convolutions in 8-bit integers, for inference on CPUs.

The input of a quantized convolution has passed a norm and a ReLU. It is not negative, and its range follows from the
norm's weights, so that no CT is needed for calibration. Each channel has its own range, whose scale is folded into the
convolution's weights, as in Nagel et al., "Data-free quantization through weight equalization and bias correction",
ICCV 2019. Convolutions that no norm precedes (one eighth of S-Net's operations) and the heads are not quantized.
"""

from collections.abc import Sequence
from itertools import pairwise, takewhile

import torch
from torch import Tensor, nn

from models.blocks import PreActConv3d

MAX_ACTIVATION = 255
MAX_WEIGHT = 127
NUM_DEVIATIONS = 24
"""A channel's range ends this number of standard deviations above its mean; larger values are clipped. Bone and metal
are outliers: with 10, label maps change; from 16 to 48 little changes (docs/performance.md)."""


def quantize_convolutions(network: nn.Module) -> None:
    """Replace the convolutions that follow a norm and a ReLU, in place.

    Args:
        network: trained, on a CPU; afterwards it cannot be trained.
    """
    for name, child in list(network.named_children()):
        if isinstance(child, PreActConv3d):
            setattr(network, name, Int8Convolutions([child]))
            continue
        if isinstance(child, nn.Sequential):
            leading = list(takewhile(lambda layer: isinstance(layer, PreActConv3d), child))
            if leading:  # as one module, so that the features between them stay 8-bit
                child[0] = Int8Convolutions(leading)
                del child[1 : len(leading)]
        quantize_convolutions(child)


class Int8Convolutions(nn.Module):
    """Consecutive `PreActConv3d` in 8-bit integers; input and output are floating point.

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
        """Map (B, C, D, H, W), float32 or bfloat16, to (B, C', D, H, W) of the same dtype."""
        quantized = self.quantize(features)  # (B, C, D, H, W) uint8
        for convolution in self.convolutions:
            quantized = convolution(quantized, features.dtype)
        return quantized


class QuantizedNorm(nn.Module):
    """Norm and ReLU of a trained norm, then rounding to 0..255, where 255 is the end of each channel's range."""

    @torch.no_grad()
    def __init__(self, norm: nn.BatchNorm3d) -> None:
        super().__init__()
        scale = MAX_ACTIVATION / channel_ranges(norm)
        self.norm = nn.BatchNorm3d(norm.num_features, eps=norm.eps)
        self.norm.load_state_dict(norm.state_dict())
        self.norm.weight *= scale
        self.norm.bias *= scale

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, D, H, W), floating point, to uint8 of the same shape, channels-last."""
        quantized = self.norm(features).clamp(0, MAX_ACTIVATION).round()
        # In-place operations, and a conversion without the step over int16, take twice as long.
        return quantized.to(torch.int16).to(torch.uint8, memory_format=torch.channels_last_3d)


class Int8Conv3d(nn.Module):
    """Convolution of quantized features with weights rounded to 8 bits per output channel.

    Args:
        conv: trained.
        norm: the norm before it.
        following: the norm and, implied, the ReLU after it; they are folded in, and the output is quantized as well.
    """

    @torch.no_grad()
    def __init__(self, conv: nn.Conv3d, norm: nn.BatchNorm3d, following: nn.BatchNorm3d | None = None) -> None:
        super().__init__()
        weight = conv.weight * (channel_ranges(norm) / MAX_ACTIVATION)[:, None, None, None]  # (C_out, C_in, d, h, w)
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias
        if following is not None:
            gain = following.weight * (following.running_var + following.eps).rsqrt()
            shift = following.bias - gain * following.running_mean
            quantize = MAX_ACTIVATION / channel_ranges(following)
            weight, bias = weight * (gain * quantize)[:, None, None, None, None], (bias * gain + shift) * quantize
        scale = weight.abs().amax(dim=(1, 2, 3, 4)).clamp_min(torch.finfo(torch.float32).tiny) / MAX_WEIGHT
        rounded = (weight / scale[:, None, None, None, None]).round().to(torch.int8)
        self.quantized_output = following is not None
        self.params = [list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups]
        self.scale, self.zero, self.bias = scale, torch.zeros_like(scale, dtype=torch.long), bias
        self.packed = torch.ops.onednn.qconv_prepack(rounded, scale, 1.0, 0, *self.params)

    def forward(self, quantized: Tensor, dtype: torch.dtype) -> Tensor:
        """Map (B, C, D, H, W) uint8 to (B, C', D, H, W) of `dtype`, float32 or bfloat16.

        A quantized output is uint8 instead, in which negative values become 0: that is the ReLU.
        """
        output = (1.0, 0, torch.uint8 if self.quantized_output else dtype)
        weights = (self.packed, self.scale, self.zero, self.bias)
        return torch.ops.onednn.qconv3d_pointwise(quantized, 1.0, 0, *weights, *self.params, *output, "none", [], "")


def channel_ranges(norm: nn.BatchNorm3d) -> Tensor:
    """Upper end of each channel's quantization range after a norm and a ReLU: (C,), positive."""
    return (norm.bias + NUM_DEVIATIONS * norm.weight.abs()).clamp_min(1e-3)  # a channel may never be positive

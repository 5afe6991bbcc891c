"""3D convolutions that compute the same as torch's, but faster on CPUs, and correctly in bfloat16 on CPUs.

docs/performance.md tells how much they gain. Under torch.compile they fall back to torch's own operations.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Triple = tuple[int, int, int]


class ConvParams(NamedTuple):
    """Parameters of a 3D convolution besides its weights; each is (z, y, x), in voxels."""

    stride: Triple
    padding: Triple
    dilation: Triple


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that computes with oneDNN on CPUs and assembles its weight gradient from 2D convolutions.

    In float32, torch 2.13 computes small feature maps, and 1x1x1 kernels with one thread, in loops of its own. oneDNN
    is 4 to 14 times as fast. Its 3D weight gradient takes up to 1.4 times as long as the 2D ones without AVX-512.

    In bfloat16, the 3D weight gradient (oneDNN 3.12) is wrong. On CPUs with AMX it writes past its buffers when
    a volume has few slices for their size: training crashes, hangs or learns from noise. On CPUs without AMX it adds
    uninitialized memory when the volume has at least two slices, but fewer than the kernel. The 2D gradient is correct
    in all of these cases and as fast: docs/performance.md. Under torch.compile the 3D gradient is used, which
    utils/training/run.py therefore refuses in bfloat16 on CPUs.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, D, H, W), floating point, to (B, out_channels, D', H', W')."""
        dtype = _cpu_dtype(features)
        if torch.compiler.is_compiling() or dtype not in (torch.float32, torch.bfloat16):
            return super().forward(features)
        params = ConvParams(self.stride, self.padding, self.dilation)
        features, weight = features.to(dtype), self.weight.to(dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        if not torch.is_grad_enabled():
            return _convolve(features, weight, bias, params)
        gradient_path = _GradientPath.apply(features, weight, bias, params)
        with torch.no_grad():
            convolved = _convolve(features, weight, bias, params)
        return _JoinPaths.apply(convolved, gradient_path)


def _cpu_dtype(features: Tensor) -> torch.dtype | None:
    """The dtype in which a convolution computes on the CPU; None for features on another device."""
    if features.device.type != "cpu":
        return None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else features.dtype


def _convolve(features: Tensor, weight: Tensor, bias: Tensor | None, params: ConvParams) -> Tensor:
    """Convolve on a CPU, in float32 with oneDNN whatever the size; torch itself takes oneDNN for bfloat16."""
    mkldnn = torch.backends.mkldnn  # torch's name of oneDNN
    if features.dtype != torch.float32 or features.numel() == 0 or not (mkldnn.is_available() and mkldnn.enabled):
        return F.conv3d(features, weight, bias, *params)
    stride, padding, dilation = params
    return torch.mkldnn_convolution(features, weight, bias, padding, stride, dilation, 1)


class _GradientPath(torch.autograd.Function):
    """Zeros in the shape of a convolution's output, whose gradient becomes that of its features, weights and bias.

    They take no memory. They are computed before the convolution: a checkpoint stops its recomputation as soon as it
    has the tensors saved here, so that the convolution is not computed twice.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, params: ConvParams) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.params = params
        extents = zip(features.shape[2:], weight.shape[2:], *params, strict=True)
        size = [(n + 2 * pad - dilation * (k - 1) - 1) // stride + 1 for n, k, stride, pad, dilation in extents]
        return features.new_zeros(()).expand(len(features), len(weight), *size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        # The gradient of one input of a concatenation is not contiguous.
        channels_last = features.is_contiguous(memory_format=torch.channels_last_3d)
        memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
        gradient = gradient.contiguous(memory_format=memory_format)
        needs_features, needs_weight, needs_bias, _ = ctx.needs_input_grad
        return (
            features_gradient(features, gradient, weight, ctx.params) if needs_features else None,
            weight_gradient(features, gradient, weight, ctx.params) if needs_weight else None,
            gradient.sum(dim=(0, 2, 3, 4)) if needs_bias else None,
            None,
        )


class _JoinPaths(torch.autograd.Function):
    """Returns a convolution's output; its gradient goes to `_GradientPath`."""

    @staticmethod
    def forward(ctx: Any, convolved: Tensor, gradient_path: Tensor) -> Tensor:
        ctx.mark_dirty(convolved)
        return convolved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def features_gradient(features: Tensor, gradient: Tensor, weight: Tensor, params: ConvParams) -> Tensor:
    """Gradient of a 3D convolution's input.

    With stride 1 that is the convolution of the output's gradient with the mirrored kernel.

    Args:
        features: (B, C, D, H, W), the convolution's input; only its shape is used.
        gradient: (B, C', D', H', W'), of its output.
        weight: (C', C, d, h, w), of the convolution.
        params: of the convolution.
    """
    stride, padding, dilation = params
    if stride != (1, 1, 1) or gradient.dtype != torch.float32:
        grad_features_only = [True, False, False]
        args = (stride, padding, dilation, False, [0, 0, 0], 1, grad_features_only)
        return torch.ops.aten.convolution_backward(gradient, features, weight, None, *args)[0]
    mirrored = weight.flip(2, 3, 4).transpose(0, 1)
    extents = zip(weight.shape[2:], padding, dilation, strict=True)
    mirrored_padding = [step * (k - 1) - pad for k, pad, step in extents]
    return _convolve(gradient, mirrored, None, ConvParams(stride, mirrored_padding, dilation))


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

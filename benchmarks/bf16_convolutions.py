"""Check for which numbers of slices 3D convolutions are correct in bfloat16 on this machine's CPU.

    python -m benchmarks.bf16_convolutions                     # torch's weight gradient
    python -m benchmarks.bf16_convolutions --of layers         # the weight gradient of models/convolution.py
    python -m benchmarks.bf16_convolutions --of input          # torch's input gradient
    python -m benchmarks.bf16_convolutions --of output         # torch's output

Each shape runs in its own process, whose memory glibc fills with large numbers when it is allocated (M_PERTURB).
ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 shows the results of a CPU without AMX.
"""

import argparse
import ctypes
import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.convolution import ConvParams, weight_gradient
from utils.runtime.command_line import run_main

M_PERTURB = -6
"""Of glibc's malloc.h."""
LARGEST_ERROR = 0.02
"""Relative to the largest value; bfloat16 rounds by 0.004."""
WRONG = 1
TIMEOUT_S = 90


class Shape(NamedTuple):
    """A convolution with a cubic kernel whose output has the size of its input."""

    batch_size: int
    in_channels: int
    out_channels: int
    kernel_size: int
    extent: int
    """Rows and columns, in voxels."""


SHAPES = [
    *(Shape(1, 32, 32, 3, extent) for extent in (64, 128, 192, 256, 320, 512)),
    *(Shape(8, 32, 32, 3, extent) for extent in (64, 128)),
    *(Shape(1, channels, 32, 3, 192) for channels in (80, 96)),
    *(Shape(1, 64, 64, 5, extent) for extent in (16, 64)),
    Shape(1, 1, 8, 3, 96),
]
NUM_SLICES = (1, 2, 3, 4, 6, 8, 10, 16, 20, 32, 40)


def torch_gradient(
    features: Tensor, gradient: Tensor, weight: Tensor, params: ConvParams, *, of_weight: bool
) -> Tensor:
    """Gradient that `nn.Conv3d` computes; arguments as of `models.layers.weight_gradient`."""
    how = (None, *params, False, [0, 0, 0], 1, [not of_weight, of_weight, False])
    return torch.ops.aten.convolution_backward(gradient, features, weight, *how)[int(of_weight)]


COMPUTED = {
    "weights": partial(torch_gradient, of_weight=True),
    "layers": weight_gradient,
    "input": partial(torch_gradient, of_weight=False),
    "output": lambda features, gradient, weight, params: F.conv3d(features, weight, None, *params),
}


def compare(compute: Callable[..., Tensor], shape: Shape, num_slices: int) -> None:
    """Exit with `WRONG` if bfloat16 differs from float32."""
    ctypes.CDLL(None).mallopt(M_PERTURB, 0x80)
    size, half = (num_slices, shape.extent, shape.extent), shape.kernel_size // 2
    params = ConvParams((1, 1, 1), (half, half, half), (1, 1, 1))
    sides = [(shape.batch_size, channels, *size) for channels in (shape.in_channels, shape.out_channels)]
    weight_size = (shape.out_channels, shape.in_channels, *[shape.kernel_size] * 3)
    tensors = [
        torch.randn(size).bfloat16().contiguous(memory_format=torch.channels_last_3d) for size in (*sides, weight_size)
    ]
    expected = compute(*(tensor.float() for tensor in tensors), params)
    for _ in range(3):
        error = (compute(*tensors, params).float() - expected).abs().max() / expected.abs().max()
        if not error < LARGEST_ERROR:
            sys.exit(WRONG)


def judge(compute: Callable[..., Tensor], shape: Shape, num_slices: int) -> str:
    """Whether a shape is "right" or "wrong", or makes its process "crash" or "hang"."""
    process = multiprocessing.get_context("fork").Process(target=compare, args=(compute, shape, num_slices))
    process.start()
    process.join(TIMEOUT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return "hang"
    return {0: "right", WRONG: "wrong"}.get(process.exitcode, "crash")


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--of",
        choices=COMPUTED,
        default="weights",
        help="value to check (default: %(default)s, torch's weight gradient)",
    )
    compute = COMPUTED[parser.parse_args(argv).of]
    print(f"{'batch, channels, kernel, plane':<34}" + "".join(f"{count:>7}" for count in NUM_SLICES) + "  slices")
    for shape in SHAPES:
        name = f"{shape.batch_size}, {shape.in_channels} to {shape.out_channels}, {shape.kernel_size}, {shape.extent}"
        print(f"{name:<34}", end="")
        for count in NUM_SLICES:
            print(f"{judge(compute, shape, count):>7}", end="", flush=True)
        print()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

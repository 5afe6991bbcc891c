"""The device and the precision in which networks run."""

import functools
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from utils.errors import UserError

logger = logging.getLogger(__name__)

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""int8 is for inference on CPUs; see models/int8.py."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MEASURED_CHANNELS = 32
"""Of S-Net's layers at the highest resolution, where most of the time is spent."""
MEASURED_ROUNDS = 6
"""The best one counts. The first one also prepares the kernels."""
MEASURED_SECONDS = 0.3
"""No round begins later."""


@dataclass(frozen=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager:
        """The autocast context of forward passes; weights stay float32."""
        precision = best_float_precision(self.device) if self.precision == "int8" else self.precision
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=precision != "fp32")

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in channels-last order, in which convolutions are fastest."""
        return network.to(self.device, memory_format=torch.channels_last_3d)


def copy_to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; the host does not wait for a GPU, which needs memory that the system cannot move.

    It does wait for a copy from a GPU, which would otherwise be read before it is complete.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # no copy if the DataLoader has done it
    return tensor.to(device, non_blocking=device.type != "cpu")


def widest_float(device: torch.device) -> torch.dtype:
    """float64, for counts and scores that stay exact; the GPUs of Apple have float32 only."""
    return torch.float32 if device.type == "mps" else torch.float64


def choose_compute(device: str | None, precision: Precision | None, local_rank: int = 0) -> Compute:
    """Choose what the command line left open: a GPU if there is one, and its best precision.

    Args:
        device: "cpu", "cuda:N", "cuda" for this process's GPU, "mps" for the GPU of an Apple computer, or None.
        precision: one of `Precision`, or None.
        local_rank: index of this process's GPU, when torchrun started several processes.

    Raises:
        UserError: the device is unknown or missing, or does not support the precision.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use cpu, cuda, cuda:N or mps") from error
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: torch finds no GPU of Apple on this machine; use cpu, cuda or cuda:N")
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: expected cpu, cuda, cuda:N or mps")
    if chosen == torch.device("cuda"):
        chosen = torch.device("cuda", local_rank)
    if chosen.type == "cuda" and chosen.index >= torch.cuda.device_count():
        raise UserError(
            f"--device {chosen}: torch finds {torch.cuda.device_count()} GPUs on this machine; use a smaller "
            "number, or cpu"
        )
    if precision == "int8" and (chosen.type != "cpu" or not computes_int8()):
        raise UserError(
            f"--precision int8: expected a CPU with VNNI instructions, got {chosen} without them; leave the option out"
        )
    return Compute(device=chosen, precision=precision or best_float_precision(chosen))


def best_float_precision(device: torch.device) -> Precision:
    """bf16 on GPUs that compute in it, and on CPUs that are measured to be as fast in it as in fp32; else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return _fastest_on_cpu() if device.type == "cpu" and computes_bf16() else "fp32"


@functools.cache
def _fastest_on_cpu() -> Precision:
    """The faster one of fp32 and bf16, measured once: on some CPUs with bf16 instructions, fp32 is faster."""
    speeds = measure_convolutions()
    fastest, other = ("bf16", "fp32") if speeds["bf16"] >= speeds["fp32"] else ("fp32", "bf16")
    measured = f"measured {speeds[fastest]:.3g} against {speeds[other]:.3g} GFLOP/s in {other}"
    logger.info("precision: %s (%s)", fastest, measured)
    return fastest


def measure_convolutions() -> dict[Precision, float]:
    """GFLOP/s of the CPU in fp32 and bf16, in a 3D convolution as in the networks; takes a fraction of a second.

    The features grow with the number of threads, so that each has enough to do.
    """
    channels = MEASURED_CHANNELS
    features = torch.ones(1, channels, 2 * min(torch.get_num_threads(), 32), 64, 64)
    weight = torch.ones(channels, channels, 3, 3, 3)
    operations = 2 * features.numel() * weight[0].numel()
    layout = torch.channels_last_3d
    operands = {p: [x.to(DTYPES[p], memory_format=layout) for x in (features, weight)] for p in ("fp32", "bf16")}
    seconds: dict[Precision, float] = dict.fromkeys(operands, math.inf)
    started = time.perf_counter()
    for number in range(MEASURED_ROUNDS):
        if number > 0 and time.perf_counter() - started > MEASURED_SECONDS:
            break
        for precision, tensors in operands.items():  # alternately: another program may slow the CPU for a while
            with torch.no_grad():
                duration = _duration_s(functools.partial(F.conv3d, *tensors, padding=1))
            seconds[precision] = min(seconds[precision], duration)
    return {precision: operations / duration / 1e9 for precision, duration in seconds.items()}


def _duration_s(task: Callable[[], object]) -> float:
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def computes_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices; without that, convolutions in bf16 take minutes."""
    return _cpu_has("avx512_bf16", "amx_bf16")


def computes_int8() -> bool:
    """Whether the CPU sums products of 8-bit integers in 32 bits; without VNNI, sums in 16 bits would overflow."""
    return _cpu_has("avx512_vnni", "avx_vnni")


def _cpu_has(*alternatives: str) -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in alternatives)


def make_deterministic(device: torch.device) -> None:
    """Choose algorithms that sum in a fixed order.

    On a CPU all operations of this program have one, and on a GPU, which must not have been used yet, those of torch
    2.13. Should another torch lack one for a GPU, it warns, and runs agree up to rounding.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)

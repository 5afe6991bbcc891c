"""The device and the precision in which networks run."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from utils.errors import UserError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""int8 is for inference on CPUs; see models/int8.py."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager:
        """The autocast context of forward passes; weights stay float32."""
        precision = _best_float_precision(self.device) if self.precision == "int8" else self.precision
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=precision != "fp32")

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, in channels-last order, in which convolutions are fastest."""
        return network.to(self.device, memory_format=torch.channels_last_3d)


def choose_compute(device: str | None, precision: Precision | None, local_rank: int = 0) -> Compute:
    """Choose what the command line left open: a GPU if there is one, bf16 where the hardware supports it.

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
    return Compute(device=chosen, precision=precision or _best_float_precision(chosen))


def _best_float_precision(device: torch.device) -> Precision:
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "mps":
        return "fp32"
    return "bf16" if computes_bf16() else "fp32"


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

    On a CPU all operations of this program have one. On a GPU, which must not have been used yet, the backward passes
    of 3-D max-pooling and trilinear upsampling have none in torch: it warns, and runs agree up to rounding.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)

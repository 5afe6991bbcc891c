"""Where and in which precision networks run."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from utils.errors import UserError

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""int8 is for inference on CPUs: see models/int8.py."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device and a precision."""

    device: torch.device
    precision: Precision

    def autocast(self) -> AbstractContextManager:
        """The context in which forward passes run; weights stay float32."""
        precision = _float_precision(self.device) if self.precision == "int8" else self.precision
        return torch.autocast(self.device.type, dtype=DTYPES[precision], enabled=precision != "fp32")

    def place(self, network: nn.Module) -> nn.Module:
        """Move a network to the device, its convolutions in channels-last order, which they compute fastest in."""
        return network.to(self.device, memory_format=torch.channels_last_3d)


def choose_compute(device: str | None, precision: Precision | None, local_rank: int = 0) -> Compute:
    """Fill in what the command line left open: a GPU if there is one, bf16 where the hardware computes in it.

    Args:
        device: "cpu", "cuda:N", "cuda" for the GPU that is this process's own, or None.
        precision: or None.
        local_rank: which GPU of this machine, when torchrun started several processes.

    Raises:
        UserError: the device is unknown or not there, or does not compute in the precision.
    """
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: no such device; use cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected cpu, cuda or cuda:N")
    if chosen == torch.device("cuda"):
        chosen = torch.device("cuda", local_rank)
    if chosen.type == "cuda" and chosen.index >= torch.cuda.device_count():
        raise UserError(f"--device {chosen}: this machine has {torch.cuda.device_count()} GPUs that torch can use")
    if precision == "int8" and (chosen.type == "cuda" or not computes_int8()):
        raise UserError(
            f"--precision int8: it needs a CPU with VNNI instructions, not this {chosen.type}; leave it out"
        )
    return Compute(device=chosen, precision=precision or _float_precision(chosen))


def _float_precision(device: torch.device) -> Precision:
    return "bf16" if _computes_bf16(device) else "fp32"


def computes_int8() -> bool:
    """Whether products of 8-bit integers are summed up in 32 bits; without VNNI, 16 bits would overflow."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("avx_vnni"))


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def make_deterministic(device: torch.device) -> None:
    """Choose algorithms that add up in a fixed order.

    On a CPU, all of this program's are. On a GPU torch has none for the backward passes of 3-D max-pooling and
    trilinear upsampling; it warns where it takes another one, and runs agree but for rounding.

    Args:
        device: of the run; if a GPU, nothing may have been computed on it yet.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)

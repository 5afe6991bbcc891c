"""A stand-in for a GPU: torch's meta device, whose tensors have a size and a dtype, but no values.

An operation on tensors of two devices fails, and so does everything that needs a value on the host: `.item()`,
`bool()`, `.tolist()`, `nonzero`, indexing by a mask. On a GPU the host would wait there. Tensors on the CPU are real.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch._dynamo  # optimizers import it later, when `torch.Generator` is replaced
from torch.utils._python_dispatch import TorchDispatchMode

from utils.runtime.device import Compute

DEVICE = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}
"""Operations that copy, and which of their arguments is the source."""


@contextmanager
def stand_in_for_gpu() -> Iterator[None]:
    """A context in which programs can run on `DEVICE`."""
    cpu_generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", lambda _device=None: cpu_generator())
        patch.setattr(Compute, "autocast", lambda _compute: nullcontext())
        for module in (torch.utils._foreach_utils, sys.modules["torch.optim.optimizer"]):
            patch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type])
        yield


class RefusesWaits(TorchDispatchMode):
    """A context that fails at a copy between host and device for which the host of a GPU would wait."""

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        source = COPIES.get(func)
        if source is not None and args[source].device != result.device:
            is_copied_later = kwargs.get("non_blocking") or (source == 1 and len(args) > 2 and args[2])
            assert is_copied_later, f"the host waits for a copy: {tuple(result.shape)} to {result.device}"
        return result

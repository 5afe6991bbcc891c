"""A GPU that computes nothing: tensors have a device, a size and a dtype, but no values.

An operation on tensors of two devices fails, and so does everything that needs a value on the host: `.item()`,
`bool()`, `.tolist()`, `nonzero`, indexing by a mask. On a real GPU the host would wait there.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

GPU = torch.device("cuda", 0)


class _RefusesWaits(TorchDispatchMode):
    """Fails at a copy between host and device for which the host waits."""

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        source = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}.get(func)
        if source is not None and args[source].device != result.device:
            is_blocking = not (kwargs.get("non_blocking") or (source == 1 and len(args) > 2 and args[2]))
            assert result.device == GPU, f"a copy from the GPU: {tuple(result.shape)}"
            assert not is_blocking, f"the host waits for a copy to the GPU: {tuple(result.shape)}"
        return result


@contextmanager
def fake_gpu() -> Iterator[None]:
    """A context in which `GPU` exists."""
    cpu_generator, mode = torch.Generator, FakeTensorMode(allow_non_fake_inputs=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch, "Generator", lambda _device=None: cpu_generator())
        with mode, _RefusesWaits():
            yield

"""A stand-in for a GPU: a device of its own, whose tensors have values that the CPU computes.

An operation on its tensors and the CPU's fails, as on a GPU. Whatever the host of a GPU would wait for is noted:
`.item()`, `bool()`, `.tolist()`, `.cpu()`, `nonzero`, indexing by a mask, a copy to the device that is not `copy_to`'s.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch._dynamo  # optimizers import it later, when `torch.Generator` is replaced
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from utils.runtime.device import Compute

DEVICE = torch.device("lazy", 0)
"""A kind of device that torch knows by name, but for which its packages have no operations."""
CPU = torch.device("cpu")
aten = torch.ops.aten
SIZED_BY_VALUES = {
    aten._local_scalar_dense.default,  # item, bool, int, float
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_dim.default,
}
"""Operations whose result the host must know: a number, or a tensor whose size depends on values."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
COPIES = {aten._to_copy.default: 0, aten.copy_.default: 1}
"""Operations that copy, and which of their arguments is the source."""


class StandInTensor(torch.Tensor):
    """A tensor on `DEVICE`; `inner` has its values, on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        tensor = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=DEVICE, **layout)
        tensor.inner = inner
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, _types, _args=(), _kwargs=None):
        raise AssertionError(f"{func} on the stand-in device, outside of its context")

    def tolist(self):
        """As torch's, which refuses subclasses."""
        return self.cpu().tolist()


class StandInMode(TorchDispatchMode):
    """Computes the operations on `DEVICE`."""

    def __init__(self):
        super().__init__()
        self.waits = []
        """Names of the operations for which the host of a GPU would wait, in order."""

    def __torch_dispatch__(self, func, _types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        own = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, StandInTensor)}
        if func in COPIES:
            target = args[0].device if func is aten.copy_.default else kwargs.get("device") or args[0].device
            self._note_copy(func, args, kwargs, target)
        else:
            target = kwargs.get("device") or (DEVICE if own else CPU)
            self._note_wait(func, tensors, args)
        if kwargs.get("device") is not None:
            kwargs["device"] = CPU
        result = func(*tree_map_only(StandInTensor, _inner, args), **tree_map_only(StandInTensor, _inner, kwargs))
        if target.type != DEVICE.type:
            return result
        return tree_map_only(torch.Tensor, lambda one: own[id(one)] if id(one) in own else StandInTensor(one), result)

    def _note_copy(self, func, args, kwargs, target):
        source = args[COPIES[func]].device
        is_for_later = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
        if source.type != target.type:
            assert not is_for_later or target.type != "cpu", "a copy to the CPU would be read before it is complete"
            self.waits += [] if is_for_later else ["copy"]

    def _note_wait(self, func, tensors, args):
        is_on_device = [isinstance(tensor, StandInTensor) for tensor in tensors]
        if not any(is_on_device):
            return
        for tensor, is_own in zip(tensors, is_on_device, strict=True):
            assert is_own or tensor.dim() == 0, f"{func}: {tuple(tensor.shape)} is on the CPU, other tensors are not"
        if func in SIZED_BY_VALUES or (func in INDEXING and any(_is_mask(index) for index in args[1])):
            self.waits.append(func.overloadpacket.__name__)


def _inner(tensor):
    return tensor.inner


def _is_mask(index):
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def stand_in_device() -> Iterator[StandInMode]:
    """A context in which programs can run on `DEVICE`."""
    cpu_generator, lifts_on_cpu = torch.Generator, torch._C._only_lift_cpu_tensors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "Generator", lambda _device=None: cpu_generator())
        patch.setattr(Compute, "autocast", lambda _compute: nullcontext())
        patch.setattr(torch, DEVICE.type, torch.cpu, raising=False)  # checkpoints look for the device's module
        for module in (torch.utils._foreach_utils, sys.modules["torch.optim.optimizer"]):
            patch.setattr(module, "_get_fused_kernels_supported_devices", lambda: [DEVICE.type, "cpu"])
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(..., device=DEVICE)` then copies from the CPU
        try:
            with StandInMode() as mode:
                yield mode
        finally:
            torch._C._set_only_lift_cpu_tensors(lifts_on_cpu)

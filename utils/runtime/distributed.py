"""One process, or the processes that torchrun started."""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError
from utils.runtime.device import widest_float


@dataclass(frozen=True)
class DistributedContext:
    """This process among the ranks that train together."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all ranks have arrived here."""
        if self.world_size > 1:
            distributed.barrier()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is true on at least one rank; the same answer on all ranks."""
        if self.world_size == 1:
            return flag
        return bool(found_on_any_rank(torch.tensor([flag], device=device)))

    def all_reduce_mean(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Average named scalars over the ranks; all ranks must name the same ones in the same order."""
        if self.world_size == 1 or not values:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked / self.world_size, strict=True))

    def broadcast_from_rank0(self, tensors: list[torch.Tensor]) -> None:
        """Overwrite the tensors of every rank with those of rank 0."""
        for tensor in tensors if self.world_size > 1 else ():
            distributed.broadcast(tensor, src=0)

    def wrap(self, network: nn.Module, *, broadcast_buffers: bool) -> nn.Module:
        """Wrap a trained network, on its device, so that its gradients are averaged over the ranks.

        Args:
            network: may have parameters without gradient: a SOS-Net branch whose organ is not in any crop.
            broadcast_buffers: whether rank 0's batch statistics replace the others' before every step.
        """
        if self.world_size == 1:
            return network
        device = next(network.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=ids, find_unused_parameters=True, forward_sync_buffers=broadcast_buffers
        )


def distributed_context() -> DistributedContext:
    """This process among those that torchrun started; a single one without torchrun.

    Raises:
        UserError: the environment has some of torchrun's variables, but not all of them.
    """
    if "WORLD_SIZE" not in os.environ:
        return DistributedContext()
    values = {name: os.environ.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    if not all(value.isdecimal() for value in values.values()):
        found = ", ".join(f"{name}={value}" for name, value in values.items())
        raise UserError(
            f"expected whole numbers in the environment variables of torchrun, got {found}; start the command with "
            "torchrun, or unset WORLD_SIZE to train in one process"
        )
    return DistributedContext(*map(int, values.values()))


def current_distributed_context() -> DistributedContext:
    """This process among those that it is connected with at the moment."""
    connected = distributed.is_available() and distributed.is_initialized()
    return distributed_context() if connected else DistributedContext()


def num_restarts() -> int:
    """How often torchrun has restarted the ranks because one of them crashed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def is_under_torchrun() -> bool:
    """Whether torchrun started this process; it takes any exit status but 0 for a failure."""
    return "TORCHELASTIC_RUN_ID" in os.environ


_kept_groups: list[object] = []
"""For the life of the process. Otherwise the last reference to a group can be that of a DistributedDataParallel. When
Python deletes it, the main thread waits for gloo's thread and holds the lock (GIL) that gloo's thread may wait for."""


@contextmanager
def process_group(ranks: DistributedContext, device_type: str) -> Iterator[None]:
    """Connect the ranks, by NCCL on GPUs and gloo on CPUs."""
    if ranks.world_size == 1:
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    backend = "nccl" if device_type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=_shared_store(), rank=ranks.rank, world_size=ranks.world_size)
    _kept_groups.append(distributed.group.WORLD)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def decided_by_rank0(ranks: DistributedContext, name: str, decide: Callable[[], str]) -> str:
    """Rank 0's decision, made by `decide`, on every rank; the ranks need not be connected yet."""
    if ranks.world_size == 1:
        return decide()
    store = _shared_store()
    if ranks.is_rank_zero:
        store.set(name, decide())
    return store.get(name).decode()


def _shared_store() -> distributed.Store:
    """The store of texts in which the ranks find each other."""
    store = _store_at(os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", ""))
    # Without a prefix of their own, restarted processes would find their predecessors' addresses under the same keys.
    return distributed.PrefixStore(f"restart_{num_restarts()}", store)


@functools.cache
def _store_at(_address: str, _port: str) -> distributed.Store:
    """Kept for the process: without torchrun, rank 0 serves the others, which may not have read all yet."""
    return next(distributed.rendezvous("env://"))[0]


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the connected ranks; gradients flow back to every rank's summand.

    All ranks compute the same from the sum, and each adds its own copy of the gradient. DistributedDataParallel divides
    by the number of ranks when it averages: the result is the gradient of the whole batch's loss.
    """
    return _Sum.apply(tensor) if current_distributed_context().world_size > 1 else tensor


class _Sum(torch.autograd.Function):
    """A sum over the ranks whose backward pass sums the gradients over the ranks."""

    @staticmethod
    def forward(_context: object, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    backward = forward


def mean_count(count: int | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Mean number of elements per connected rank; at least a small number, so that the mean of no elements is 0.

    Dividing local sums by it makes DDP's averaged gradient that of the global mean.

    Returns:
        Scalar, float32 on the device; the host does not wait for it.
    """
    ranks = current_distributed_context()
    dtype = widest_float(device)
    total = count.to(dtype) if torch.is_tensor(count) else torch.full((), count, dtype=dtype, device=device)
    if ranks.world_size > 1:
        total = total.clone()
        distributed.all_reduce(total)
        total = total / ranks.world_size
    return total.clamp(min=1e-6).float()


def found_on_any_rank(present: torch.Tensor) -> torch.Tensor:
    """Element-wise "or" of a (n,) bool tensor over the connected ranks."""
    if current_distributed_context().world_size == 1:
        return present
    found = present.float()
    distributed.all_reduce(found)
    return found > 0


def gather_rows(rows: torch.Tensor, total: int) -> torch.Tensor:
    """Gather the rows that the ranks computed in turns: (total, ...), the same on every rank.

    Args:
        rows: (n, ...) float, of this rank: its row i is row `rank + i * world_size` of the result.
        total: number of rows of all ranks.
    """
    ranks = current_distributed_context()
    if ranks.world_size == 1:
        return rows
    gathered = rows.new_zeros(total, *rows.shape[1:])
    gathered[ranks.rank :: ranks.world_size] = rows
    distributed.all_reduce(gathered)
    return gathered

"""One process, or the processes that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class DistributedContext:
    """This process among its equals."""

    rank: int = 0
    local_rank: int = 0
    count: int = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            distributed.barrier()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up on at least one rank: what all ranks then do together."""
        if self.count == 1:
            return flag
        raised = torch.tensor([float(flag)], device=device)
        distributed.all_reduce(raised)
        return bool(raised.item())

    def mean(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Average named scalars over the ranks; all ranks must name the same ones in the same order."""
        if self.count == 1 or not values:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked / self.count, strict=True))

    def broadcast_from_rank0(self, tensors: list[torch.Tensor]) -> None:
        """Give every rank the first one's values, in place."""
        for tensor in tensors if self.count > 1 else ():
            distributed.broadcast(tensor, src=0)

    def wrap(self, network: nn.Module, *, copy_buffers: bool) -> nn.Module:
        """Let a trained network average its gradients over the ranks.

        Parameters may be without gradient in a step: a SOS-Net branch whose organ is not in any crop.

        Args:
            network: on its device.
            copy_buffers: whether the first rank's batch statistics replace the others' before every step.
        """
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(
            network, device_ids=ids, find_unused_parameters=True, forward_sync_buffers=copy_buffers
        )


def distributed_context() -> DistributedContext:
    """This process among those that torchrun started; without torchrun a single one."""
    if "WORLD_SIZE" not in os.environ:
        return DistributedContext()
    return DistributedContext(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


def current_distributed_context() -> DistributedContext:
    """This process among those that it is connected with."""
    connected = distributed.is_available() and distributed.is_initialized()
    return distributed_context() if connected else DistributedContext()


def sum_over_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Sum a tensor over the connected ranks; gradients flow back to every rank's summand.

    What is computed from the sum is the same on all ranks, so each adds its own copy of the gradient: divided by the
    ranks' count when DistributedDataParallel averages, this is the gradient of the loss of the whole batch.
    """
    return _Sum.apply(tensor) if current_distributed_context().count > 1 else tensor


class _Sum(torch.autograd.Function):
    """A sum over the ranks, and over their gradients of it."""

    @staticmethod
    def forward(_context: object, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: object, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def mean_count(count: int, device: torch.device) -> float:
    """Average how many summands each connected rank has, for a mean over all of them.

    A rank's sum divided by it, averaged over the ranks as gradients are, is the mean of the whole batch.

    Args:
        count: of this rank, may be 0.
        device: of the summands.

    Returns:
        At least a small number, so that the mean of nothing is 0.
    """
    ranks = current_distributed_context()
    if ranks.count > 1:
        total = torch.tensor([float(count)], dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        count = total.item() / ranks.count
    return max(count, 1e-6)


def found_on_any_rank(present: torch.Tensor) -> torch.Tensor:
    """For each of some things, whether at least one connected rank has it: (n,) bool, from this rank's (n,) bool."""
    if current_distributed_context().count == 1:
        return present
    found = present.float()
    distributed.all_reduce(found)
    return found > 0


def gather_rows(rows: torch.Tensor, total: int) -> torch.Tensor:
    """Put together the rows that the ranks worked out in turns.

    Args:
        rows: (n, ...) float, of this rank: row 0 is row `rank` of the result, row 1 is row `rank + count`, and so on.
        total: rows of all ranks.

    Returns:
        (total, ...), the same on every rank.
    """
    ranks = current_distributed_context()
    if ranks.count == 1:
        return rows
    gathered = rows.new_zeros(total, *rows.shape[1:])
    gathered[ranks.rank :: ranks.count] = rows
    distributed.all_reduce(gathered)
    return gathered


@contextmanager
def joined(ranks: DistributedContext, device_type: str) -> Iterator[None]:
    """Connect the ranks, by NCCL on GPUs and gloo on CPUs."""
    if ranks.count == 1:
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    # Processes that torchrun started again would find their predecessors' addresses under the same keys.
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, count = next(distributed.rendezvous("env://"))
    store = distributed.PrefixStore(f"restart_{restarts}", store)
    backend = "nccl" if device_type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=count)
    try:
        yield
    finally:
        distributed.destroy_process_group()

"""One process, or the processes that torchrun started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among its equals."""

    rank: int = 0
    local_rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Average named scalars over the ranks; all ranks must name the same ones in the same order."""
        if self.count == 1 or not values:
            return values
        stacked = torch.stack([value.float() for value in values.values()])
        distributed.all_reduce(stacked)
        return dict(zip(values, stacked / self.count, strict=True))

    def wrap(self, network: nn.Module) -> nn.Module:
        """Let a trained network average its gradients over the ranks.

        Parameters may be without gradient in a step: a SOS-Net branch whose organ is not in any crop.
        """
        if self.count == 1:
            return network
        device = next(network.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids, find_unused_parameters=True)


def find_ranks() -> Ranks:
    """This process among those that torchrun started; without torchrun a single one."""
    if "WORLD_SIZE" not in os.environ:
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))


@contextmanager
def joined(ranks: Ranks, device_type: str) -> Iterator[None]:
    """Connect the ranks, by NCCL on GPUs and gloo on CPUs."""
    if ranks.count == 1:
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(ranks.local_rank)
    distributed.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()

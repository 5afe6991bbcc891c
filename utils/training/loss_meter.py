"""What an epoch has added up so far; part of a checkpoint that is written in its middle."""

from dataclasses import dataclass, field
from typing import Any

import torch

from utils.runtime.distributed import DistributedContext


@dataclass
class LossMeter:
    """Steps of the epoch in progress and the sums of their losses."""

    num_steps: int = 0
    """Also those left out because their loss was not finite."""
    num_skipped: int = 0
    skipped_in_a_row: int = 0
    """Ends with the last step; the next epoch goes on counting."""
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Count a step."""
        self.num_steps += 1
        self.skipped_in_a_row = 0
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value

    def skip(self) -> None:
        """Count a step whose loss was not finite."""
        self.num_steps += 1
        self.num_skipped += 1
        self.skipped_in_a_row += 1

    def share(self, ranks: DistributedContext) -> None:
        """Make the sums those that the ranks have on average."""
        self.sums = ranks.all_reduce_mean(self.sums)

    def means(self) -> dict[str, float]:
        """Mean losses of the steps taken; and, if any were not, their number as "skipped"."""
        num_taken = self.num_steps - self.num_skipped
        values = {name: float(total / num_taken) for name, total in self.sums.items()}
        return {**values, "skipped": self.num_skipped} if self.num_skipped else values

    def state(self) -> dict[str, Any]:
        """Plain values and tensors on the CPU, for a checkpoint."""
        return {**vars(self), "sums": {name: total.cpu() for name, total in self.sums.items()}}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> "LossMeter":
        """What `state` described."""
        return cls(**{**state, "sums": {name: total.to(device) for name, total in state["sums"].items()}})

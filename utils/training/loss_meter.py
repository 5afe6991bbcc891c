"""The running losses of an epoch; part of a checkpoint that is written in the middle of one."""

from dataclasses import dataclass, field
from typing import Any

import torch

from utils.runtime.distributed import DistributedContext

RENAMED_FIELDS = {"num_skipped": "num_discarded", "skipped_in_a_row": "num_discarded_in_a_row"}
"""Keys in the checkpoints of earlier releases."""


@dataclass
class LossMeter:
    """Counts the steps of the current epoch and sums up their losses."""

    num_steps: int = 0
    """Discarded ones included."""
    num_discarded: int = 0
    """Steps left out because a loss or gradient was not finite."""
    num_discarded_in_a_row: int = 0
    """Up to the last step; goes on counting in the next epoch."""
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, losses: dict[str, torch.Tensor], is_discarded: torch.Tensor) -> None:
        """Count a step; its losses count unless it was discarded, a bool scalar on the device."""
        self.num_steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + torch.where(is_discarded, 0, value)

    def note(self, is_discarded: bool) -> None:
        """Note for a step that was added, in order, whether it was discarded."""
        self.num_discarded += is_discarded
        self.num_discarded_in_a_row = self.num_discarded_in_a_row + 1 if is_discarded else 0

    def all_reduce_mean(self, ranks: DistributedContext) -> None:
        """Replace the sums by their means over the ranks."""
        self.sums = ranks.all_reduce_mean(self.sums)

    def means(self) -> dict[str, float]:
        """Mean losses of the steps made; and the number of discarded steps, if there are any."""
        num_made = self.num_steps - self.num_discarded
        values = {name: float(total / num_made) for name, total in self.sums.items()} if num_made else {}
        return {**values, "discarded_steps": self.num_discarded} if self.num_discarded else values

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors on the CPU, for a checkpoint."""
        return {**vars(self), "sums": {name: total.cpu() for name, total in self.sums.items()}}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device) -> "LossMeter":
        """Rebuild the meter that returned `state`."""
        values = {RENAMED_FIELDS.get(name, name): value for name, value in state.items()}
        return cls(**{**values, "sums": {name: total.to(device) for name, total in state["sums"].items()}})

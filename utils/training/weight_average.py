"""Exponential moving average (EMA) of the trained weights, which is validated and kept instead of the last weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from utils.runtime.device import widest_float


class WeightAverage:
    """Averages the weights and batch statistics of networks over the steps of a training.

    The average of the first steps follows the weights faster: its decay is (1 + n) / (10 + n) at step n, if that is
    less than `decay`. A decay of 0 averages nothing and needs no memory. All of it stays on the device.
    """

    def __init__(self, networks: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self._weights = {
            f"{name}.{key}": tensor
            for name, network in (networks if decay else {}).items()
            for key, tensor in network.state_dict().items()  # it shares the memory of the network's own tensors
            if tensor.is_floating_point()
        }
        self._average = {name: tensor.clone() for name, tensor in self._weights.items()}
        device = next((tensor.device for tensor in self._weights.values()), torch.device("cpu"))
        self._num_updates = torch.zeros((), dtype=widest_float(device), device=device)

    @torch.no_grad()
    def update(self, is_made: torch.Tensor) -> None:
        """Add the present weights after a step, if it was made: a bool scalar on the device."""
        if not self._weights:
            return
        decay = ((1 + self._num_updates) / (10 + self._num_updates)).clamp(max=self.decay)
        share = torch.where(is_made, 1 - decay, 0).float()  # 0 changes nothing
        self._num_updates += is_made
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), [share] * len(self._weights))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the networks have the averaged weights."""
        last = {name: tensor.clone() for name, tensor in self._weights.items()}
        self._copy(self._weights, self._average)
        try:
            yield
        finally:
            self._copy(self._weights, last)

    def state_dict(self) -> dict[str, Any]:
        """The average, for a checkpoint."""
        return {"average": self._average, "num_updates": int(self._num_updates)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; if that run did not average, start from the present weights."""
        average = state.get("average")
        self._copy(self._average, average or self._weights)
        self._num_updates.fill_(state["num_updates"] if average else 0)

    @staticmethod
    @torch.no_grad()
    def _copy(targets: Mapping[str, torch.Tensor], sources: Mapping[str, torch.Tensor]) -> None:
        for name, target in targets.items():
            target.copy_(sources[name])

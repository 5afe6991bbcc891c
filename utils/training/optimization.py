"""Optimizers, loss scaling, learning rate, and the undoing of steps that are not finite."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from utils.config.preset import ScheduleSettings
from utils.runtime.device import Compute

WARMUP_START = 0.01
"""Learning rate of the first step, relative to the full one."""


class NonFiniteError(Exception):
    """A loss or a gradient is infinite or NaN; `on_this_rank` tells whether this rank's samples caused it."""

    def __init__(self, message: str, *, on_this_rank: bool) -> None:
        super().__init__(message)
        self.on_this_rank = on_this_rank


class Optimizers:
    """The optimizers of the trained networks, the scaler of fp16 losses, and a copy of the batch statistics."""

    def __init__(self, networks: Mapping[str, nn.Module], settings: ScheduleSettings, compute: Compute) -> None:
        self.by_network = {name: build_optimizer(net.parameters(), settings) for name, net in networks.items()}
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        self._num_steps_since_scaler_update = 0
        self._statistics = [buffer for network in networks.values() for buffer in network.buffers()]
        self._saved_statistics = [buffer.clone() for buffer in self._statistics]

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self.by_network.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.by_network.values():
            optimizer.zero_grad(set_to_none=True)

    def save_batch_statistics(self) -> None:
        """Copy the batch statistics, which a forward pass with non-finite numbers would spoil."""
        _copy(self._saved_statistics, self._statistics)

    def require_finite_gradients(self, names: Sequence[str]) -> None:
        """Check the gradients of the named networks; ranks hold the same ones, so they agree.

        In fp16 the scaler leaves out a step with infinite gradients by itself and lowers its scale.

        Raises:
            NonFiniteError: a gradient is infinite or NaN.
        """
        for name in () if self.scaler.is_enabled() else names:
            groups = self.by_network[name].param_groups
            gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
            if gradients and not torch.isfinite(nn.utils.get_total_norm(gradients)):
                raise NonFiniteError(f"the gradient of {name} is not finite", on_this_rank=True)

    def step(self, names: Sequence[str]) -> None:
        """Make a step of the named networks' optimizers."""
        for name in names:
            self.scaler.step(self.by_network[name])
            self._num_steps_since_scaler_update += 1

    def update_scaler(self) -> None:
        """Adapt the scale of fp16 losses after all networks have made their step."""
        self.scaler.update()
        self._num_steps_since_scaler_update = 0

    def discard_step(self) -> None:
        """Drop the gradients and restore the batch statistics of a step that is not made."""
        self.zero_grad()
        _copy(self._statistics, self._saved_statistics)
        if self._num_steps_since_scaler_update:  # of an earlier objective: the scaler must know that it ended
            self.update_scaler()

    def state_dict(self) -> dict[str, dict]:
        """The state of the optimizers and the scaler, for a checkpoint."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.by_network.items()}
        return {"optimizers": optimizers, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        """Restore what `state_dict` returned."""
        for name, optimizer in self.by_network.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if state["scaler"]:  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler"])


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)


def build_optimizer(parameters: Iterable[nn.Parameter], settings: ScheduleSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam, as the preset says."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":  # torch's fused SGD fails if a SOS-Net branch gets its first gradient later
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def learning_rate(settings: ScheduleSettings, step: int, total_steps: int) -> float:
    """The learning rate of a step, counted from 0.

    The preset gives warm-up and decay in epochs. In a shorter or longer run they keep their fraction of the run.
    """
    progress, warmup = step / total_steps, settings.warmup_epochs / settings.epochs
    if progress < warmup:
        factor = WARMUP_START ** (1 - progress / warmup)
    elif settings.decay == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    else:
        factor = settings.decay_factor ** sum(progress >= epoch / settings.epochs for epoch in settings.decay_epochs)
    return settings.learning_rate * factor

"""Optimizers, loss scaling, learning rate, and the undoing of steps that are not finite."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from utils.config.preset import ScheduleSettings
from utils.runtime.device import Compute

WARMUP_START = 0.01
"""Learning rate of the first step, relative to the full one."""


class Optimizers:
    """The optimizers of the trained networks, the scaler of fp16 losses, and a copy of the batch statistics.

    Whether numbers are finite is decided on the device: the host does not wait for it. Fused optimizers leave out a
    step if their attribute `found_inf` says so; then neither weights nor their own state change.
    """

    def __init__(self, networks: Mapping[str, nn.Module], settings: ScheduleSettings, compute: Compute) -> None:
        self.by_network = {name: build_optimizer(net.parameters(), settings) for name, net in networks.items()}
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        self._has_unscaled = False
        self._device = compute.device
        by_dtype: dict[torch.dtype, list[torch.Tensor]] = {}
        for network in networks.values():
            for buffer in network.buffers():
                by_dtype.setdefault(buffer.dtype, []).append(buffer)
        self._statistics = list(by_dtype.values())
        self._saved_statistics: list[torch.Tensor] = []

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self.by_network.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for optimizer in self.by_network.values():
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def save_batch_statistics(self) -> None:
        """Copy the batch statistics, which a forward pass with non-finite numbers would spoil."""
        self._saved_statistics = [_flatten(buffers) for buffers in self._statistics]

    @torch.no_grad()
    def restore_batch_statistics(self, is_made: torch.Tensor) -> None:
        """Undo the changes since `save_batch_statistics`, unless the step is made: a bool scalar on the device."""
        for buffers, saved in zip(self._statistics, self._saved_statistics, strict=True):
            kept = torch.where(is_made, _flatten(buffers), saved).split([buffer.numel() for buffer in buffers])
            torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(kept, buffers, strict=True)])
        self._saved_statistics = []

    def step(self, names: Sequence[str], allowed: torch.Tensor) -> torch.Tensor:
        """Make a step of the named networks' optimizers if all of their gradients are finite.

        Ranks hold the same gradients, so they agree.

        Args:
            names: of the networks.
            allowed: bool scalar on the device; if false, no step is made.

        Returns:
            Bool scalar on the device: whether the step was made.
        """
        optimizers = [self.by_network[name] for name in names]
        weights = [weight for one in optimizers for group in one.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        if not gradients:  # no crop has a small organ
            return allowed
        for optimizer in optimizers if self.scaler.is_enabled() else ():
            self.scaler.unscale_(optimizer)
            self._has_unscaled = True
        is_made = allowed & nn.utils.get_total_norm(gradients).isfinite()
        for optimizer in optimizers:
            optimizer.found_inf = (~is_made).float()
            optimizer.step()
        return is_made

    def update_scaler(self) -> None:
        """Adapt the scale of fp16 losses after all networks have made their step."""
        if self._has_unscaled:
            self.scaler.update()
        self._has_unscaled = False

    def state_dict(self) -> dict[str, dict]:
        """The state of the optimizers and the scaler, for a checkpoint."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.by_network.items()}
        return {"optimizers": optimizers, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, dict]) -> None:
        """Restore what `state_dict` returned."""
        for name, optimizer in self.by_network.items():
            optimizer.load_state_dict(state["optimizers"][name])
            for group in optimizer.param_groups:
                group["fused"] = True  # earlier releases had SGD that was not fused, and perhaps without all momenta
            _start_momenta(optimizer)
        if state["scaler"]:  # empty unless the run was in fp16
            self.scaler.load_state_dict(state["scaler"])


def _flatten(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def build_optimizer(parameters: Iterable[nn.Parameter], settings: ScheduleSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam, as the preset says; both fused."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay, fused=True)
        _start_momenta(optimizer)
        return optimizer
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def _start_momenta(optimizer: torch.optim.Optimizer) -> None:
    """Give SGD the momenta that it lacks, zeros.

    torch's fused SGD fails if a weight, of a SOS-Net branch, gets its first gradient later than others. If the first
    step is not made, it would also start with uninitialized momenta.
    """
    for group in optimizer.param_groups:
        for weight in group["params"] if group.get("momentum") else ():
            if optimizer.state[weight].get("momentum_buffer") is None:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


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

"""Backward pass and optimizer step, and what is undone where numbers are no longer finite."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from utils.config.preset import ScheduleSettings
from utils.runtime.device import Compute
from utils.runtime.distributed import DistributedContext


class NotFiniteError(Exception):
    """A loss or a gradient is infinite or no number, on this rank or another; no weight was changed by it."""

    def __init__(self, what: str, *, ours: bool) -> None:
        super().__init__(what)
        self.ours = ours
        """Whether this rank's samples caused it."""


class OptimizerStep:
    """Backward pass and optimizer step, in the precision of the run.

    A step may be put together from several batches, whose gradients add up to their mean.

    Args:
        optimizers: by the name of the part that each trains.
        compute: device and precision.
        ranks: must all find a loss finite.
    """

    def __init__(
        self, optimizers: Mapping[str, torch.optim.Optimizer], compute: Compute, ranks: DistributedContext | None = None
    ) -> None:
        self.optimizers = optimizers
        self.forward = compute.autocast
        self.compute = compute
        self.ranks = ranks or DistributedContext()
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")
        self.begin(0, 1)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def begin(self, index: int, num_batches: int) -> None:
        """Say which batch of how many that make one step comes next."""
        self.is_first_batch, self.is_last_batch = index == 0, index + 1 == num_batches
        self.share = 1 / num_batches

    def __call__(self, loss: torch.Tensor, *part_names: str) -> None:
        """Minimize `loss` by one step of the optimizers of the named parts, once all batches of the step were here.

        Raises:
            NotFiniteError: on all ranks, before any of these weights changes.
        """
        finite = bool(torch.isfinite(loss))
        if self.ranks.any(not finite, loss.device):
            raise NotFiniteError(f"the loss is {loss.item()}", ours=not finite)
        if self.is_first_batch:
            for name in part_names:
                self.optimizers[name].zero_grad(set_to_none=True)
        self.scaler.scale(loss * self.share).backward()
        if not self.is_last_batch:
            return
        for name in part_names:
            self._require_finite_gradients(name)
        for name in part_names:
            self.scaler.step(self.optimizers[name])

    def end(self) -> None:
        """Adapt the scale of fp16 losses after a step."""
        self.scaler.update()

    def drop(self) -> None:
        """Forget the gradients of a step that is not taken."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _require_finite_gradients(self, name: str) -> None:
        """Ranks hold the same gradients here, so they agree; in fp16 the scaler leaves such a step out itself."""
        if self.scaler.is_enabled():
            return
        groups = self.optimizers[name].param_groups
        gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
        if gradients and not torch.isfinite(nn.utils.get_total_norm(gradients)):
            raise NotFiniteError(f"the gradient of {name} is not finite", ours=True)


class BatchNormSnapshot:
    """Keeps the batch statistics of networks, to undo what a forward pass with non-finite numbers did to them."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.buffers = [buffer for network in networks for buffer in network.buffers()]
        self.kept = [buffer.clone() for buffer in self.buffers]

    def keep(self) -> None:
        """Remember them as they are."""
        _copy(self.kept, self.buffers)

    def restore(self) -> None:
        """Put them back."""
        _copy(self.buffers, self.kept)


def _copy(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> None:
    if targets:
        with torch.no_grad():
            torch._foreach_copy_(targets, sources)


WARMUP_START = 0.01


def build_optimizer(parameters: Iterable[nn.Parameter], settings: ScheduleSettings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9, or Adam, as the preset says."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":  # not fused: torch's fails where a branch of SOS-Net first gets a gradient later
        return torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def learning_rate(settings: ScheduleSettings, step: int, total_steps: int) -> float:
    """The learning rate of a step.

    Warm-up and decay landmarks are given in the preset's epochs and keep their share of the run when it is shortened
    or prolonged.

    Args:
        settings: learning rate, epochs, warm-up, decay.
        step: counted from 0.
        total_steps: of this run.
    """
    progress, warmup = step / total_steps, settings.warmup_epochs / settings.epochs
    if progress < warmup:
        factor = WARMUP_START ** (1 - progress / warmup)
    elif settings.decay == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    else:
        factor = settings.decay_factor ** sum(progress >= epoch / settings.epochs for epoch in settings.decay_epochs)
    return settings.learning_rate * factor

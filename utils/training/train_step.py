"""One training step, from the learning rate to the optimizers' steps."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.runtime.device import copy_to
from utils.runtime.distributed import found_on_any_rank
from utils.training.optimization import Optimizers
from utils.training.stage import Objective, Stage


class StepResult(NamedTuple):
    """What is known on the device after a step; scalars."""

    losses: dict[str, torch.Tensor]
    """By name, means over the microbatches; "loss" is that of the last objective."""
    loss_sum: torch.Tensor
    """Of all objectives and microbatches of this rank: not finite if one of them is not."""
    losses_are_finite: torch.Tensor
    """bool: on all ranks."""
    is_made: torch.Tensor
    """bool: whether the networks changed; the same on all ranks."""
    is_discarded: torch.Tensor
    """bool: whether the step was left out for a loss or a gradient that is not finite. In fp16 a gradient may be too
    large for the scale of the losses: that step is not made either, but it is no fault."""


def train_step(stage: Stage, microbatches: Sequence[tuple], optimizers: Optimizers, rate: float) -> StepResult:
    """Make one step of the optimizers with the mean gradient of the microbatches.

    If a loss or gradient is not finite, here or on another rank, the networks of that objective and of those after it
    do not change on any rank, and all batch statistics are restored. This is decided on the device.

    Args:
        stage: computes the losses; its trained networks are in training mode.
        microbatches: collated samples of this rank.
        optimizers: of the trained networks.
        rate: the learning rate.
    """
    device = stage.compute.device
    optimizers.set_learning_rate(rate)
    optimizers.zero_grad()
    optimizers.save_batch_statistics()
    means: dict[str, torch.Tensor] = {}
    loss_sum, is_made = torch.zeros((), device=device), torch.ones((), dtype=torch.bool, device=device)
    for index, sample in enumerate(microbatches):
        is_last = index + 1 == len(microbatches)
        batch = stage.augment(_volumes_to_device(sample, device))
        terms: dict[str, torch.Tensor] = {}
        with ExitStack() if is_last else _no_gradient_sync(stage.wrapped.values()):
            for objective in _forward_in_autocast(stage, batch):  # the adversarial stage has two
                loss_sum = loss_sum + objective.loss.detach()
                optimizers.scaler.scale(objective.loss / len(microbatches)).backward()
                if is_last:
                    losses_are_finite = ~found_on_any_rank(~loss_sum.isfinite())
                    is_made = optimizers.step(objective.networks, is_made & losses_are_finite)
                terms |= {"loss": objective.loss, **objective.terms}
        for name, value in terms.items():
            means[name] = means.get(name, 0) + value.detach() / len(microbatches)
    optimizers.update_scaler()
    optimizers.restore_batch_statistics(is_made)
    is_discarded = ~losses_are_finite if optimizers.scaler.is_enabled() else ~is_made
    return StepResult(means, loss_sum, losses_are_finite, is_made, is_discarded)


def _volumes_to_device(sample: tuple, device: torch.device) -> Any:
    """Copy the volumes of a sample, (B, D, H, W); the host computes with the few numbers, and would wait for them."""
    moved = (copy_to(item, device) if torch.is_tensor(item) and item.dim() > 3 else item for item in sample)
    return type(sample)(*moved)


def _no_gradient_sync(networks: Iterable[nn.Module]) -> ExitStack:
    """A context in which ranks do not average gradients yet, because those of another microbatch will be added."""
    stack = ExitStack()
    for network in networks:
        inner = getattr(network, "_orig_mod", network)  # without torch.compile's wrapper
        if isinstance(inner, DistributedDataParallel):
            stack.enter_context(inner.no_sync())
    return stack


def _forward_in_autocast(stage: Stage, batch: Any) -> Iterator[Objective]:
    """The objectives of a batch; autocast covers their computation, but not the backward passes in between."""
    objectives = stage.training_step(batch)
    while True:
        with stage.compute.autocast():
            objective = next(objectives, None)
        if objective is None:
            return
        yield objective

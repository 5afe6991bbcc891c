"""One training step, from the learning rate to the optimizers' steps."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.runtime.distributed import current_distributed_context
from utils.training.optimization import NonFiniteError, Optimizers
from utils.training.stage import Objective, Stage


def train_step(
    stage: Stage, microbatches: Sequence[tuple], optimizers: Optimizers, rate: float
) -> dict[str, torch.Tensor]:
    """Make one step of the optimizers with the mean gradient of the microbatches.

    Args:
        stage: computes the losses; its trained networks are in training mode.
        microbatches: collated samples of this rank.
        optimizers: of the trained networks.
        rate: the learning rate.

    Returns:
        Scalars by name, means over the microbatches; "loss" is that of the last objective.

    Raises:
        NonFiniteError: a loss or gradient is not finite, here or on another rank. It is raised on all ranks before the
            networks concerned change; gradients are dropped and batch statistics restored.
    """
    optimizers.set_learning_rate(rate)
    optimizers.zero_grad()
    optimizers.save_batch_statistics()
    means: dict[str, torch.Tensor] = {}
    try:
        for index, sample in enumerate(microbatches):
            is_last = index + 1 == len(microbatches)
            batch = stage.augment(_to_device(sample, stage.compute.device))
            terms: dict[str, torch.Tensor] = {}
            with ExitStack() if is_last else _no_gradient_sync(stage.wrapped.values()):
                for objective in _forward_in_autocast(stage, batch):  # the adversarial stage has two
                    _require_finite_loss(objective.loss)
                    optimizers.scaler.scale(objective.loss / len(microbatches)).backward()
                    if is_last:
                        optimizers.require_finite_gradients(objective.networks)
                        optimizers.step(objective.networks)
                    terms |= {"loss": objective.loss, **objective.terms}
            for name, value in terms.items():
                means[name] = means.get(name, 0) + value.detach() / len(microbatches)
    except NonFiniteError:
        optimizers.discard_step()
        raise
    optimizers.update_scaler()
    return means


def _to_device(sample: tuple, device: torch.device) -> Any:
    moved = (item.to(device, non_blocking=True) if torch.is_tensor(item) else item for item in sample)
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


def _require_finite_loss(loss: torch.Tensor) -> None:
    is_finite = bool(torch.isfinite(loss))
    if current_distributed_context().any(not is_finite, loss.device):
        raise NonFiniteError(f"the loss is {loss.item()}", on_this_rank=not is_finite)

"""Optimizers and learning rates of a stage."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from utils.preset import ScheduleSettings

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

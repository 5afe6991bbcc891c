"""What one training script adds to the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from utils.config.preset import Preset
from utils.training.optimization import OptimizerStep


class Validation(NamedTuple):
    """How good the networks are; the same on every rank but for the picture."""

    score: float
    """The larger the better: chooses best.pt."""
    metrics: dict[str, float]
    picture: np.ndarray | None
    """(h, w, 3) uint8: truth, prediction, heatmap; on the first rank."""


class Stage(ABC):
    """What one training script adds to the trainer.

    Attributes:
        name: written into checkpoints.
        preset: of the run.
        parts: every network that the checkpoint holds.
        prepare: turns a collated sample, already on the device, into the batch of a step: augmentation. What it draws
            depends on the run's seed and the samples alone, so that it is the same on any number of ranks.
        validate: measures the networks, in eval mode, on at most so many validation cases; ranks share them.
        trained: names of the parts that learn; the others are frozen in eval mode.
        live: the parts as training runs them, wrapped for several processes or compiled; the trainer fills it.
    """

    name: str
    trained: tuple[str, ...]

    def __init__(
        self,
        preset: Preset,
        parts: dict[str, nn.Module],
        *,
        prepare: Callable[[Any], Any],
        validate: Callable[[int], Validation],
    ) -> None:
        self.preset = preset
        self.parts = parts
        self.prepare = prepare
        self.validate = validate
        self.live: dict[str, nn.Module] = dict(parts)

    @abstractmethod
    def optimize(self, batch: Any, update: OptimizerStep) -> dict[str, torch.Tensor]:
        """One step of training: scalar losses by name, one of them "loss"."""


class LossStage(Stage):
    """A stage that minimizes one loss over all its trained parts."""

    @abstractmethod
    def training_step(self, batch: Any) -> dict[str, torch.Tensor]:
        """Forward pass: scalar losses by name; "loss" is the one to minimize."""

    def optimize(self, batch: Any, update: OptimizerStep) -> dict[str, torch.Tensor]:
        """Forward, backward, step."""
        with update.forward():
            losses = self.training_step(batch)
        update(losses["loss"], *self.trained)
        return losses

"""The interface of a training stage: its networks, losses, data set and validation."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from utils.config.preset import Preset, ScheduleSettings
from utils.imaging.arrangement import Arrangement
from utils.io.initial_networks import load_initial_networks
from utils.runtime.device import Compute
from utils.training.run import TrainingOptions


class TrainingCases(NamedTuple):
    """The data of a run: its stage builds a data set from `train` and a validation from `val`."""

    preset: Preset
    splits: dict[str, list[str]]
    """Case ids of train, val and test, for config.json."""
    train: Any
    val: Any
    arrangement: Arrangement = Arrangement(())
    """Of the organs in the training cases, for the checkpoints."""


class Validation(NamedTuple):
    """The result of a validation; the same on every rank but for the picture."""

    score: float
    """The higher the better; chooses best.pt."""
    metrics: dict[str, float]
    picture: np.ndarray | None
    """(h, w, 3) uint8: reference, prediction, heatmap; None if this rank scored no case."""


class Objective(NamedTuple):
    """A loss and the networks that minimize it."""

    loss: torch.Tensor
    """Scalar."""
    networks: tuple[str, ...]
    terms: dict[str, torch.Tensor]
    """Scalars for the log, besides the loss itself."""


class Stage(ABC):
    """One stage of the method; a training script defines it, the trainer runs it.

    Attributes:
        name: of the preset's section, and in checkpoints.
        trained: names of the networks that learn; the others are frozen in eval mode.
        networks: all networks of the checkpoint by name, on the device.
        wrapped: the same networks as `training_step` calls them: the trainer wraps them in DistributedDataParallel and
            compiles them if asked.
        augment: turns a collated sample, whose volumes are on the device, into the batch of a step; it is given the
            preset and the seed.
            Its random draws depend on seed and samples alone, so that they are the same on any number of ranks.
    """

    name: str
    trained: tuple[str, ...]
    required: tuple[str, ...] = ()
    """Networks that `--init-from` must provide."""
    remedy: str = ""
    """Where to get them."""

    def __init__(
        self, preset: Preset, compute: Compute, seed: int, *, networks: dict[str, nn.Module], augment: Callable
    ) -> None:
        self.preset, self.compute, self.seed = preset, compute, seed
        self.networks = {name: compute.place(network) for name, network in networks.items()}
        self.wrapped = dict(self.networks)
        self.augment = partial(augment, preset=preset, seed=seed)

    @property
    def schedule(self) -> ScheduleSettings:
        """The stage's section of the preset."""
        return getattr(self.preset, self.name)

    @abstractmethod
    def training_step(self, batch: Any) -> Iterator[Objective]:
        """Yield the objectives of a batch, one after the other; each is minimized before the next is computed."""

    @abstractmethod
    def build_dataset(self, cases: Any) -> Dataset:
        """The training samples; item i depends on the seed and i alone."""

    @abstractmethod
    def build_validation(self, cases: Any) -> Callable[[int], Validation]:
        """A function that validates the networks, in eval mode, on at most so many cases; the ranks share the work."""

    def load_initial_networks(self, options: TrainingOptions) -> None:
        """Load the checkpoints that a new run starts from.

        Raises:
            UserError: one is unreadable or does not fit, or a required network is missing.
        """
        load_initial_networks(self.networks, options.init_from, self.preset, required=self.required, remedy=self.remedy)


@contextmanager
def frozen(network: nn.Module) -> Iterator[nn.Module]:
    """A context in which gradients pass through a network without reaching its weights."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    network.requires_grad_(False)
    try:
        yield network
    finally:
        for weight in weights:
            weight.requires_grad_(True)

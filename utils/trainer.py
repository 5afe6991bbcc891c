"""The one training loop. A stage says what is trained on which loss; the trainer does everything else."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from utils.checkpoint import load_parts, read_checkpoint, save_checkpoint
from utils.compute import Compute
from utils.config import changed_keys
from utils.distributed import joined
from utils.preset import Preset, ScheduleSettings, preset_to_table
from utils.run_log import RunLog, write_configuration
from utils.schedule import build_optimizer, learning_rate
from utils.training_run import TrainingRun

logger = logging.getLogger(__name__)

NUM_TRIAL_CASES = 2
"""Validated before the first step, so that a broken validation fails in minute one."""


class Validation(NamedTuple):
    """How good the networks are."""

    score: float
    """The larger the better: chooses best.pt."""
    metrics: dict[str, float]
    picture: np.ndarray
    """(h, w, 3) uint8: truth, prediction, heatmap."""


class Stage(ABC):
    """What one training script adds to the trainer.

    Attributes:
        name: written into checkpoints.
        preset: of the run.
        parts: every network that the checkpoint holds.
        prepare: turns a collated sample, already on the device, and a seed into the batch of a step: augmentation.
        validate: measures the networks, in eval mode, on at most so many validation cases.
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
        prepare: Callable[[Any, tuple[int, ...]], Any],
        validate: Callable[[int], Validation],
    ) -> None:
        self.preset = preset
        self.parts = parts
        self.prepare = prepare
        self.validate = validate
        self.live: dict[str, nn.Module] = dict(parts)

    @abstractmethod
    def optimize(self, batch: Any, update: "Update") -> dict[str, torch.Tensor]:
        """One step of training: scalar losses by name, one of them "loss"."""


class LossStage(Stage):
    """A stage that minimizes one loss over all its trained parts."""

    @abstractmethod
    def training_step(self, batch: Any) -> dict[str, torch.Tensor]:
        """Forward pass: scalar losses by name; "loss" is the one to minimize."""

    def optimize(self, batch: Any, update: "Update") -> dict[str, torch.Tensor]:
        """Forward, backward, step."""
        with update.forward():
            losses = self.training_step(batch)
        update(losses["loss"], *self.trained)
        return losses


class Update:
    """Backward pass and optimizer step, in the precision of the run.

    Args:
        optimizers: by the name of the part that each trains.
        compute: device and precision.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer], compute: Compute) -> None:
        self.optimizers = optimizers
        self.forward = compute.autocast
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16")

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of all optimizers."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def __call__(self, loss: torch.Tensor, *part_names: str) -> None:
        """Minimize `loss` by one step of the optimizers of the named parts.

        Raises:
            ValueError: the loss is not finite; no weight was changed.
        """
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss became {loss.item()}; the last checkpoint is good. Lower the learning rate (--set "
                "<stage>.learning_rate=...), or use --precision fp32, and --resume"
            )
        for name in part_names:
            self.optimizers[name].zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        for name in part_names:
            self.scaler.step(self.optimizers[name])
        self.scaler.update()


class Trainer:
    """Trains a stage: epochs, validation, checkpoints, logs.

    Args:
        stage: what to train.
        loader: of training samples; its sampler has an `epoch` attribute.
        schedule: of the stage.
        run: options, device, ranks.
    """

    def __init__(self, stage: Stage, loader: DataLoader, schedule: ScheduleSettings, run: TrainingRun) -> None:
        options, compute, ranks = run.options, run.compute, run.ranks
        self.stage, self.loader, self.schedule, self.run = stage, loader, schedule, run
        self.folder, self.compute, self.ranks = options.run, compute, ranks
        self.total_steps = options.max_steps or (options.epochs or schedule.epochs) * len(loader)
        for name, part in stage.parts.items():
            compute.place(part).requires_grad_(name in stage.trained)
        optimizers = {name: build_optimizer(stage.parts[name].parameters(), schedule) for name in stage.trained}
        self.update = Update(optimizers, compute)
        self.epoch = 0
        self.step = 0
        self.best_score = -math.inf
        if options.resume:
            self._load(self.folder / "last.pt")

    def fit(self) -> None:
        """Train until the run's last step, validating and saving on the way."""
        with joined(self.ranks, self.compute.device.type):
            for name, part in self.stage.parts.items():
                live = self.ranks.wrap(part) if name in self.stage.trained else part
                self.stage.live[name] = torch.compile(live) if self.run.options.compile else live
            self._fit()

    def _fit(self) -> None:
        if self.ranks.is_first:
            self._write_configuration()
        log = RunLog(self.folder, self.epoch) if self.ranks.is_first else None
        if self.step < self.total_steps:
            self._validate(NUM_TRIAL_CASES)
        progress = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            desc=self.stage.name,
            disable=None if self.ranks.is_first else True,  # None: shown where a person watches
        )
        while self.step < self.total_steps:
            started = time.perf_counter()
            values = self._train_epoch(progress)
            self.epoch += 1
            validation = self._validate_when_due()
            if validation is not None:
                values.update(score=validation.score, **validation.metrics)
            values["seconds"] = time.perf_counter() - started
            if log is not None:
                self._record(log, values, validation)
            self.ranks.wait()
        progress.close()
        if log is not None:
            log.close()

    def _train_epoch(self, progress: tqdm) -> dict[str, float]:
        for name, part in self.stage.live.items():
            part.train(name in self.stage.trained)
        self.loader.sampler.epoch = self.epoch
        sums: dict[str, torch.Tensor] = {}
        num_steps = 0
        for sample in self.loader:
            batch = self.stage.prepare(_to_device(sample, self.compute.device), self._draw_seed())
            rate = learning_rate(self.schedule, self.step, self.total_steps)
            self.update.set_learning_rate(rate)
            losses = {name: value.detach() for name, value in self.stage.optimize(batch, self.update).items()}
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value
            self.step += 1
            num_steps += 1
            progress.update()
            progress.set_postfix(epoch=self.epoch, loss=f"{float(losses['loss']):.4f}", refresh=False)
            if self.step == self.total_steps:
                break
        means = self.ranks.mean({name: total / num_steps for name, total in sums.items()})
        return {"step": self.step, "learning_rate": rate, **{name: float(mean) for name, mean in means.items()}}

    def _draw_seed(self) -> tuple[int, ...]:
        return self.run.options.seed, self.step, self.ranks.rank

    def _validate_when_due(self) -> Validation | None:
        due = self.epoch % self.schedule.validate_every == 0 or self.step == self.total_steps
        return self._validate(self.schedule.validation_cases) if due else None

    def _validate(self, num_cases: int) -> Validation | None:
        """Validate in the first process; the others wait at the end of the epoch."""
        if not self.ranks.is_first:
            return None
        for part in self.stage.parts.values():
            part.eval()
        with torch.no_grad():
            return self.stage.validate(num_cases)

    def _record(self, log: RunLog, values: dict[str, float], validation: Validation | None) -> None:
        log.add_epoch(self.epoch - 1, values)
        if validation is not None:
            log.add_picture(self.epoch - 1, validation.picture)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in validation.metrics.items() if "/" not in name)
            logger.info("epoch %d  step %d  loss %.4f  %s", self.epoch, self.step, values["loss"], shown)
            if validation.score > self.best_score:
                self.best_score = validation.score
                self._save(self.folder / "best.pt", {})
        self._save(self.folder / "last.pt", self._state())

    def _write_configuration(self) -> None:
        stage, run = self.stage, self.run
        write_configuration(self.folder, stage=stage.name, preset=stage.preset, options=run.options, splits=run.splits)

    def _save(self, path: Path, state: dict[str, Any]) -> None:
        stage = self.stage
        save_checkpoint(path, stage=stage.name, preset=stage.preset, parts=stage.parts, state=state)

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "best_score": self.best_score,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.update.optimizers.items()},
            "scaler": self.update.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }

    def _load(self, path: Path) -> None:
        content = read_checkpoint(path)
        state = content["state"]
        if content["stage"] != self.stage.name or not state:
            raise ValueError(
                f"{path}: expected the last.pt of stage {self.stage.name!r}, got one of {content['stage']!r}; "
                "--resume continues the same script in the same --run folder"
            )
        load_parts(self.stage.parts, content, self.stage.parts, path)
        changed = changed_keys(content["preset"], preset_to_table(self.stage.preset))
        if changed:
            logger.warning("%s: the run goes on with other values than it had of %s", path, ", ".join(changed))
        for name, optimizer in self.update.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if state["scaler"]:  # empty unless the run was in fp16
            self.update.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.epoch, self.step, self.best_score = state["epoch"], state["step"], state["best_score"]


def _to_device(sample: tuple, device: torch.device) -> Any:
    moved = (item.to(device, non_blocking=True) if torch.is_tensor(item) else item for item in sample)
    return type(sample)(*moved)

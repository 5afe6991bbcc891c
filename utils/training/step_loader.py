"""Iterates over one rank's batches by optimizer step; can start at any step and survives crashed DataLoader workers."""

import logging
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.config.preset import ScheduleSettings
from utils.errors import UserError
from utils.training.run import TrainingRun

MAX_WORKER_CRASHES = 3
"""Per epoch; if there are more, something is wrong with the machine."""

logger = logging.getLogger(__name__)


class EpochSampler(Sampler[int]):
    """Indices that never repeat: epoch e covers [e * n, (e + 1) * n), divided among the ranks.

    The data sets draw everything from their seed and the index. An epoch is therefore the same whether the run was
    resumed or not, with any number of workers.

    Attributes:
        epoch: counted from 0.
        skip: samples of this rank at the start of the epoch to leave out, because an interrupted run has used them.
    """

    def __init__(self, samples_per_epoch: int, rank: int = 0, world_size: int = 1) -> None:
        self.samples_per_epoch = samples_per_epoch
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.samples_per_epoch
        own = range(first + self.rank, first + self.samples_per_epoch, self.world_size)
        return iter(own[self.skip :])

    def __len__(self) -> int:
        return len(range(self.rank, self.samples_per_epoch, self.world_size))


class StepLoader:
    """The batches of an epoch, grouped by the optimizer step that they make together.

    Args:
        make_loader: builds the DataLoader; its sampler has the attributes `epoch` and `skip` of `EpochSampler`.
        batches_per_step: number of batches whose gradients make one step.
    """

    def __init__(self, make_loader: Callable[[], DataLoader], batches_per_step: int = 1) -> None:
        self.make_loader = make_loader
        self.batches_per_step = batches_per_step
        self.loader = make_loader()
        self.steps_per_epoch = len(self.loader) // batches_per_step
        self.batch_size = self.loader.batch_size

    def steps(self, epoch: int, first_step: int) -> Iterator[list[Any]]:
        """Yield the batches of each step of an epoch.

        An exception in a worker arrives with the worker's traceback in its text.

        Args:
            epoch: counted from 0.
            first_step: step of the epoch to start at.

        Raises:
            UserError: samples cannot be read, or workers crash again and again.
        """
        batches: list[Any] = []
        num_read, num_crashes = first_step * self.batches_per_step, 0
        while num_read < self.steps_per_epoch * self.batches_per_step:
            try:
                for batch in self._read(epoch, num_read):
                    batches.append(batch)
                    num_read += 1
                    if len(batches) == self.batches_per_step:
                        yield batches
                        batches = []
            except UserError as error:
                raise UserError(_without_worker_traceback(error)) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):
                    raise
                num_crashes += 1
                if num_crashes > MAX_WORKER_CRASHES:
                    raise UserError(
                        f"workers that read crops crashed {num_crashes} times in this epoch ({error}): memory may be "
                        "short. Use fewer --workers, or 0, enlarge the container's /dev/shm, and --resume"
                    ) from error
                logger.warning("%s; new workers read its samples again", error)
                self.loader = self.make_loader()

    def _read(self, epoch: int, num_read: int) -> Iterator[Any]:
        sampler = self.loader.sampler
        sampler.epoch, sampler.skip = epoch, num_read * self.batch_size
        batches = iter(self.loader)
        if self.loader.num_workers:
            # torch's handler would raise in the middle of a step. torch also notices a dead worker between steps.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def build_step_loader(dataset: Dataset, schedule: ScheduleSettings, run: TrainingRun) -> StepLoader:
    """The batches of this rank; an epoch has the schedule's number of steps.

    Args:
        dataset: item i depends on the seed and i alone.
        schedule: steps per epoch, and the batch size unless the command line gives one.
        run: options, ranks and device.
    """
    options, ranks = run.options, run.ranks
    batch_size = options.batch_size or schedule.batch_size
    samples_per_epoch = schedule.steps_per_epoch * options.grad_accumulation_steps * batch_size * ranks.world_size

    def make_loader() -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(samples_per_epoch, ranks.rank, ranks.world_size),
            num_workers=options.workers,
            pin_memory=run.compute.device.type == "cuda",
            persistent_workers=options.workers > 0,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # to resume starts workers again, which must not draw from the global one
        )

    return StepLoader(make_loader, options.grad_accumulation_steps)


def start_worker(_worker: int) -> None:
    """Prepare a process that reads samples: it leaves signals to the training process and uses one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the step is to be finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the training step needs the cores


def _without_worker_traceback(error: UserError) -> str:
    """The message of an error to which torch may have added the traceback of the worker that raised it."""
    return re.split(r"^(?:\w+\.)*UserError: ", str(error), flags=re.MULTILINE)[-1].strip()

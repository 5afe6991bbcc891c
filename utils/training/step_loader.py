"""Iterates over one rank's batches by optimizer step; can start at any step and survives crashed DataLoader workers."""

import logging
import re
import signal
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import UserError
from utils.runtime.distributed import DistributedContext

MAX_WORKER_CRASHES = 3
"""Per epoch; if there are more, something is wrong with the machine."""

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class StepLoader:
    """The batches of an epoch, grouped by the optimizer step that they make together.

    Epoch e consists of the samples [e * n, (e + 1) * n), divided among the ranks. With a data set that draws everything
    from its seed and the index, an epoch is the same whether the run was resumed or not, with any number of workers.
    """

    dataset: Dataset
    batch_size: int
    steps_per_epoch: int
    batches_per_step: int = 1
    """Batches of this rank whose gradients make one step."""
    ranks: DistributedContext = DistributedContext()
    num_workers: int = 0
    """Processes that read samples; 0 reads in this one."""
    pin_memory: bool = False

    def __post_init__(self) -> None:
        self.indices: list[int] = []  # of the next pass; the DataLoader reads the list when a pass begins
        self.loader = self._make_loader()

    def steps(self, epoch: int, first_step: int) -> Iterator[list[Any]]:
        """Yield the batches of each step of an epoch, from `first_step` on; both are counted from 0.

        An exception in a worker arrives with the worker's traceback in its text.

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
            except Exception as error:
                self._end_workers(error)
                if isinstance(error, UserError):
                    # torch may have added the traceback of the worker that raised it
                    message = re.split(r"^(?:\w+\.)*UserError: ", str(error), flags=re.MULTILINE)[-1]
                    raise UserError(message.strip()) from error
                if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")):
                    raise
                num_crashes += 1
                if num_crashes > MAX_WORKER_CRASHES:
                    raise UserError(
                        f"workers that read crops crashed {num_crashes} times in this epoch ({error}): memory may be "
                        "short. Use fewer --workers, or 0, or enlarge the container's /dev/shm; then run the command "
                        "again with --resume"
                    ) from error
                logger.warning("%s; new workers read its samples again", error)

    def _end_workers(self, error: Exception) -> None:
        """End the workers of a pass that failed, now.

        The error and its traceback refer to each other and to the pass, so that only the garbage collector frees them.
        It closes the queues first, and torch then waits five seconds for each worker.
        """
        traceback.clear_frames(error.__traceback__)
        self.loader = self._make_loader()

    def _make_loader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            sampler=self.indices,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=start_worker,
            generator=torch.Generator(),  # to resume starts workers again, which must not draw from the global one
        )

    def _read(self, epoch: int, num_read: int) -> Iterator[Any]:
        num_samples = self.steps_per_epoch * self.batches_per_step * self.batch_size * self.ranks.world_size
        first = epoch * num_samples
        own = range(first + self.ranks.rank, first + num_samples, self.ranks.world_size)
        self.indices[:] = own[num_read * self.batch_size :]
        batches = iter(self.loader)
        if self.num_workers and hasattr(signal, "SIGCHLD"):  # Windows has none
            # torch's handler would raise in the middle of a step. torch also notices a dead worker between steps.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def start_worker(_worker: int) -> None:
    """Prepare a process that reads samples: it leaves signals to the training process and uses one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the step is to be finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the training step needs the cores

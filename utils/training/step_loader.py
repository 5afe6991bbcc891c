"""The samples of a rank, step by step, from any step on, and through the death of processes that read them."""

import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from utils.errors import UserError

MAX_WORKER_CRASHES = 3
"""Of workers in one epoch; more are no accident."""

logger = logging.getLogger(__name__)


class StepLoader:
    """Batches of an epoch, grouped by the step that they make together.

    Args:
        make_loader: builds the loader; its sampler has the attributes `epoch` and `skip`, the number of samples of the
            epoch that were used before.
        batches_per_step: gradients of so many batches make one step.
    """

    def __init__(self, make_loader: Callable[[], DataLoader], batches_per_step: int = 1) -> None:
        self.make_loader = make_loader
        self.batches_per_step = batches_per_step
        self.loader = make_loader()
        self.steps_per_epoch = len(self.loader) // batches_per_step
        self.batch_size = self.loader.batch_size

    def steps(self, epoch: int, first_step: int) -> Iterator[list[Any]]:
        """Yield the samples of each step of an epoch.

        Args:
            epoch: counted from 0.
            first_step: the first one of the epoch wanted.

        Raises:
            UserError: samples cannot be read, or workers die again and again.
        """
        samples: list[Any] = []
        num_read, deaths = first_step * self.batches_per_step, 0
        while num_read < self.steps_per_epoch * self.batches_per_step:
            try:
                for sample in self._read(epoch, num_read):
                    samples.append(sample)
                    num_read += 1
                    if len(samples) == self.batches_per_step:
                        yield samples
                        samples = []
            except ValueError as error:
                raise UserError(_last_line(error)) from error
            except RuntimeError as error:
                if "DataLoader worker" not in str(error) or "Caught" in str(error):
                    raise
                deaths += 1
                if deaths > MAX_WORKER_CRASHES:
                    raise UserError(
                        f"workers that read crops died {deaths} times in this epoch ({_last_line(error)}): memory may "
                        "be short. Use fewer --workers, or 0, give the container a larger /dev/shm, and --resume"
                    ) from error
                logger.warning("%s; its samples are read again by new workers", _last_line(error))
                self.loader = self.make_loader()

    def _read(self, epoch: int, num_read: int) -> Iterator[Any]:
        sampler = self.loader.sampler
        sampler.epoch, sampler.skip = epoch, num_read * self.batch_size
        batches = iter(self.loader)
        if self.loader.num_workers:
            # torch would report a dead worker by an exception in the middle of a step. It also notices between steps.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches


def start_worker(_worker: int) -> None:
    """What a process that reads samples does first: leave signals to the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the step is to be finished
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _last_line(error: Exception) -> str:
    """Of an error in a worker torch makes a whole traceback."""
    return str(error).strip().splitlines()[-1].removeprefix("UserError: ")

"""What the host learns about the steps. It asks the device now and then, because every reading waits for it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from utils.training.train_step import StepResult

STEPS_PER_READING = 10
"""On a GPU. The host queues work for steps ahead; at a reading the queue runs empty, and the GPU waits for the next
kernels, a few milliseconds of ten steps of 20 ms and more. Ten is also the number of bad steps after which a run gives
up, so that it makes at most as many in vain."""


class StepRecord(NamedTuple):
    """A step as the host knows it."""

    step: int
    case_ids: tuple[str, ...]
    loss: float
    is_discarded: bool
    reason: str
    """Why it was discarded; empty if it was not."""
    on_this_rank: bool
    """Whether this rank's samples are the reason."""


class StepRecords:
    """Keeps the results of steps on the device until they are read.

    Args:
        device: of the results. On a CPU nothing is queued, and every step is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.steps_per_reading = 1 if device.type == "cpu" else STEPS_PER_READING
        self._unread: list[tuple[int, tuple[str, ...], StepResult]] = []

    def add(self, step: int, case_ids: Sequence[str], result: StepResult) -> None:
        """Keep the result of a step."""
        self._unread.append((step, tuple(case_ids), result))

    def is_reading_due(self, num_steps: int) -> bool:
        """Whether it is time to read after so many steps of the run; the same answer on all ranks."""
        return num_steps % self.steps_per_reading == 0

    def read(self) -> list[StepRecord]:
        """Wait for the device and return the steps that were added since the last call."""
        if not self._unread:
            return []
        rows = torch.stack([_row(result) for _, _, result in self._unread]).tolist()
        records = [_to_record(step, names, row) for (step, names, _), row in zip(self._unread, rows, strict=True)]
        self._unread.clear()
        return records


def _row(result: StepResult) -> torch.Tensor:
    values = result.losses["loss"], result.loss_sum, result.losses_are_finite, result.is_discarded
    return torch.stack([value.float() for value in values])


def _to_record(step: int, case_ids: tuple[str, ...], row: Sequence[float]) -> StepRecord:
    loss, loss_sum, losses_are_finite, is_discarded = row
    is_own = not math.isfinite(loss_sum)
    if is_own:
        reason = f"the loss is {loss_sum}"
    else:
        reason = "a gradient is not finite" if losses_are_finite else "a loss of another rank is not finite"
    is_own = is_own or bool(losses_are_finite)
    return StepRecord(step, case_ids, loss, bool(is_discarded), reason if is_discarded else "", is_own)

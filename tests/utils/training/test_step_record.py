"""utils/training/step_record.py: what the host reads of the steps, and when."""

import math

import pytest
import torch

from utils.training.step_record import STEPS_PER_READING, StepRecords
from utils.training.train_step import StepResult


def result(loss, *, losses_are_finite=True, is_discarded=False):
    loss, losses_are_finite, is_discarded = map(torch.tensor, (loss, losses_are_finite, is_discarded))
    return StepResult({"loss": loss}, loss, losses_are_finite, ~is_discarded, is_discarded)


@pytest.mark.parametrize(("device", "due"), [("cpu", [1, 2, 3]), ("cuda", [STEPS_PER_READING])])
def test_a_gpu_is_read_now_and_then(device, due):
    records = StepRecords(torch.device(device))
    assert [step for step in range(1, max(4, STEPS_PER_READING + 1)) if records.is_reading_due(step)][: len(due)] == due


@pytest.mark.parametrize(
    ("given", "reason", "on_this_rank"),
    [
        (result(math.nan, losses_are_finite=False, is_discarded=True), "the loss is nan", True),
        (result(1.5, losses_are_finite=False, is_discarded=True), "a loss of another rank is not finite", False),
        (result(1.5, is_discarded=True), "a gradient is not finite", True),
        (result(1.5), "", True),
    ],
)
def test_a_record_tells_the_reason_and_the_rank(given, reason, on_this_rank):
    records = StepRecords(torch.device("cpu"))
    records.add(7, ["a", "b"], given)
    (record,) = records.read()
    assert (record.step, record.case_ids, record.reason) == (7, ("a", "b"), reason)
    assert record.on_this_rank == on_this_rank
    assert record.is_discarded == bool(reason)
    assert record.loss == pytest.approx(given.loss_sum.item(), nan_ok=True)


def test_records_are_read_once_and_in_order():
    records = StepRecords(torch.device("cpu"))
    assert records.read() == []
    for step in range(3):
        records.add(step, [], result(float(step)))
    assert [(record.step, record.loss) for record in records.read()] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert records.read() == []

"""utils/training/loss_meter.py: the losses of an epoch."""

import math

import pytest
import torch

from utils.training.loss_meter import LossMeter

MADE, DISCARDED = torch.tensor(False), torch.tensor(True)


def test_means_are_of_the_steps_made():
    meter = LossMeter()
    for loss, is_discarded in ((1.0, MADE), (math.nan, DISCARDED), (math.inf, DISCARDED)):
        meter.add({"loss": torch.tensor(loss)}, is_discarded)
        meter.note(bool(is_discarded))
    assert (meter.num_steps, meter.num_discarded_in_a_row) == (3, 2)
    meter.add({"loss": torch.tensor(4.0)}, MADE)
    meter.note(False)
    assert meter.means() == {"loss": 2.5, "discarded_steps": 2}
    assert meter.num_discarded_in_a_row == 0


def test_an_epoch_without_a_step_made_has_no_loss():
    meter = LossMeter()
    meter.add({"loss": torch.tensor(math.nan)}, DISCARDED)
    meter.note(True)
    assert meter.means() == {"discarded_steps": 1}


def test_round_trip_through_a_checkpoint():
    meter = LossMeter(num_discarded_in_a_row=1)
    for value in (0.1, 0.2, 0.3):
        meter.add({"loss": torch.tensor(value)}, MADE)
    again = LossMeter.from_state_dict(meter.state_dict(), torch.device("cpu"))
    assert again == meter
    assert again.means()["loss"] == pytest.approx(0.2)

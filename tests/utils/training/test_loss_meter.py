"""utils/training/loss_meter.py: what an epoch adds up."""

import pytest
import torch

from utils.training.loss_meter import LossMeter


def test_means_are_of_the_steps_taken():
    tally = LossMeter()
    tally.add({"loss": torch.tensor(1.0)})
    tally.skip()
    tally.skip()
    assert (tally.num_steps, tally.skipped_in_a_row) == (3, 2)
    tally.add({"loss": torch.tensor(4.0)})
    assert tally.means() == {"loss": 2.5, "skipped": 2}
    assert tally.skipped_in_a_row == 0


def test_an_epoch_without_a_step_taken_has_no_loss():
    tally = LossMeter()
    tally.skip()
    assert tally.means() == {"skipped": 1}


def test_round_trip_through_a_checkpoint():
    tally = LossMeter(skipped_in_a_row=1)
    for value in (0.1, 0.2, 0.3):
        tally.add({"loss": torch.tensor(value)})
    again = LossMeter.from_state(tally.state(), torch.device("cpu"))
    assert again == tally
    assert again.means()["loss"] == pytest.approx(0.2)

"""utils/training/weight_average.py: the moving average of the weights."""

import pytest
import torch
from torch import nn

from utils.training.weight_average import WeightAverage

MADE, NOT_MADE = torch.tensor(True), torch.tensor(False)


@pytest.fixture
def norm():
    """A layer of two weights and three batch statistics, one of which is a count."""
    norm = nn.BatchNorm1d(1)
    set_to(norm, 1.0)
    return norm


def set_to(norm, value):
    with torch.no_grad():
        norm.weight.fill_(value)
        norm.running_mean.fill_(-value)


def averaged_weight(average, norm):
    with average.applied():
        assert norm.running_mean.item() == -norm.weight.item()
        return norm.weight.item()


def test_weights_and_batch_statistics_are_averaged(norm):
    set_to(norm, 0.0)
    average = WeightAverage({"net": norm}, decay=0.15)
    expected = 0.0
    for step, decay in enumerate([0.1, 0.15, 0.15]):  # 1/10, then the smaller of 2/11 and 0.15
        set_to(norm, step + 1.0)
        average.update(MADE)
        expected = decay * expected + (1 - decay) * (step + 1)
        assert averaged_weight(average, norm) == pytest.approx(expected)


def test_a_step_that_was_not_made_changes_no_bit(norm):
    average = WeightAverage({"net": norm}, decay=0.9)
    set_to(norm, 0.1)
    for _ in range(3):
        average.update(MADE)
    before, num_updates = averaged_weight(average, norm), average.state_dict()["num_updates"]
    set_to(norm, 5.0)
    average.update(NOT_MADE)
    assert averaged_weight(average, norm) == before
    assert average.state_dict()["num_updates"] == num_updates == 3


def test_the_last_weights_come_back(norm):
    average = WeightAverage({"net": norm}, decay=0.9)
    set_to(norm, 5.0)
    with average.applied():
        assert norm.weight.item() == 1
    assert norm.weight.item() == 5


def test_without_decay_the_last_weights_are_used(norm):
    average = WeightAverage({"net": norm}, decay=0)
    set_to(norm, 5.0)
    average.update(MADE)
    assert averaged_weight(average, norm) == 5
    assert average.state_dict() == {"average": {}, "num_updates": 0}


def test_the_average_continues_from_a_state(norm):
    average = WeightAverage({"net": norm}, decay=0.9)
    set_to(norm, 5.0)
    average.update(MADE)
    resumed = WeightAverage({"net": norm}, decay=0.9)
    resumed.load_state_dict(average.state_dict())
    set_to(norm, 7.0)
    average.update(MADE)
    resumed.update(MADE)
    assert averaged_weight(resumed, norm) == averaged_weight(average, norm) != 7


def test_a_run_that_begins_to_average_starts_from_its_weights(norm):
    average = WeightAverage({"net": norm}, decay=0.9)
    set_to(norm, 5.0)
    average.load_state_dict({})
    assert averaged_weight(average, norm) == 5

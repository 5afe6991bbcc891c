"""utils/update.py: steps from several batches, and none from numbers that are not finite."""

import math

import pytest
import torch
from torch import nn

from utils.compute import Compute
from utils.update import BufferGuard, NotFiniteError, Update

CPU = Compute(device=torch.device("cpu"), precision="fp32")


def weight(value=1.0):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_an_update_steps_only_the_optimizers_named_by_hand():
    left, right = weight(), weight()
    update = Update({"left": torch.optim.SGD(left.parameters()), "right": torch.optim.SGD(right.parameters())}, CPU)
    update.set_learning_rate(0.25)
    update((left(torch.ones(1, 1)) * right(torch.full((1, 1), 2.0))).sum(), "left")
    assert left.weight.item() == 1 - 0.25 * 2
    assert right.weight.item() == 1


def test_batches_of_a_step_add_up_to_the_gradient_of_their_mean():
    layer = weight()
    update = Update({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
    for step in range(2):
        before = layer.weight.item()
        for i, x in enumerate((1.0, 3.0, 5.0)):
            update.begin(i, 3)
            update(layer(torch.tensor([[x]])).sum(), "part")
            if i < 2:
                assert layer.weight.item() == before
        assert layer.weight.item() == pytest.approx(1 - 3 * (step + 1))  # 3 = mean of 1, 3, 5


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(factor):
    layer = weight()
    update = Update({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
    with pytest.raises(NotFiniteError, match="the loss is (nan|inf)"):
        update(factor * layer(torch.ones(1, 1)).sum(), "part")
    assert layer.weight.item() == 1


def test_a_finite_loss_with_an_infinite_gradient_changes_nothing():
    layer = weight(0.0)
    update = Update({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
    with pytest.raises(NotFiniteError, match="the gradient of part is not finite"):
        update(layer(torch.ones(1, 1)).sqrt().sum(), "part")  # 0, with slope 1 / 0
    update.drop()
    assert layer.weight.item() == 0
    assert layer.weight.grad is None


def test_buffers_are_put_back():
    norm = nn.BatchNorm1d(1)
    guard = BufferGuard([norm])
    norm(torch.tensor([[1.0], [3.0]]))
    guard.keep()
    norm(torch.tensor([[math.nan], [3.0]]))
    assert norm.running_mean.isnan()
    guard.restore()
    assert norm.running_mean.item() == pytest.approx(0.2)  # momentum 0.1 of the mean 2
    assert norm.num_batches_tracked.item() == 1

"""utils/training/optimization.py: steps from several batches, and none from numbers that are not finite."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from utils.config.preset import ScheduleSettings
from utils.runtime.device import Compute
from utils.training.optimization import BatchNormSnapshot, NotFiniteError, OptimizerStep, build_optimizer, learning_rate

CPU = Compute(device=torch.device("cpu"), precision="fp32")


def weight(value=1.0):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_an_update_steps_only_the_optimizers_named_by_hand():
    left, right = weight(), weight()
    update = OptimizerStep(
        {"left": torch.optim.SGD(left.parameters()), "right": torch.optim.SGD(right.parameters())}, CPU
    )
    update.set_learning_rate(0.25)
    update((left(torch.ones(1, 1)) * right(torch.full((1, 1), 2.0))).sum(), "left")
    assert left.weight.item() == 1 - 0.25 * 2
    assert right.weight.item() == 1


def test_batches_of_a_step_add_up_to_the_gradient_of_their_mean():
    layer = weight()
    update = OptimizerStep({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
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
    update = OptimizerStep({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
    with pytest.raises(NotFiniteError, match="the loss is (nan|inf)"):
        update(factor * layer(torch.ones(1, 1)).sum(), "part")
    assert layer.weight.item() == 1


def test_a_finite_loss_with_an_infinite_gradient_changes_nothing():
    layer = weight(0.0)
    update = OptimizerStep({"part": torch.optim.SGD(layer.parameters(), lr=1.0)}, CPU)
    with pytest.raises(NotFiniteError, match="the gradient of part is not finite"):
        update(layer(torch.ones(1, 1)).sqrt().sum(), "part")  # 0, with slope 1 / 0
    update.drop()
    assert layer.weight.item() == 0
    assert layer.weight.grad is None


def test_buffers_are_put_back():
    norm = nn.BatchNorm1d(1)
    guard = BatchNormSnapshot([norm])
    norm(torch.tensor([[1.0], [3.0]]))
    guard.keep()
    norm(torch.tensor([[math.nan], [3.0]]))
    assert norm.running_mean.isnan()
    guard.restore()
    assert norm.running_mean.item() == pytest.approx(0.2)  # momentum 0.1 of the mean 2
    assert norm.num_batches_tracked.item() == 1


PAPER = ScheduleSettings(
    epochs=600,
    steps_per_epoch=10,
    batch_size=1,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    warmup_epochs=5,
    decay_epochs=(200, 400),
    decay_factor=0.1,
    validate_every=10,
    validation_cases=8,
)


@pytest.mark.parametrize("total_steps", [6000, 600, 60_000])  # as in the preset, a tenth of it, tenfold
@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.001), (2.5, 0.01), (5, 0.1), (199, 0.1), (200, 0.01), (399, 0.01), (400, 0.001), (599, 0.001)],
)
def test_landmarks_of_the_paper_keep_their_share_of_the_run(epoch, rate, total_steps):
    step = epoch / 600 * total_steps
    assert learning_rate(PAPER, step, total_steps) == pytest.approx(rate)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (25, 0.1 * 0.8535534), (50, 0.05), (75, 0.1 * 0.1464466)])
def test_cosine_falls_to_zero(step, rate):
    settings = replace(PAPER, decay="cosine", warmup_epochs=0)
    assert learning_rate(settings, step, 100) == pytest.approx(rate)


def test_cosine_begins_after_the_warm_up():
    settings = replace(PAPER, decay="cosine", warmup_epochs=300)
    assert learning_rate(settings, 50, 100) == pytest.approx(0.1)
    assert learning_rate(settings, 75, 100) == pytest.approx(0.05)
    assert learning_rate(replace(settings, warmup_epochs=600), 99, 100) < 0.1


def test_optimizers_of_the_presets():
    parameters = list(nn.Linear(2, 2).parameters())
    sgd = build_optimizer(parameters, PAPER)
    assert isinstance(sgd, torch.optim.SGD)
    assert [sgd.param_groups[0][key] for key in ("lr", "momentum", "weight_decay")] == [0.1, 0.9, 5e-4]
    adam = build_optimizer(parameters, replace(PAPER, optimizer="adam", learning_rate=2e-4, weight_decay=1e-4))
    assert isinstance(adam, torch.optim.Adam)
    assert [adam.param_groups[0][key] for key in ("lr", "weight_decay")] == [2e-4, 1e-4]

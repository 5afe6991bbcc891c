"""utils/training/optimization.py: optimizers, batch statistics and learning rate."""

import copy
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import nn

from utils.config.preset import ScheduleSettings
from utils.runtime.device import Compute
from utils.training.optimization import Optimizers, build_optimizer, learning_rate

CPU = Compute(device=torch.device("cpu"), precision="fp32")
YES, NO = torch.tensor(True), torch.tensor(False)
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


def weight(value=1.0):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def optimizers_of(**layers):
    return Optimizers(layers, replace(PAPER, weight_decay=0), CPU)


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        left, right = left.values(), right.values()
    if torch.is_tensor(left):
        assert torch.equal(left, right)
    elif isinstance(left, str) or not isinstance(left, Iterable):
        assert left == right
    else:
        for pair in zip(left, right, strict=True):
            assert_same(*pair)


def test_only_the_named_optimizers_step():
    left, right = weight(), weight()
    optimizers = optimizers_of(left=left, right=right)
    optimizers.set_learning_rate(0.25)
    (left(torch.ones(1, 1)) * right(torch.full((1, 1), 2.0))).sum().backward()
    assert optimizers.step(["left"], YES)
    assert left.weight.item() == 1 - 0.25 * 2
    assert right.weight.item() == 1
    optimizers.zero_grad()
    assert right.weight.grad is None


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("gradient", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("num_made_before", [0, 2])
def test_a_step_that_is_left_out_changes_no_bit(kind, gradient, num_made_before):
    layers = {"left": nn.Linear(3, 2), "right": nn.Linear(2, 1)}
    optimizers = Optimizers(layers, replace(PAPER, optimizer=kind), CPU)

    def step(value, allowed):
        for layer in layers.values():
            for weights in layer.parameters():
                weights.grad = torch.ones_like(weights)
        layers["left"].bias.grad[1] = value
        return optimizers.step(["left", "right"], allowed)

    for _ in range(num_made_before):
        assert step(1.0, YES)
    assert not step(1.0, NO)  # Adam starts its state, with zeros, in the first step that it is asked for
    before = copy.deepcopy([*(layer.state_dict() for layer in layers.values()), optimizers.state_dict()])
    assert not step(gradient, NO if math.isfinite(gradient) else YES)
    assert not step(gradient, NO)
    assert_same([*(layer.state_dict() for layer in layers.values()), optimizers.state_dict()], before)
    assert step(1.0, YES)


def test_the_state_of_optimizers_and_scaler_survives_a_checkpoint():
    layer, again = weight(), weight()
    optimizers, restored = optimizers_of(net=layer), optimizers_of(net=again)
    optimizers.set_learning_rate(0.125)
    restored.load_state_dict(optimizers.state_dict())
    assert restored.by_network["net"].param_groups[0]["lr"] == 0.125


def test_batch_statistics_are_restored_unless_the_step_is_made():
    norm = nn.BatchNorm1d(1)
    optimizers = optimizers_of(norm=norm)
    for values, is_made in (([1.0, 3.0], YES), ([math.nan, 3.0], NO)):
        optimizers.save_batch_statistics()
        norm(torch.tensor(values)[:, None])
        optimizers.restore_batch_statistics(is_made)
    assert norm.running_mean.item() == pytest.approx(0.2)  # momentum 0.1 of the mean 2
    assert norm.num_batches_tracked.item() == 1


def test_sgd_of_an_earlier_release_goes_on_fused_and_with_all_momenta():
    """It was not fused, and a SOS-Net branch whose organ no crop had shown had no momentum yet."""
    layers = nn.ModuleList([weight(), weight()])
    old = torch.optim.SGD(layers.parameters(), lr=0.1, momentum=0.9)
    layers[0](torch.ones(1, 1)).sum().backward()
    old.step()
    optimizers = optimizers_of(net=layers)
    optimizers.load_state_dict({"optimizers": {"net": old.state_dict()}, "scaler": {}})
    (layers[0](torch.ones(1, 1)) + layers[1](torch.ones(1, 1))).sum().backward()
    optimizers.set_learning_rate(0.1)
    layers[0].weight.grad.fill_(1)
    assert optimizers.step(["net"], YES)
    assert layers[0].weight.item() == pytest.approx(0.9 - 0.1 * (0.9 + 1))
    assert layers[1].weight.item() == pytest.approx(0.9)
    before = [layer.weight.item() for layer in layers]
    assert not optimizers.step(["net"], NO)
    assert [layer.weight.item() for layer in layers] == before


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

"""utils/training/train_step.py: steps from several microbatches and objectives, and none from non-finite numbers."""

import copy
import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from utils.runtime.device import Compute
from utils.training.optimization import Optimizers
from utils.training.stage import Objective, Stage, frozen
from utils.training.train_step import train_step

CPU = Compute(device=torch.device("cpu"), precision="fp32")
SGD = SimpleNamespace(optimizer="sgd", learning_rate=0.1, weight_decay=0.0)


class Sample(NamedTuple):
    x: torch.Tensor


class Toy(nn.Module):
    """A weight, and batch statistics that do not change its output."""

    def __init__(self, value=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(value))
        self.norm = nn.BatchNorm1d(1, affine=False)

    def forward(self, x):
        self.norm(x)
        return (self.weight * x).mean()


class ToyStage(Stage):
    """Network "first" minimizes w x; "second" then minimizes its own w x times the new weight of "first"."""

    name, trained = "toy", ("first", "second")

    def __init__(self, compute=CPU, second_factor=1.0):
        networks = {"first": Toy(), "second": Toy()}
        super().__init__(None, compute, 0, networks=networks, augment=lambda sample, **_: sample.x)
        self.second_factor = second_factor
        self.optimizers = Optimizers(networks, SGD, compute)
        for optimizer in self.optimizers.by_network.values():
            optimizer.param_groups[0]["momentum"] = 0

    def training_step(self, batch):
        yield Objective(self.wrapped["first"](batch), ("first",), {"mean": batch.mean()})
        with frozen(self.networks["first"]) as first:
            yield Objective(self.second_factor * self.wrapped["second"](batch) * first.weight, ("second",), {})

    def build_dataset(self, cases): ...

    def build_validation(self, cases): ...

    def step(self, *values, rate=0.125):
        microbatches = [Sample(torch.full((2, 1), value)) for value in values]
        return train_step(self, microbatches, self.optimizers, rate)

    def weights(self):
        return [network.weight.item() for network in self.networks.values()]


def test_each_objective_is_minimized_before_the_next_is_computed():
    stage = ToyStage()
    means = stage.step(2.0).losses
    assert stage.weights() == [1 - 0.125 * 2, 1 - 0.125 * 2 * 0.75]
    assert {name: value.item() for name, value in means.items()} == {"loss": 2.0 * 0.75, "mean": 2.0}
    assert not means["loss"].requires_grad
    assert all(parameter.requires_grad for parameter in stage.networks["first"].parameters())


def test_gradients_of_microbatches_are_averaged():
    stage = ToyStage()
    for step in range(2):
        means = stage.step(1.0, 3.0, 5.0).losses
        assert stage.weights()[0] == pytest.approx(1 - 0.125 * 3 * (step + 1))  # 3 = mean of 1, 3, 5
    assert means["mean"].item() == pytest.approx(3)


def everything(stage):
    """Copies of all that a step changes: weights, batch statistics and the optimizers' state."""
    networks = {name: network.state_dict() for name, network in stage.networks.items()}
    return copy.deepcopy([networks, stage.optimizers.state_dict()["optimizers"]])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("before", [(), (1.0,)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_changes_nothing(value, before, precision):
    stage = ToyStage(Compute(device=torch.device("cpu"), precision=precision))
    assert stage.step(1.0).is_made
    kept = everything(stage)
    result = stage.step(*before, value)
    assert (bool(result.is_made), bool(result.is_discarded), bool(result.losses_are_finite)) == (False, True, False)
    assert not result.loss_sum.isfinite()
    assert everything(stage) == kept
    assert stage.step(1.0).is_made


def test_a_gradient_that_is_not_finite_changes_nothing():
    stage = ToyStage()
    assert stage.step(1.0).is_made
    kept = everything(stage)
    stage.networks["first"].weight.register_hook(lambda gradient: gradient * math.inf)
    result = stage.step(1.0)
    assert (bool(result.is_made), bool(result.is_discarded), bool(result.losses_are_finite)) == (False, True, True)
    assert everything(stage) == kept  # of the second network too: a step is made in order, up to the fault


def test_in_fp16_a_scale_that_is_too_large_is_lowered_and_is_no_fault():
    stage = ToyStage(Compute(device=torch.device("cpu"), precision="fp16"))
    stage.optimizers.set_learning_rate(0.125)
    kept, scale = everything(stage), stage.optimizers.scaler.get_scale()
    stage.networks["first"].weight.register_hook(lambda gradient: gradient * (math.inf if gradient > 2.0**15 else 1))
    result = stage.step(1.0)
    assert (bool(result.is_made), bool(result.is_discarded)) == (False, False)
    assert everything(stage) == kept
    assert stage.optimizers.scaler.get_scale() == scale / 2
    assert stage.step(1.0).is_made


def test_in_fp16_the_step_after_a_discarded_second_objective_is_made():
    """The scaler must be told that the step of the first objective has ended."""
    stage = ToyStage(Compute(device=torch.device("cpu"), precision="fp16"), second_factor=math.inf)
    assert stage.step(1.0).is_discarded
    first = stage.weights()[0]
    stage.second_factor = 1.0
    assert stage.step(1.0).is_made
    assert stage.weights()[0] != first


def test_forward_passes_are_in_autocast_and_backward_passes_are_not():
    stage, seen = ToyStage(Compute(device=torch.device("cpu"), precision="bf16")), []
    network = stage.networks["first"]
    network.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    network.weight.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    stage.step(1.0)
    assert seen == [True, False]

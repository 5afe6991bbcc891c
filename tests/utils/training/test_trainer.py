"""utils/training/trainer.py: the loop, on a network of one weight."""

import csv
import logging
import math
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.io.checkpoint import checkpoint_arrangement, read_checkpoint
from utils.runtime.device import Compute
from utils.training.run import TrainingOptions, TrainingRun
from utils.training.stage import Objective, Stage, TrainingCases, Validation
from utils.training.trainer import NUM_SANITY_VAL_CASES, Trainer

STEPS_PER_EPOCH = 3
CPU = Compute(device=torch.device("cpu"), precision="fp32")


class Sample(NamedTuple):
    x: torch.Tensor
    case_id: str
    index: int


class Numbers(Dataset):
    """Item i is a number that depends on i alone."""

    def __getitem__(self, index):
        return Sample(x=torch.tensor([math.sin(index + 1)]), case_id=str(index), index=index)


class Network(nn.Module):
    """A weight and batch statistics."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x):
        return self.scale(x) + self.norm(x)


class ToyStage(Stage):
    """Network "learner" follows network "teacher" with noise from the global random state."""

    name = "toy"
    trained = ("learner",)

    def __init__(self, preset, scores=()):
        torch.manual_seed(0)
        networks = {"teacher": Network(), "learner": Network()}
        super().__init__(preset, CPU, 0, networks=networks, augment=self.draw)
        self.scores = list(scores)
        self.history = []
        self.loss_factor = 1.0

    @property
    def schedule(self):
        return self.preset.backbone

    def draw(self, sample, **_):
        self.history.append(("step", *sample.case_id))
        return sample.x[:1].repeat(4, 1) + torch.rand(4, 1)

    def build_dataset(self, cases):
        return Numbers()

    def build_validation(self, cases):
        return self.measure

    def measure(self, num_cases):
        assert not any(network.training for network in self.networks.values())
        self.history.append(("validation", num_cases))
        score = self.scores.pop(0) if self.scores else 0.0
        return Validation(score=score, metrics={"dice": score}, picture=np.zeros((2, 3, 3), np.uint8))

    def training_step(self, batch):
        assert self.wrapped["learner"].training
        assert not self.wrapped["teacher"].training
        error = (self.wrapped["learner"](batch) - self.wrapped["teacher"](batch)).square().mean()
        yield Objective(self.loss_factor * error, self.trained, {"error": error})


VALUES = {"validation_cases": 5, "validate_every": 2, "epochs": 4, "steps_per_epoch": STEPS_PER_EPOCH, "batch_size": 1}
SCHEDULE = [f"backbone.{name}={value}" for name, value in VALUES.items()]


@pytest.fixture(scope="module")
def preset():
    return load_preset("phantom", SCHEDULE)


def build(folder, preset, stage=None, **options):
    stage = stage or ToyStage(preset)
    folder = folder / "run"
    run = TrainingRun(
        TrainingOptions(cases=folder, run_dir=folder, device="cpu", precision="fp32", workers=0, **options)
    )
    trainer = Trainer(stage, TrainingCases(preset=stage.preset, splits={}, train=None, val=None), run)
    if run.is_resuming:
        trainer.resume()
    return trainer


def weights_of(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_same_state(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, dict):
            assert_same_state(value, right[key])
        elif torch.is_tensor(value):
            assert torch.equal(value, right[key]), key
        else:
            assert value == right[key], key


def rows_of(folder):
    with (folder / "run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_checkpoints_hold_the_arrangement_of_the_organs(tmp_path, preset):
    trainer = build(tmp_path, preset, epochs=1)
    arrangement = Arrangement([OrganOffset("mandible", "brainstem", (-50.0, -70.0, 0.0), (9.0, 8.0, 3.0))])
    trainer.cases = trainer.cases._replace(arrangement=arrangement)
    trainer.fit()
    for name in ("best.pt", "last.pt"):
        content = read_checkpoint(tmp_path / "run" / name)
        assert checkpoint_arrangement(content).offsets == arrangement.offsets


def test_two_cases_are_validated_before_the_first_step_and_then_as_scheduled(tmp_path, preset):
    stage = ToyStage(preset)
    build(tmp_path, preset, stage, epochs=3).fit()
    names = [name for name, _ in stage.history]
    assert names == ["validation", *["step"] * 6, "validation", *["step"] * 3, "validation"]
    assert [count for name, count in stage.history if name == "validation"] == [NUM_SANITY_VAL_CASES, 5, 5]
    steps = [drawn for name, drawn in stage.history if name == "step"]
    assert steps == [str(step) for step in range(9)]  # no sample is seen twice


def test_a_failing_validation_stops_before_the_first_step(tmp_path, preset):
    stage = ToyStage(preset)
    stage.measure = lambda num_cases: 1 // 0
    with pytest.raises(ZeroDivisionError):
        build(tmp_path, preset, stage).fit()
    assert stage.history == []
    assert not (tmp_path / "run" / "last.pt").exists()


def test_frozen_networks_do_not_change_by_a_bit(tmp_path, preset):
    stage = ToyStage(preset)
    before = {name: weights_of(network) for name, network in stage.networks.items()}
    build(tmp_path, preset, stage, max_steps=2).fit()
    assert_same_state(weights_of(stage.networks["teacher"]), before["teacher"])
    assert not torch.equal(stage.networks["learner"].scale.weight, before["learner"]["scale.weight"])
    assert not torch.equal(stage.networks["learner"].norm.running_mean, before["learner"]["norm.running_mean"])
    assert not any(parameter.requires_grad for parameter in stage.networks["teacher"].parameters())


def test_the_best_checkpoint_is_that_of_the_highest_score(tmp_path, preset):
    stage = ToyStage(preset, scores=[0.9, 0.3, 0.2])  # of the sanity check, which chooses nothing, of epoch 2 and 4
    build(tmp_path, preset, stage).fit()
    best, last = (read_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert last["state"]["best_score"] == 0.3
    assert (last["state"]["epoch"], last["state"]["step"]) == (4, 12)
    assert best["state"] == {}
    assert not torch.equal(best["networks"]["learner"]["scale.weight"], last["networks"]["learner"]["scale.weight"])


def test_metrics_hold_means_of_the_epoch_and_the_validation(tmp_path, preset):
    build(tmp_path, preset, ToyStage(preset, scores=[0, 0.5]), epochs=2).fit()
    first, second = rows_of(tmp_path)
    assert (first["epoch"], first["step"], first["dice"]) == ("0", "3", "")
    assert (second["epoch"], second["step"], second["dice"], second["score"]) == ("1", "6", "0.5", "0.5")
    assert float(first["loss"]) == float(first["error"]) > 0


def test_without_a_terminal_the_log_says_how_far_the_run_is(tmp_path, preset, monkeypatch, caplog):
    monkeypatch.setattr("utils.runtime.console.LOG_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO):
        build(tmp_path, preset, epochs=2).fit()
    lines = [message for message in caplog.messages if " steps, " in message]
    assert len(lines) == 6
    assert re.fullmatch(r"toy: 4 of 6 steps, 0:00:\d\d left, epoch 2, loss \d\.\d{4}", lines[3])


def test_a_validation_without_a_picture_is_recorded(tmp_path, preset):
    """Rank 0 found all of its cases unreadable, another rank did not."""

    class Blind(ToyStage):
        def measure(self, num_cases):
            return super().measure(num_cases)._replace(picture=None)

    assert build(tmp_path, preset, Blind(preset, scores=[0, 0.5]), epochs=2).fit()
    assert rows_of(tmp_path)[1]["score"] == "0.5"
    assert not (tmp_path / "run" / "validation.png").exists()


class PowerCutError(Exception):
    """What ends a run in the middle of an epoch."""


@pytest.mark.parametrize(("epochs_done", "ema_decay"), [(1, 0), (2, 0.9), (3, 0.9)])
def test_resumed_is_uninterrupted_bit_for_bit(epochs_done, ema_decay, tmp_path):
    preset = load_preset("phantom", [*SCHEDULE, f"backbone.ema_decay={ema_decay}"])
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    build(whole, preset).fit()

    stage = ToyStage(preset)
    step = stage.training_step

    def fail_in_the_next_epoch(batch):
        if len([name for name, _ in stage.history if name == "step"]) > epochs_done * STEPS_PER_EPOCH + 1:
            raise PowerCutError
        return step(batch)

    stage.training_step = fail_in_the_next_epoch
    with pytest.raises(PowerCutError):
        build(cut, preset, stage).fit()
    assert read_checkpoint(cut / "run" / "last.pt")["state"]["epoch"] == epochs_done

    torch.manual_seed(99)
    build(cut, preset, resume="required").fit()
    for name in ("last.pt", "best.pt"):
        left, right = (read_checkpoint(folder / "run" / name) for folder in (whole, cut))
        assert_same_state(left["networks"], right["networks"])
        assert_same_state(left["state"], right["state"])
    assert rows_of(whole) == rows_of(cut)


def test_the_average_of_the_weights_is_validated_and_kept_as_best(tmp_path):
    validated = []

    class Watched(ToyStage):
        def measure(self, num_cases):
            validated.append(weights_of(self.networks["learner"]))
            return super().measure(num_cases)

    stage = Watched(load_preset("phantom", [*SCHEDULE, "backbone.ema_decay=0.9"]), scores=[0, 0.5])
    build(tmp_path, stage.preset, stage, epochs=2).fit()
    best, last = (read_checkpoint(tmp_path / "run" / name)["networks"]["learner"] for name in ("best.pt", "last.pt"))
    assert_same_state(validated[1], best)
    assert_same_state(weights_of(stage.networks["learner"]), last)
    assert not torch.equal(last["scale.weight"], best["scale.weight"])
    assert not torch.equal(last["norm.running_mean"], best["norm.running_mean"])


def test_a_finished_run_resumed_changes_nothing(tmp_path, preset):
    build(tmp_path, preset, epochs=2).fit()
    before = (tmp_path / "run" / "last.pt").read_bytes()
    stage = ToyStage(preset)
    build(tmp_path, preset, stage, epochs=2, resume="required").fit()
    assert stage.history == []
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_run_continues_with_a_lower_learning_rate_and_says_so(tmp_path, preset, caplog):
    build(tmp_path, preset, epochs=1).fit()
    lower = load_preset("phantom", [*SCHEDULE, "backbone.learning_rate=1e-9", "backbone.warmup_epochs=0"])
    with caplog.at_level(logging.WARNING):
        trainer = build(tmp_path, lower, epochs=2, resume="required")
    assert "continues with changed values of backbone.learning_rate, backbone.warmup_epochs\n" in caplog.text
    before = weights_of(trainer.stage.networks["learner"].scale)
    trainer.fit()
    after = weights_of(trainer.stage.networks["learner"].scale)
    assert all(torch.allclose(before[key], after[key], atol=1e-7) for key in before)
    assert float(rows_of(tmp_path)[1]["learning_rate"]) < 1e-9


def test_resuming_refuses_another_stage_best_pt_and_other_networks(tmp_path, preset):
    build(tmp_path, preset, max_steps=1).fit()
    other = ToyStage(preset)
    other.name = "sol"
    with pytest.raises(ValueError, match=r"last\.pt: expected the last.pt of stage 'sol', got one of 'toy'"):
        build(tmp_path, preset, other, resume="required")
    changed = ToyStage(preset)
    changed.networks["learner"].scale = nn.Linear(1, 1, bias=False)
    with pytest.raises(ValueError, match=r"last\.pt: its learner does not fit"):
        build(tmp_path, preset, changed, resume="required")
    (tmp_path / "run" / "best.pt").replace(tmp_path / "run" / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt: expected the last.pt"):
        build(tmp_path, preset, resume="required")


def test_the_learning_rate_of_every_step_is_the_schedules(tmp_path, preset):
    stage = ToyStage(preset)
    trainer = build(tmp_path, preset, stage, epochs=2)
    rates = []
    step = stage.training_step

    def record(batch):
        rates.append(trainer.optimizers.by_network["learner"].param_groups[0]["lr"])
        return step(batch)

    stage.training_step = record
    trainer.fit()
    # 6 steps stand for 4 epochs, the first of them warm-up from a hundredth, then a cosine
    peak = preset.backbone.learning_rate
    assert rates[:2] == pytest.approx([0.01 * peak, 0.01 ** (1 / 3) * peak])
    assert rates[2:] == pytest.approx(
        [peak * (1 + math.cos(math.pi * (s / 6 - 0.25) / 0.75)) / 2 for s in (2, 3, 4, 5)]
    )


def test_a_run_of_an_earlier_release_is_resumed(tmp_path, preset):
    """Its checkpoints name the networks "parts" and the loss meter "tally"."""
    build(tmp_path / "whole", preset, epochs=2).fit()
    build(tmp_path, preset, epochs=1).fit()
    path = tmp_path / "run" / "last.pt"
    content = torch.load(path, weights_only=True)
    content["parts"] = content.pop("networks")
    meter = content["state"].pop("loss_meter")
    content["state"]["tally"] = {
        "num_steps": meter["num_steps"],
        "num_skipped": meter["num_discarded"],
        "skipped_in_a_row": meter["num_discarded_in_a_row"],
        "sums": meter["sums"],
    }
    torch.save(content, path)
    build(tmp_path, preset, epochs=2, resume="required").fit()
    left, right = (read_checkpoint(folder / "run" / "last.pt")["networks"] for folder in (tmp_path, tmp_path / "whole"))
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].keys() == right[name].keys()


def test_fit_says_whether_the_run_is_finished(tmp_path, preset):
    assert not build(tmp_path, preset, max_minutes=0).fit()
    assert build(tmp_path, preset, epochs=1, resume="auto").fit()


def run_out_of_gpu_memory(_batch):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def run_out_of_cpu_memory(_batch):
    torch.empty(2**60)


@pytest.mark.parametrize("exhaust", [run_out_of_gpu_memory, run_out_of_cpu_memory])
def test_out_of_memory_names_the_settings_that_reduce_it(exhaust, tmp_path, preset):
    stage = ToyStage(preset)
    stage.training_step = exhaust
    size = "x".join(map(str, preset.grid.crop_size_vox))
    with pytest.raises(UserError, match=f"toy: out of memory with 4 crops of {size} voxels") as caught:
        build(tmp_path, preset, stage, batch_size=4).fit()
    text = str(caught.value)
    for setting in (
        "--batch-size 2 --grad-accumulation-steps 2",
        "--precision bf16",
        "grid.crop_size_vox",
        "networks.width",
    ):
        assert setting in text
    assert "\n" not in text


def test_a_batch_of_one_is_not_to_be_halved(tmp_path, preset):
    stage = ToyStage(preset)
    stage.training_step = run_out_of_gpu_memory
    with pytest.raises(UserError, match=r"Use --precision bf16"):
        build(tmp_path, preset, stage).fit()


def test_other_errors_stay_what_they_are(tmp_path, preset):
    stage = ToyStage(preset)

    def fail(_batch):
        raise RuntimeError("shape '[2]' is invalid")

    stage.training_step = fail
    with pytest.raises(RuntimeError, match="shape"):
        build(tmp_path, preset, stage).fit()

"""Faults injected into trainings: the message, what remains, and that the resumed run equals an undisturbed one."""

import csv
import errno
import json
import logging
import math
import os
import re
import shutil
import signal
import traceback
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import train_backbone
from data_preprocess.case_index import write_index
from data_preprocess.cases import read_case_info
from data_preprocess.dataset import CaseDataset
from tests.posix import FORK_ONLY, POSIX_ONLY, limited_file_size
from utils.io.checkpoint import read_checkpoint
from utils.runtime.command_line import run_main
from utils.training.trainer import Trainer

STEPS_PER_EPOCH = 3
EPOCHS = 2


def arguments_of(cases, run, *more):
    values = {"steps_per_epoch": STEPS_PER_EPOCH, "epochs": EPOCHS, "validate_every": 1}
    changed = [word for key, value in values.items() for word in ("--set", f"backbone.{key}={value}")]
    fixed = ["--batch-size", "2", "--device", "cpu", "--precision", "fp32", "--workers", "0"]
    return ["--cases", str(cases), "--run-dir", str(run), *fixed, *changed, *map(str, more)]


def train(*arguments):
    return run_main(train_backbone.main, arguments_of(*arguments))


@pytest.fixture(scope="module")
def undisturbed(case_folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(case_folder, run) == 0
    return run


@pytest.fixture
def own_cases(case_folder, tmp_path):
    """A copy of the cases, to be spoiled; indexed, as prepared ones are."""
    folder = Path(shutil.copytree(case_folder, tmp_path / "cases"))
    write_index(folder, [read_case_info(path.parent) for path in sorted(folder.glob("*/case.json"))])
    return folder


def before_step(monkeypatch, step, act):
    """Do something before a certain step of any training."""
    make_step = Trainer._make_step

    def act_and_step(trainer, samples):
        if trainer.step == step:
            act()
        return make_step(trainer, samples)

    monkeypatch.setattr(Trainer, "_make_step", act_and_step)


def state_of(run):
    return json.loads((run / "status.json").read_text(encoding="utf-8"))


def same(left, right):
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return all(same(*pair) for pair in zip(left, right, strict=True))
    return torch.equal(left, right) if torch.is_tensor(left) else left == right


def assert_same_run(run, other):
    for name in ("last.pt", "best.pt"):
        ours, theirs = read_checkpoint(run / name), read_checkpoint(other / name)
        assert same(ours["networks"], theirs["networks"])
        assert same(ours["state"], theirs["state"])
    assert (run / "metrics.csv").read_bytes() == (other / "metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "step"), [(signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 4)])
def test_a_signal_ends_the_step_and_the_run_goes_on_as_if_nothing_had_been(
    number, step, case_folder, undisturbed, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_step(patch, step, lambda: signal.raise_signal(number))
        assert train(case_folder, run) == 75
    status = state_of(run)
    assert (status["state"], status["step"], status["reason"]) == ("stopped", step + 1, signal.Signals(number).name)
    assert read_checkpoint(run / "last.pt")["state"]["step"] == step + 1
    assert train(case_folder, run, "--resume") == 0
    assert state_of(run)["state"] == "finished"
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_a_signal_during_validation_loses_nothing(case_folder, undisturbed, tmp_path, monkeypatch):
    run, validate = tmp_path / "run", Trainer._validate

    def validate_and_be_stopped(trainer, num_cases):
        if trainer.step == STEPS_PER_EPOCH:
            signal.raise_signal(signal.SIGTERM)
        return validate(trainer, num_cases)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_validate", validate_and_be_stopped)
        assert train(case_folder, run) == 75
    assert read_checkpoint(run / "last.pt")["state"]["step"] == STEPS_PER_EPOCH
    assert not (run / "best.pt").exists()
    assert train(case_folder, run, "--resume", "auto") == 0
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_time_is_up_after_each_step_until_the_run_is_done(case_folder, undisturbed, tmp_path):
    statuses = []
    while not statuses or statuses[-1] == 75:
        statuses.append(train(case_folder, tmp_path / "run", "--resume", "auto", "--max-minutes", "0"))
        assert len(statuses) < 20
    assert statuses == [75] * (len(statuses) - 1) + [0]
    assert len(statuses) >= STEPS_PER_EPOCH * EPOCHS
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
def test_a_damaged_last_pt_costs_an_epoch_at_most(case_folder, undisturbed, tmp_path, monkeypatch, caplog):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        before_step(patch, 4, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(case_folder, run) == 75
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:5000])
    assert train(case_folder, run, "--resume") == 0
    assert "last.pt: is damaged" in caplog.text
    assert "resuming from an older checkpoint" in caplog.text
    assert_same_run(run, undisturbed)


def poison(monkeypatch, steps):
    """Make the loss of these steps NaN, and the batch statistics with it."""
    make_step, training_step = Trainer._make_step, train_backbone.BackboneStage.training_step
    current = []

    def note_step(trainer, samples):
        current[:] = [trainer.step]
        return make_step(trainer, samples)

    def poisoned_step(stage, batch):
        if current[0] in steps:
            batch = batch._replace(image=batch.image * math.nan)
        return training_step(stage, batch)

    monkeypatch.setattr(Trainer, "_make_step", note_step)
    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", poisoned_step)


@pytest.mark.slow
def test_steps_whose_loss_is_not_finite_are_discarded_and_named(case_folder, tmp_path, monkeypatch, caplog):
    poison(monkeypatch, {1, 4})
    assert train(case_folder, tmp_path / "run") == 0
    assert "step 1: the loss is nan; the step is discarded. Its cases are case_" in caplog.text
    with (tmp_path / "run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["discarded_steps"] for row in rows] == ["1", "1"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    content = read_checkpoint(tmp_path / "run" / "last.pt")
    assert all(value.isfinite().all() for value in content["networks"]["s_net"].values())
    assert content["state"]["step"] == STEPS_PER_EPOCH * EPOCHS


def test_a_run_whose_losses_stay_infinite_gives_up_and_keeps_its_last_good_checkpoint(
    case_folder, tmp_path, monkeypatch, capsys
):
    poison(monkeypatch, {3, 4, 5})
    run = tmp_path / "run"
    monkeypatch.setattr("utils.training.trainer.MAX_NONFINITE_STEPS", 2)
    assert train(case_folder, run) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "2 steps in a row were not finite. The cases of this one are case_" in error
    assert "Lower the learning rate" in error
    content = read_checkpoint(run / "last.pt")
    assert content["state"]["step"] == STEPS_PER_EPOCH
    assert all(value.isfinite().all() for value in content["networks"]["s_net"].values())


@pytest.mark.slow
def test_a_vanished_and_a_truncated_case_are_replaced_by_others(own_cases, tmp_path, monkeypatch, caplog):
    def spoil():
        shutil.rmtree(own_cases / "case_0")
        for name in ("case_1", "case_2"):
            image = own_cases / name / "image.npy"
            image.write_bytes(image.read_bytes()[:500])

    before_step(monkeypatch, 1, spoil)
    assert train(own_cases, tmp_path / "run") == 0
    assert "case_0" in caplog.text
    assert "another case replaces it" in caplog.text


@pytest.mark.slow
def test_a_lost_folder_of_cases_stops_the_run(own_cases, tmp_path, monkeypatch, capsys):
    before_step(monkeypatch, STEPS_PER_EPOCH + 1, lambda: shutil.rmtree(own_cases))
    assert train(own_cases, tmp_path / "run") == 2
    assert "10 cases in a row could not be read; is the disk still connected?" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "run" / "last.pt")["state"]["step"] == STEPS_PER_EPOCH


@pytest.mark.slow
def test_a_validation_case_that_vanishes_is_left_out(own_cases, tmp_path, monkeypatch, capsys):
    before_step(monkeypatch, 1, lambda: shutil.rmtree(own_cases / "case_5"))
    assert train(own_cases, tmp_path / "run") == 2  # it was the only one
    assert "validation: none of 1 cases can be read" in capsys.readouterr().err


@FORK_ONLY
@pytest.mark.slow
def test_a_killed_worker_changes_nothing(case_folder, undisturbed, tmp_path, monkeypatch, caplog):
    draw, flag = CaseDataset._draw, tmp_path / "kill"
    flag.touch()

    def draw_or_die(dataset, rng, index):
        if index == 7 and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(dataset, rng, index)

    monkeypatch.setattr(CaseDataset, "_draw", draw_or_die)
    with caplog.at_level(logging.WARNING):
        assert train(case_folder, tmp_path / "run", "--workers", "1") == 0
    assert "new workers read its samples again" in caplog.text
    assert_same_run(tmp_path / "run", undisturbed)


@pytest.mark.slow
@POSIX_ONLY
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_half_written(
    case_folder, undisturbed, tmp_path, monkeypatch, capsys
):
    """The limit on file sizes makes the kernel refuse a write in the middle, as a full disk does."""
    run, limit = tmp_path / "run", limited_file_size((undisturbed / "last.pt").stat().st_size // 2)
    with monkeypatch.context() as patch, ExitStack() as stack:
        before_step(patch, 4, lambda: stack.enter_context(limit))
        assert train(case_folder, run) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "last.pt: could not be written (" in error
    assert "the previous checkpoint is intact. Free some space, then run the same command with --resume" in error
    assert not [path.name for path in run.iterdir() if "partial" in path.name]
    assert read_checkpoint(run / "last.pt")["state"]["step"] == STEPS_PER_EPOCH
    assert train(case_folder, run, "--resume") == 0
    assert_same_run(run, undisturbed)


def test_a_full_disk_while_metrics_are_written_is_one_line(case_folder, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("utils.training.run_log._Table.add", refuse)
    assert train(case_folder, tmp_path / "run") == 2
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert read_checkpoint(tmp_path / "run" / "last.pt")["state"]["step"] == STEPS_PER_EPOCH


def test_out_of_gpu_memory_names_settings(case_folder, tmp_path, monkeypatch, capsys):
    def exhaust(*_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", exhaust)
    assert train(case_folder, tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "out of memory with 2 crops of 8x16x12 voxels. Use --batch-size 1 --grad-accumulation-steps 2" in error


@pytest.mark.slow
def test_two_runs_with_a_seed_are_the_same_and_a_run_folder_repeats_one(case_folder, undisturbed, tmp_path):
    assert train(case_folder, tmp_path / "second", "--deterministic") == 0
    torch.use_deterministic_algorithms(False)
    assert (tmp_path / "second" / "metrics.csv").read_bytes() == (undisturbed / "metrics.csv").read_bytes()
    repeated = ["--config-from", str(undisturbed), "--run-dir", str(tmp_path / "third")]
    assert run_main(train_backbone.main, repeated) == 0
    assert_same_run(tmp_path / "third", undisturbed)


@pytest.mark.slow
def test_a_fold_trains_on_the_others(case_folder, tmp_path):
    seen = []
    for index in range(1, 4):
        run = tmp_path / f"fold_{index}"
        assert train(case_folder, run, "--max-steps", "1", "--cross-validation", f"{index}/3") == 0
        splits = json.loads((run / "config.json").read_text(encoding="utf-8"))["splits"]
        assert not set(splits["train"]) & set(splits["val"])
        seen += splits["val"]
    assert sorted(seen) == [f"case_{i}" for i in range(6)]  # case_6 is for testing


@pytest.mark.slow
def test_accumulated_batches_are_a_step(case_folder, tmp_path):
    assert train(case_folder, tmp_path / "run", "--grad-accumulation-steps", "2", "--batch-size", "1") == 0
    state = read_checkpoint(tmp_path / "run" / "last.pt")["state"]
    assert state["step"] == STEPS_PER_EPOCH * EPOCHS
    assert len(np.unique([float(row) for row in losses_of(tmp_path / "run")])) == EPOCHS


def losses_of(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=FORK_ONLY)])
def test_a_bug_in_a_data_set_shows_its_file_and_line(workers, case_folder, tmp_path, monkeypatch):
    """numpy raises ValueError for it, which must not pass for a case that cannot be read, nor for the user's error."""

    def draw_with_bug(dataset, rng, index):
        return np.zeros(3).reshape(2, 2)

    monkeypatch.setattr(CaseDataset, "_draw", draw_with_bug)
    with pytest.raises(ValueError, match="cannot reshape") as caught:
        train(case_folder, tmp_path / "run", "--workers", workers)
    text = "".join(traceback.format_exception(caught.value))
    assert re.search(r'test_training_faults\.py", line \d+, in draw_with_bug\n +return np\.zeros', text)

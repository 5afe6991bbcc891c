"""utils/training/checkpoint_rotation.py: a complete checkpoint is left, whatever is damaged or killed."""

import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

from tests.posix import held_by_another_program
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.io.checkpoint import save_checkpoint
from utils.training.checkpoint_rotation import CheckpointRotation, reraise_write_failure

PRESET = load_preset("phantom")


def save(step):
    def write(path):
        save_checkpoint(path, stage="sol", preset=PRESET, networks={"sol_net": nn.Linear(30, 20)}, state={"step": step})

    return write


def steps_of(folder):
    """Step of each checkpoint that can be read, by name."""
    found = {path.name: torch.load(path)["state"]["step"] for path in folder.glob("last*.pt")}
    return dict(sorted(found.items()))


@pytest.fixture
def run(tmp_path):
    history = CheckpointRotation(tmp_path, num_kept=3)
    for step in range(5):
        history.write(save(step))
    return tmp_path


def test_as_many_are_kept_as_asked_for(run):
    assert steps_of(run) == {"last.1.pt": 3, "last.2.pt": 2, "last.pt": 4}
    assert len(list(run.iterdir())) == 3


def test_one_kept_is_last_pt_alone(tmp_path):
    history = CheckpointRotation(tmp_path, num_kept=1)
    for step in range(2):
        history.write(save(step))
    assert steps_of(tmp_path) == {"last.pt": 1}


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.999])
def test_a_truncated_newest_falls_back_to_the_older_one_and_says_so(fraction, run, caplog):
    newest = run / "last.pt"
    newest.write_bytes(newest.read_bytes()[: int(fraction * newest.stat().st_size)])
    history = CheckpointRotation(run, num_kept=3)
    path, content = history.read()
    assert (path.name, content["state"]["step"]) == ("last.1.pt", 3)
    assert "last.pt: is damaged" in caplog.text
    assert "resuming from an older checkpoint" in caplog.text
    history.write(save(10))
    assert steps_of(run) == {"last.1.pt": 3, "last.2.pt": 2, "last.pt": 10}  # the damaged one took no good one's place
    assert (run / "last.damaged").is_file()


def test_any_flipped_bit_is_noticed_or_harmless(run):
    """The archive carries a checksum of every record; what is not in a record is names, sizes and padding."""
    path = run / "last.pt"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    expected = CheckpointRotation(run, 1).read()[1]["networks"]["sol_net"]
    noticed = 0
    for _ in range(60):
        place = int(rng.integers(len(whole)))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :])
        try:
            read, content = CheckpointRotation(run, 3).read()
        finally:
            path.write_bytes(whole)
        noticed += read.name == "last.1.pt"
        if read.name == "last.pt":
            assert all(torch.equal(content["networks"]["sol_net"][key], value) for key, value in expected.items())
    assert noticed > 20


def test_all_damaged_is_an_error_that_names_them(run):
    for path in run.glob("last*.pt"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.pt: is damaged.*last\.1\.pt: is damaged.*last\.2\.pt: is damaged"):
        CheckpointRotation(run, 3).read()
    with pytest.raises(ValueError, match="has no last.pt to resume from"):
        CheckpointRotation(run / "elsewhere", 3).read()


class PowerCutError(BaseException):
    """What no code of ours handles."""


@pytest.mark.parametrize("renames_done", [0, 1, 2])
def test_dying_between_two_renames_loses_nothing_but_the_new_one(renames_done, run, monkeypatch):
    replace, calls = os.replace, []

    def dying_replace(source, target):
        if len(calls) == renames_done:
            raise PowerCutError
        calls.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying_replace)
        with pytest.raises(PowerCutError):
            CheckpointRotation(run, 3).write(save(5))
    assert CheckpointRotation(run, 3).exists()
    assert CheckpointRotation(run, 3).read()[1]["state"]["step"] == 4
    CheckpointRotation(run, 3).write(save(5))
    assert CheckpointRotation(run, 3).read()[1]["state"]["step"] == 5


@pytest.mark.parametrize("held", ["last.pt", "last.1.pt", "last.2.pt"])
def test_a_checkpoint_that_a_program_has_open_is_named_and_nothing_is_lost(held, run):
    with held_by_another_program([run / held]), pytest.raises(UserError, match=rf"{held}.*: cannot be replaced"):
        CheckpointRotation(run, 3).write(save(5))
    assert CheckpointRotation(run, 3).read()[1]["state"]["step"] == 4
    CheckpointRotation(run, 3).write(save(5))
    assert list(steps_of(run).values()).count(5) == 1
    assert steps_of(run)["last.pt"] == 5


def test_the_previous_checkpoint_may_have_the_next_number_already(tmp_path):
    (tmp_path / "last.1.pt").touch()
    with (
        pytest.raises(UserError, match="the previous checkpoint is intact"),
        reraise_write_failure(tmp_path / "last.pt"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("kept", [False, True])
def test_a_write_failure_says_why_and_what_is_left(kept, tmp_path):
    path = tmp_path / "last.pt"
    if kept:
        path.touch()
    expected = "the previous checkpoint is intact" if kept else "there is no previous one"
    message = rf"last\.pt: could not be written \(No space left.* MiB free\); {expected}"
    with pytest.raises(UserError, match=message), reraise_write_failure(path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_bug_while_writing_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="no such key"), reraise_write_failure(tmp_path / "last.pt"):
        raise RuntimeError("no such key")

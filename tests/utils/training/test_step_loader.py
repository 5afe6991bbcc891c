"""utils/training/step_loader.py: samples from any step on, through dying workers and unreadable samples."""

import logging
import multiprocessing
import os
import re
import signal
import time
import traceback
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch.utils.data import Dataset

from tests.posix import POSIX_ONLY
from utils.errors import UserError
from utils.runtime.distributed import DistributedContext
from utils.training.step_loader import MAX_WORKER_CRASHES, StepLoader

NUM_SAMPLES = 12


class Item(NamedTuple):
    value: torch.Tensor


class Numbers(Dataset):
    """Item i is i; a file says which item kills or fails the process that reads it."""

    def __init__(self, folder):
        self.folder = folder

    def __getitem__(self, index):
        deadly, broken = self.folder / f"kill_{index}", self.folder / f"fail_{index}"
        if deadly.exists():
            deadly.unlink()
            time.sleep(0.2)  # what was read before arrives
            os.kill(os.getpid(), signal.SIGKILL)
        if (self.folder / f"bug_{index}").exists():
            return [][index]
        if broken.exists():
            raise UserError(f"item {index} is gone; look for it")
        return Item(torch.tensor(index))


def loader_of(folder, workers=0, batches_per_step=1):
    steps = {"steps_per_epoch": NUM_SAMPLES // 2 // batches_per_step, "batches_per_step": batches_per_step}
    return StepLoader(dataset=Numbers(folder), batch_size=2, num_workers=workers, **steps)


def values(steps):
    return [[sample.value.tolist() for sample in samples] for samples in steps]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_goes_on_at_any_step(workers, tmp_path):
    source = loader_of(tmp_path, workers, batches_per_step=3)
    assert values(source.steps(0, 0)) == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9], [10, 11]]]
    assert values(source.steps(1, 1)) == [[[18, 19], [20, 21], [22, 23]]]
    assert values(source.steps(1, 2)) == []


def test_workers_read_where_no_signal_tells_of_their_end(tmp_path, monkeypatch):
    windows = SimpleNamespace(**{name: value for name, value in vars(signal).items() if name != "SIGCHLD"})
    monkeypatch.setattr("utils.training.step_loader.signal", windows)
    assert len(list(loader_of(tmp_path, workers=1).steps(0, 0))) == NUM_SAMPLES // 2


def test_an_epoch_left_in_its_middle_does_not_disturb_the_next(tmp_path):
    source = loader_of(tmp_path, workers=1)
    next(source.steps(0, 0))
    assert values(source.steps(3, 4)) == [[[44, 45]], [[46, 47]]]


@POSIX_ONLY
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_no_sample_is_lost_or_seen_twice(tmp_path, caplog):
    (tmp_path / "kill_5").touch()
    with caplog.at_level(logging.WARNING):
        seen = values(loader_of(tmp_path, workers=2).steps(0, 0))
    assert seen == [[[i, i + 1]] for i in range(0, NUM_SAMPLES, 2)]
    assert "DataLoader worker" in caplog.text
    assert "new workers read its samples again" in caplog.text


@POSIX_ONLY
@pytest.mark.slow
def test_workers_that_keep_dying_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("pathlib.Path.unlink", lambda *_: None)  # the item stays deadly
    monkeypatch.setattr("utils.training.step_loader.MAX_WORKER_CRASHES", 0)
    (tmp_path / "kill_5").touch()
    assert MAX_WORKER_CRASHES > 0
    with pytest.raises(ValueError, match="workers that read crops crashed 1 times.*Use fewer --workers"):
        values(loader_of(tmp_path, workers=1).steps(0, 0))


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_read_is_one_line(workers, tmp_path):
    (tmp_path / "fail_3").touch()
    steps = loader_of(tmp_path, workers).steps(0, 0)
    assert next(steps)[0].value.tolist() == [0, 1]
    with pytest.raises(UserError, match="item 3 is gone") as caught:
        next(steps)
    assert str(caught.value) == "item 3 is gone; look for it"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_data_set_shows_its_file_and_line(workers, tmp_path):
    (tmp_path / "bug_3").touch()
    with pytest.raises(IndexError) as caught:
        values(loader_of(tmp_path, workers).steps(0, 0))
    text = "".join(traceback.format_exception(caught.value))
    assert re.search(r'test_step_loader\.py", line \d+, in __getitem__\n +return \[\]\[index\]', text)


@pytest.mark.parametrize("kind", ["fail", "bug"])
def test_a_failed_sample_ends_the_workers_at_once(kind, tmp_path):
    """Left to the garbage collector, torch waits five seconds for each of them."""
    (tmp_path / f"{kind}_3").touch()
    before = multiprocessing.active_children()
    with pytest.raises((UserError, IndexError)) as caught:
        values(loader_of(tmp_path, workers=2).steps(0, 0))
    assert multiprocessing.active_children() == before
    assert caught.value.__traceback__ is not None


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_ranks_divide_an_epoch(num_ranks, tmp_path):
    ranks = [DistributedContext(rank=rank, world_size=num_ranks) for rank in range(num_ranks)]
    loaders = [
        StepLoader(dataset=Numbers(tmp_path), batch_size=2, steps_per_epoch=4, ranks=context) for context in ranks
    ]
    num_samples = 2 * 4 * num_ranks
    for epoch in range(3):
        parts = [[index for [batch] in values(loader.steps(epoch, 0)) for index in batch] for loader in loaders]
        assert [len(part) for part in parts] == [8] * num_ranks
        expected = range(epoch * num_samples, (epoch + 1) * num_samples)
        assert sorted(index for part in parts for index in part) == list(expected)

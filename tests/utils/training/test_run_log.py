"""utils/training/run_log.py: what a run folder records."""

import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.posix import held_by_another_program
from utils.config.preset import load_preset, preset_from_table
from utils.runtime.device import Compute
from utils.training import run_log
from utils.training.run import TrainingOptions
from utils.training.run_log import RunLog, write_configuration


def read_rows(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_that_come_later_are_empty_before(tmp_path):
    log = RunLog(tmp_path)
    log.add_epoch(0, {"loss": 0.5}, seconds=2.5)
    log.add_epoch(1, {"loss": 1 / 3, "dice": 0.75}, seconds=3)
    log.close()
    assert read_rows(tmp_path) == [
        {"epoch": "0", "loss": "0.5", "dice": ""},
        {"epoch": "1", "loss": "0.333333", "dice": "0.75"},
    ]
    assert (tmp_path / "timing.csv").read_text(encoding="utf-8") == "epoch,seconds\n0,2.5\n1,3\n"


def test_resuming_drops_what_the_interrupted_run_recorded_later(tmp_path):
    log = RunLog(tmp_path)
    for epoch, loss in enumerate((0.5, 0.4, 0.3)):
        log.add_epoch(epoch, {"loss": loss, **({"dice": 0.7} if epoch == 0 else {})}, seconds=1)
    log.close()
    resumed = RunLog(tmp_path, first_epoch=1)
    resumed.add_epoch(1, {"loss": 0.25}, seconds=1)
    resumed.close()
    assert [(row["epoch"], row["loss"], row["dice"]) for row in read_rows(tmp_path)] == [
        ("0", "0.5", "0.7"),
        ("1", "0.25", ""),
    ]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("loss")] == [(0, 0.5), (1, 0.25)]


def test_training_goes_on_while_its_tables_and_pictures_are_looked_at(tmp_path, caplog):
    log = RunLog(tmp_path)
    picture = np.zeros((4, 6, 3), dtype=np.uint8)
    log.add_epoch(0, {"loss": 0.5}, seconds=1)
    log.add_picture(0, picture)
    with held_by_another_program([tmp_path / "metrics.csv", tmp_path / "validation.png"]):
        log.add_epoch(1, {"loss": 0.25}, seconds=1)
        log.add_picture(1, picture + 200)
    assert [row["epoch"] for row in read_rows(tmp_path)] == ["0"]
    assert "metrics.csv: cannot be replaced" in caplog.text
    assert "validation.png: cannot be replaced" in caplog.text
    log.add_epoch(2, {"loss": 0.125}, seconds=1)
    log.close()
    assert [row["loss"] for row in read_rows(tmp_path)] == ["0.5", "0.25", "0.125"]


def test_without_tensorboard_everything_else_is_recorded(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run_log, "SummaryWriter", None)
    caplog.set_level("INFO")
    log = RunLog(tmp_path)
    log.add_epoch(0, {"loss": 0.5}, seconds=1)
    log.add_picture(0, np.zeros((4, 6, 3), dtype=np.uint8))
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.csv", "timing.csv", "validation.png"}
    assert "no events for TensorBoard are written: it is not installed" in caplog.text


def test_the_newest_picture_lies_in_the_folder(tmp_path):
    log = RunLog(tmp_path)
    for value in (10, 200):
        log.add_picture(0, np.full((4, 6, 3), value, dtype=np.uint8))
    log.close()
    picture = np.asarray(Image.open(tmp_path / "validation.png"))
    assert picture.shape == (4, 6, 3)
    assert (picture == 200).all()


def test_the_configuration_repeats_a_run(tmp_path):
    preset = load_preset("phantom", ["networks.width=0.25"])
    options = TrainingOptions(cases=Path("cases"), run_dir=tmp_path, init_from=[Path("a.pt")], seed=7)
    splits = {"train": ["a", "b"], "val": ["c"], "test": []}
    compute = Compute(device=torch.device("cpu"), precision="bf16")
    write_configuration(
        tmp_path,
        stage="sol",
        preset=preset,
        options=vars(options),
        compute=compute,
        splits=splits,
        is_resumed=False,
    )
    content = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert preset_from_table(content["preset"], "config.json") == preset
    assert content["splits"] == splits
    assert content["compute"] == {"device": "cpu", "precision": "bf16"}
    assert (content["stage"], content["options"]["seed"]) == ("sol", 7)
    assert content["options"]["init_from"] == ["a.pt"]
    assert set(content["versions"]) == {"focusnet", "python", "torch", "numpy"}
    assert content["git_commit"]

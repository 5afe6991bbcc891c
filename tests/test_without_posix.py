"""The commands in processes that lack what Windows lacks: tests/without_posix/sitecustomize.py says what."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models.focusnet import build_network
from tests.head_scan import SIZE, SPACING, head_scan
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import save_checkpoint
from utils.io.volumes import Volume, read_volume, write_volume

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux's /proc says which files are open"),
]

ROOT = Path(__file__).resolve().parent.parent
TINY = ("networks.width=0.1", "grid.crop_size_vox=[8,24,20]", "grid.roi_size_vox=[4,12,8]")
TINY += ("grid.spacing_zyx_mm=[9.0,7.0,6.0]", "heatmap.peak_threshold=0.0")
CASE_ID = "M\xfcller \u60a3\u8005"
"""A name with characters that a Western console has and does not have."""
WINDOWS = {
    "import resource": "ModuleNotFoundError",
    "open a folder": "PermissionError",
    "link": "PermissionError",
    "load the C library": "TypeError",
    "replace an open file": "PermissionError",
    "rename onto a file": "FileExistsError",
    "rename a folder in use": "PermissionError",
    "write a:b": "OSError",
    "make the folder a.": "OSError",
    "line end": "\r\n",
    "name in Latin-1": "UnicodeDecodeError",
    "text without encoding": "EncodingWarning",
    "print": "UnicodeEncodeError",
    "names": [],
    "/proc": False,
    "start method": "spawn",
    "torch": True,
}


def run(*arguments):
    """Run a command; its output, if it ended well."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests" / "without_posix"),
        "PYTHONIOENCODING": "cp1252",
        "PYTHONUTF8": "0",
        "PYTHONWARNDEFAULTENCODING": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=900)
    output, log = ended.stdout.decode("cp1252"), ended.stderr.decode("cp1252")
    assert ended.returncode == 0, log
    assert "Traceback" not in log
    return output


def test_the_process_and_its_workers_lack_what_windows_lacks(tmp_path):
    run(ROOT / "tests" / "without_posix" / "probe.py", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text(encoding="utf-8")) == [WINDOWS, WINDOWS]


def test_cases_are_prepared_by_two_workers(tmp_path):
    options = [word for setting in TINY for word in ("--set", setting)]
    command = ["-m", "data_preprocess.prepare", "--source", "phantom", "--limit", 2, "--workers", 2]
    run(*command, "--output", tmp_path / "cases", *options)
    names = {path.name for path in (tmp_path / "cases").iterdir()}
    assert len(list((tmp_path / "cases").glob("*/image.npy"))) == 2
    assert names >= {"dataset.json", "splits.json", "index.json", "report.html"}
    assert not list((tmp_path / "cases").rglob("*.partial*"))


def test_a_ct_is_segmented_and_scored(tmp_path):
    preset = load_preset("phantom", TINY)
    torch.manual_seed(0)
    networks = {name: build_network(name, preset) for name in ("s_net", "sol_net", "sos_net", "autoencoder")}
    save_checkpoint(tmp_path / "model.pt", stage="adversarial", preset=preset, networks=networks)
    geometry = Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING)
    write_volume(tmp_path / "in" / f"{CASE_ID}.nrrd", Volume(array=head_scan(), geometry=geometry))
    command = ["inference.py", "--checkpoint", tmp_path / "model.pt", "--input", tmp_path / "in", "--device", "cpu"]
    command += ["--output", tmp_path / "out", "--format", "nrrd", "--precision", "fp32"]
    run(*command, "--save-overlay", "--masks")
    assert (tmp_path / "out" / f"{CASE_ID}.png").is_file()
    run(*command, "--review")  # the files of the first run are replaced
    label = read_volume(tmp_path / "out" / f"{CASE_ID}.nrrd")
    assert label.geometry.matches(geometry)
    assert not (tmp_path / "out" / f"{CASE_ID}.png").exists()

    shape = np.zeros(SIZE, dtype=np.uint8)
    shape[30:50, 40:60, 40:70] = 3
    for folder, shift in (("prediction", 0), ("reference", 4)):
        moved = Volume(array=np.roll(shape, shift, axis=1), geometry=geometry)
        write_volume(tmp_path / folder / f"{CASE_ID}.nii.gz", moved)
    sides = ["--prediction", tmp_path / "prediction", "--reference", tmp_path / "reference"]
    shown = run("evaluate.py", *sides, "--preset", "phantom", "--output", tmp_path / "scores", "--workers", 2)
    assert "M\xfcller \\u60a3\\u8005" in shown
    with (tmp_path / "scores" / "scores.csv").open(newline="", encoding="utf-8") as file:
        scores = {(row["case"], row["organ"]): row["dice"] for row in csv.DictReader(file)}
    assert float(scores[CASE_ID, "mandible"]) == pytest.approx(0.8)


def test_three_steps_are_trained_with_a_worker(case_folder, tmp_path):
    command = ["train_backbone.py", "--cases", case_folder, "--run-dir", tmp_path / "run", "--max-steps", 3]
    command += ["--workers", 1, "--batch-size", 1, "--device", "cpu", "--precision", "fp32"]
    run(*command, "--set", "backbone.steps_per_epoch=2", "--set", "backbone.validate_every=1")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"last.pt", "last.1.pt", "best.pt", "metrics.csv", "validation.png", "config.json"}
    assert json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    with (tmp_path / "run" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "3"]

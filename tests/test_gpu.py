"""On a CUDA GPU: trainings in every precision, resume, one rank with NCCL, inference as on the CPU, out of memory."""

import csv
import logging
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import adv_train
import train_autoencoder
import train_backbone
import train_backbone_heatmap
import train_SOL
from data_preprocess.sources.phantom.source import generate_phantom
from models.pretrained import WEIGHTS_FOLDER, load_model
from utils.io.checkpoint import read_checkpoint
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]

SCRIPTS = {
    "backbone": (train_backbone, ()),
    "sol": (train_SOL, ("--init-from", "backbone")),
    "backbone_heatmap": (train_backbone_heatmap, ()),
    "autoencoder": (train_autoencoder, ()),
    "adversarial": (adv_train, ("--init-from", "sol", "--autoencoder", "autoencoder")),
}
"""In this order: script, and the stages that it starts from."""


def arguments_of(stage, cases, runs, name, *more):
    start = [word if word.startswith("--") else runs / word / "best.pt" for word in SCRIPTS[stage][1]]
    changed = ["--set", f"{stage}.steps_per_epoch=12", "--set", f"{stage}.validate_every=1", "--epochs", 2]
    words = ["--cases", cases, "--run-dir", runs / name, "--device", "cuda", "--batch-size", 2, *changed, *start, *more]
    return [str(word) for word in words]


def train(stage, *arguments):
    return run_main(SCRIPTS[stage][0].main, arguments_of(stage, *arguments))


def losses_of(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_stage_trains(precision, case_folder, tmp_path):
    for stage in SCRIPTS:
        assert train(stage, case_folder, tmp_path, stage, "--precision", precision) == 0
        assert all(map(math.isfinite, losses_of(tmp_path / stage)))
        for network in read_checkpoint(tmp_path / stage / "last.pt")["networks"].values():
            assert all(value.isfinite().all() for value in network.values())


def test_a_resumed_run_ends_as_an_uninterrupted_one_up_to_rounding(case_folder, tmp_path):
    fixed = ["--precision", "fp32", "--deterministic"]
    try:
        assert train("backbone", case_folder, tmp_path, "whole", *fixed) == 0
        status = train("backbone", case_folder, tmp_path, "cut", *fixed, "--max-minutes", 0)
        while status == 75:
            status = train("backbone", case_folder, tmp_path, "cut", *fixed, "--max-minutes", 0, "--resume")
    finally:
        torch.use_deterministic_algorithms(False)
    assert status == 0
    assert losses_of(tmp_path / "cut") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-3)


def test_one_rank_trains_with_nccl(case_folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    arguments = arguments_of("backbone", case_folder, tmp_path, "run")
    finished = subprocess.run([*command, train_backbone.__file__, *arguments], capture_output=True, encoding="utf-8")
    assert finished.returncode == 0, finished.stderr
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))


@pytest.fixture(scope="module")
def prediction():
    """A function that segments a phantom with the published model: (D, H, W) label map, and what was noted."""

    def predict(device, precision):
        model = load_model(WEIGHTS_FOLDER / "openkbp.pt", choose_compute(device, precision))
        raw = generate_phantom(0, spacing_zyx_mm=model.preset.grid.spacing_zyx_mm)
        image = torch.from_numpy(np.ascontiguousarray(raw.volume.array))
        return model.predictor.predict(image).label.cpu().numpy(), model.predictor.notes

    return predict


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_inference_equals_that_of_the_cpu(precision, prediction):
    (ours, _), (theirs, _) = prediction("cuda", precision), prediction("cpu", "fp32")
    assert (ours == theirs).mean() >= 0.999
    for label in np.unique(theirs)[1:]:
        one, other = ours == label, theirs == label
        assert 1 - 2 * (one & other).sum() / (one.sum() + other.sum()) <= 0.002, label


def test_out_of_memory_continues_on_the_cpu(prediction, caplog):
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(64 * 2**20 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with caplog.at_level(logging.WARNING):
            _, notes = prediction("cuda", "fp32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert notes == ["out of GPU memory: continued on the CPU"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_train(case_folder, tmp_path):
    assert train("backbone", case_folder, tmp_path, "run", "--compile") == 0
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))

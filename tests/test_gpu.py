"""On a CUDA GPU: trainings in every precision, resume, repeated runs, one rank with NCCL, inference, out of memory."""

import csv
import logging
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.benchmark import Timer

import train_backbone
from data_preprocess.sources.phantom.source import generate_phantom
from models.convolution import conv3d_he_init
from models.pretrained import WEIGHTS_FOLDER, load_model
from tests import all_stages
from tests.all_stages import SCRIPTS, weights_of
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]


def arguments_of(stage, *words):
    steps = ["--set", f"{stage}.steps_per_epoch=12", "--epochs", 2]
    return all_stages.arguments_of(stage, *words, "--device", "cuda", *steps)


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
        assert all(value.isfinite().all() for value in weights_of(tmp_path / stage).values())


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


def run_in_process(*command):
    finished = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8")
    assert finished.returncode == 0, finished.stderr


def test_two_deterministic_runs_of_every_stage_give_the_same_weights(case_folder, tmp_path):
    """In processes of their own: cuBLAS reads its settings when a process uses the GPU for the first time."""
    for stage in SCRIPTS:
        for name in (stage, f"{stage}_again"):
            words = all_stages.arguments_of(stage, case_folder, tmp_path, name, "--device", "cuda", "--max-steps", 2)
            run_in_process(sys.executable, SCRIPTS[stage][0].__file__, *words, "--deterministic")
        first, second = weights_of(tmp_path / stage), weights_of(tmp_path / f"{stage}_again")
        assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []


def test_one_rank_trains_with_nccl(case_folder, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    run_in_process(*command, train_backbone.__file__, *arguments_of("backbone", case_folder, tmp_path, "run"))
    assert all(map(math.isfinite, losses_of(tmp_path / "run")))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_bias_of_a_dilated_convolution_costs_little(dtype):
    """It cost much where torch left cuDNN for half precision (pytorch issue 167420, with cuDNN 9.8 to 9.14)."""
    features = torch.randn(1, 64, 20, 48, 48, device="cuda", dtype=dtype).contiguous(
        memory_format=torch.channels_last_3d
    )
    seconds = []
    for bias in (False, True):
        conv = conv3d_he_init(64, 64, (3, 3, 3), dilation=(1, 6, 6), bias=bias)
        conv = conv.to("cuda", dtype, memory_format=torch.channels_last_3d)
        timer = Timer("conv(features)", globals={"conv": conv, "features": features})
        seconds.append(timer.blocked_autorange(min_run_time=0.5).median)
    assert seconds[1] <= 2 * seconds[0]


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

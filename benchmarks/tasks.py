"""The tasks that benchmarks/bench.py times, each as in the baseline and as in this program."""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

import inference
import models.predictor
from benchmarks.ab_timing import Task
from benchmarks.baseline import (
    BaselineCompute,
    OneHotLoss,
    PlainOptimizers,
    resample_case,
    resample_to_label_map,
    score_labels,
)
from data_preprocess import inference_transform
from data_preprocess.augment import Batch
from data_preprocess.dataloaders import open_training_cases
from data_preprocess.export import export_case, nifti_files
from data_preprocess.prepare import prepare_case
from data_preprocess.scans import list_scans, read_transformed
from data_preprocess.sources import RawCase
from models.focusnet import NETWORK_NAMES, build_network
from models.int8 import quantize_convolutions
from models.pretrained import load_model
from models.sliding_window import OVERLAP
from utils.config.preset import Preset
from utils.evaluation.evaluate import EvaluationSettings, evaluate_case
from utils.evaluation.matching import CasePair
from utils.evaluation.tolerances import Tolerances
from utils.io.checkpoint import save_checkpoint
from utils.io.segmentations import CaseFiles
from utils.io.volumes import read_volume, write_volume
from utils.runtime.device import Compute, Precision, choose_compute
from utils.runtime.memory import TRAINING_LIMIT_MIB, keep_freed_memory
from utils.training.optimization import Optimizers
from utils.training.run import TrainingRun, parse_training_options
from utils.training.stage import Stage
from utils.training.train_step import StepResult, train_step
from utils.training.trainer import Trainer

STAGES = {
    "backbone": ("train_backbone", "BackboneStage"),
    "sol": ("train_SOL", "SOLStage"),
    "backbone_heatmap": ("train_backbone_heatmap", "BackboneHeatmapStage"),
    "autoencoder": ("train_autoencoder", "AutoEncoderStage"),
    "adversarial": ("adv_train", "AdversarialStage"),
}
"""Script and class of every stage."""


def prepare_process(*, baseline: bool, device: str | None, precision: Precision | None = None) -> Compute:
    """Seed torch and choose the device and precision: float32 for the baseline, else as asked or as in the scripts."""
    torch.manual_seed(0)
    if baseline:
        return BaselineCompute(device=choose_compute(device, "fp32").device, precision="fp32")
    keep_freed_memory()
    return choose_compute(device, precision)


def forward(preset: Preset, device: str | None, precision: Precision | None, *, baseline: bool) -> Task:
    """S-Net on one crop."""
    compute = prepare_process(baseline=baseline, device=device, precision=precision)
    network = compute.place(build_network("s_net", preset)).eval()
    if compute.precision == "int8":
        quantize_convolutions(network)
    image = torch.randn(1, 1, *preset.grid.crop_size_vox, device=compute.device)
    if not baseline:
        image = image.contiguous(memory_format=torch.channels_last_3d)

    def run() -> None:
        with torch.no_grad(), compute.autocast():
            network(image)

    return Task(run, run)


def step(stage: str, preset: Preset, device: str | None, *, baseline: bool) -> Task:
    """One training step of a stage on one crop, or on the preset's batch of masks."""
    compute = prepare_process(baseline=baseline, device=device)
    if not baseline:
        keep_freed_memory(limit_mib=TRAINING_LIMIT_MIB)
    script, name = STAGES[stage]
    built: Stage = getattr(import_module(script), name)(preset, compute, seed=0)
    if baseline and hasattr(built, "segmentation_loss"):
        built.segmentation_loss = OneHotLoss.from_preset(preset).to(compute.device)
    batch = _masks(preset, compute) if stage == "autoencoder" else _crop(preset, compute)
    built.augment = lambda _sample: batch
    step_of = _training_of(built, baseline=baseline)
    return Task(lambda: step_of([()]), lambda: step_of([()]))


def loading(cases: Path, overrides: list[str], device: str | None, *, baseline: bool, num_steps: int = 12) -> Task:
    """Steps of S-Net that read a folder of cases; the baseline reads in the same process.

    Its result is the fraction of the time spent waiting for crops.
    """
    compute = prepare_process(baseline=False, device=device)
    keep_freed_memory(limit_mib=TRAINING_LIMIT_MIB)
    words = ["--cases", str(cases), "--run-dir", str(_new_folder()), "--workers", "0" if baseline else "1"]
    options = parse_training_options("", [*words, *(word for value in overrides for word in ("--set", value))])
    run = TrainingRun(options)
    opened = open_training_cases(run)
    stage: Stage = import_module("train_backbone").BackboneStage(opened.preset, compute, seed=0)
    loader = Trainer(stage, opened, run).loader
    step_of = _training_of(stage)

    def train() -> float:
        steps = loader.steps(0, 0)
        microbatches, waited = next(steps), 0.0  # reading starts with the first one, once per epoch
        started = time.perf_counter()
        for _ in range(num_steps):
            step_of(microbatches).losses["loss"].item()
            asked = time.perf_counter()
            microbatches = next(steps)
            waited += time.perf_counter() - asked
        return waited / (time.perf_counter() - started)

    return Task(train)


def _training_of(stage: Stage, *, baseline: bool = False) -> Callable[[list], StepResult]:
    """A function that makes one training step of a stage from its microbatches."""
    for name, network in stage.networks.items():
        network.train(name in stage.trained).requires_grad_(name in stage.trained)
    trained, schedule = {name: stage.networks[name] for name in stage.trained}, stage.schedule
    optimizers = (PlainOptimizers if baseline else Optimizers)(trained, schedule, stage.compute)
    return lambda microbatches: train_step(stage, microbatches, optimizers, schedule.learning_rate)


def _crop(preset: Preset, compute: Compute) -> Batch:
    """Noise with a block of each organ, the small ones' in the middle."""
    size, organs = preset.grid.crop_size_vox, len(preset.organs)
    label = torch.zeros(1, *size, dtype=torch.uint8)
    for organ, rows in enumerate(np.array_split(np.arange(size[1]), organs), 1):
        label[0, :, rows[0] : rows[-1] + 1, : size[2] // 2] = organ
    return Batch(
        image=torch.randn(1, 1, *size).to(compute.device),
        label=label.to(compute.device),
        present=torch.ones(1, organs, dtype=torch.bool),
        labeled=torch.ones(1, organs, dtype=torch.bool, device=compute.device),
        centers_vox=(torch.tensor(size) / 2).expand(1, organs, 3),
        roi_jitter=torch.zeros(1, organs, 3),
    )


def _masks(preset: Preset, compute: Compute) -> torch.Tensor:
    return (torch.rand(preset.autoencoder.batch_size, 1, *preset.grid.roi_size_vox) > 0.9).float().to(compute.device)


def whole_ct(
    raw: RawCase,
    checkpoint: Path | None,
    preset: Preset,
    device: str | None,
    precision: Precision | None,
    *,
    baseline: bool,
) -> Task:
    """From a CT file to the file of its label map, with the model loaded."""
    compute, folder = prepare_process(baseline=baseline, device=device, precision=precision), _new_folder()
    path = folder / "ct.nii.gz"
    write_volume(path, raw.volume)
    if checkpoint is None:
        checkpoint = folder / "untrained.pt"
        save_untrained(checkpoint, preset)
    model = load_model(checkpoint, compute, overlap=0.5 if baseline else OVERLAP)
    if baseline:
        inference_transform.resample_to_label_map = resample_to_label_map
        models.predictor.MIN_TISSUE_HU = -math.inf
        network = model.predictor.predictor.network.to(memory_format=torch.contiguous_format)
        network.s_net.register_forward_pre_hook(lambda _network, images: (images[0].contiguous(),))
    scan, label, grid = list_scans(path)[0], folder / "label.nii.gz", model.preset.grid
    return Task(lambda: write_volume(label, inference.segment(read_transformed(scan, grid), model).label))


def save_untrained(path: Path, preset: Preset) -> None:
    """Write a checkpoint of all networks with random weights, in which every small organ is found somewhere."""
    everywhere = replace(preset, heatmap=replace(preset.heatmap, peak_threshold=0.0))
    networks = {name: build_network(name, everywhere) for name in NETWORK_NAMES}
    save_checkpoint(path, stage="adversarial", preset=everywhere, networks=networks)


def preparation(raw: RawCase, preset: Preset, *, baseline: bool) -> Task:
    """One CT with contours to a case; the baseline resamples whole volumes by SimpleITK."""
    prepare_process(baseline=baseline, device="cpu")
    folder = _new_folder()
    if baseline:
        return Task(lambda: resample_case(raw, preset.grid.spacing_zyx_mm, folder))
    return Task(lambda: prepare_case(raw, preset, Path(tempfile.mkdtemp(dir=folder))))


def evaluation(raw: RawCase, preset: Preset, *, baseline: bool) -> Task:
    """All scores of one label map; the baseline uses the surface-distance package on whole masks."""
    prepare_process(baseline=baseline, device="cpu")
    folder = _new_folder()
    export_case(raw, preset, nifti_files(folder, raw.case_id))
    reference = folder / "labels" / f"{raw.case_id}.nii.gz"
    volume, shifted = read_volume(reference), folder / reference.name
    write_volume(shifted, replace(volume, array=ndimage.shift(volume.array, (1, 2, 1), order=0)))
    if baseline:
        return Task(lambda: score_labels(shifted, reference))
    names = dict(enumerate(preset.organ_names, 1))
    files = [CaseFiles(case_id=raw.case_id, label_map=path, label_names=names) for path in (shifted, reference)]
    settings = EvaluationSettings(preset=preset, tolerances=Tolerances([], preset), resample=False)
    return Task(lambda: evaluate_case(CasePair(*files), settings))


def _new_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="focusnet_bench_"))

"""Loaders of training samples."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from data_preprocess.augment import margin_size
from data_preprocess.cases import check_compatible, read_dataset
from data_preprocess.dataset import CaseDataset, CaseFolder, EpochSampler, ShapeDataset
from utils.preset import Preset, ScheduleSettings, load_preset, preset_from_table, preset_to_table
from utils.training_run import TrainingRun


def training_preset(cases: Path, preset: str | None, overrides: Sequence[str]) -> Preset:
    """The preset to train with: the one named, or else the one that the cases carry; then the overrides.

    Raises:
        ValueError: it does not fit the cases.
    """
    prepared = read_dataset(cases)
    if preset is None:
        chosen = preset_from_table(preset_to_table(prepared), source=f"{cases}/dataset.json", overrides=overrides)
    else:
        chosen = load_preset(preset, overrides)
    check_compatible(chosen, prepared, cases)
    return chosen


def crop_dataset(cases: CaseFolder, preset: Preset, seed: int) -> CaseDataset:
    """Training crops of all organs, with the margin that the preset's augmentation needs."""
    organs, share = range(len(preset.organs)), preset.sampling.organ_share
    return CaseDataset(cases, preset, box_size_vox=_box_size(preset), organs=organs, organ_share=share, seed=seed)


def small_organ_dataset(cases: CaseFolder, preset: Preset, seed: int) -> CaseDataset:
    """Training crops of cases that have a small organ contoured, most of them centered on one."""
    organs, share = preset.small_organs, preset.sampling.small_organ_share
    return CaseDataset(cases, preset, box_size_vox=_box_size(preset), organs=organs, organ_share=share, seed=seed)


def shape_dataset(cases: CaseFolder, preset: Preset, seed: int) -> ShapeDataset:
    """Small organs' masks with the margin that the preset's augmentation needs."""
    size = margin_size(preset.grid.roi_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)
    return ShapeDataset(cases, preset, box_size_vox=size, seed=seed)


def build_loader(dataset: Dataset, schedule: ScheduleSettings, run: TrainingRun) -> DataLoader:
    """Batches of this rank; an epoch has the schedule's number of steps.

    Args:
        dataset: whose items are functions of the seed and the index.
        schedule: steps per epoch, and the batch size unless the command line gives one.
        run: options, ranks and device.
    """
    options, ranks = run.options, run.ranks
    batch_size = options.batch_size or schedule.batch_size
    samples_per_epoch = schedule.steps_per_epoch * batch_size * ranks.count
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(samples_per_epoch, ranks.rank, ranks.count),
        num_workers=options.workers,
        pin_memory=run.compute.device.type == "cuda",
        persistent_workers=options.workers > 0,
        worker_init_fn=_use_one_thread,
        generator=torch.Generator(),  # starting workers must not draw from the global one: resuming starts them anew
    )


def _box_size(preset: Preset) -> tuple[int, int, int]:
    return margin_size(preset.grid.crop_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)


def _use_one_thread(_worker: int) -> None:
    torch.set_num_threads(1)  # reading needs no more, and the training step wants the cores

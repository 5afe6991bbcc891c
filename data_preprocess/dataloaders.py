"""Loaders of training samples."""

import torch
from torch.utils.data import DataLoader, Dataset

from data_preprocess.augment import padded_patch_size
from data_preprocess.cases import check_compatible, read_dataset
from data_preprocess.dataset import CaseDataset, CaseFolder, EpochSampler, ShapeDataset
from utils.config.preset import Preset, ScheduleSettings, load_preset, preset_from_table, preset_to_table
from utils.training.run import TrainingOptions, TrainingRun
from utils.training.run_log import read_configuration
from utils.training.step_loader import StepLoader, start_worker


def training_preset(options: TrainingOptions) -> Preset:
    """The preset to train with: the one named, or that of the run to repeat, or the one that the cases carry; then the
    overrides.

    Raises:
        ValueError: it does not fit the cases.
    """
    prepared = read_dataset(options.cases)
    if options.repeat is not None:
        table, source = read_configuration(options.repeat)["preset"], f"{options.repeat}/config.json"
        chosen = preset_from_table(table, source=source, overrides=options.set)
    elif options.preset is None:
        table, source = preset_to_table(prepared), f"{options.cases}/dataset.json"
        chosen = preset_from_table(table, source=source, overrides=options.set)
    else:
        chosen = load_preset(options.preset, options.set)
    check_compatible(chosen, prepared, options.cases)
    return chosen


def open_training_cases(run: TrainingRun, preset: Preset) -> tuple[CaseFolder, CaseFolder]:
    """The cases that train and those that validate."""
    folder = run.options.cases
    return tuple(CaseFolder(folder, split, preset.organ_names, splits=run.splits) for split in ("train", "val"))


def crop_dataset(cases: CaseFolder, preset: Preset, seed: int) -> CaseDataset:
    """Training crops of all organs, with the margin that the preset's augmentation needs."""
    organs, share = range(len(preset.organs)), preset.sampling.organ_fraction
    return CaseDataset(cases, preset, box_size_vox=_box_size(preset), organs=organs, organ_fraction=share, seed=seed)


def small_organ_dataset(cases: CaseFolder, preset: Preset, seed: int) -> CaseDataset:
    """Training crops of cases that have a small organ contoured, most of them centered on one."""
    organs, share = preset.small_organs, preset.sampling.small_organ_fraction
    return CaseDataset(cases, preset, box_size_vox=_box_size(preset), organs=organs, organ_fraction=share, seed=seed)


def shape_dataset(cases: CaseFolder, preset: Preset, seed: int) -> ShapeDataset:
    """Small organs' masks with the margin that the preset's augmentation needs."""
    size = padded_patch_size(preset.grid.roi_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)
    return ShapeDataset(cases, preset, box_size_vox=size, seed=seed)


def build_step_loader(dataset: Dataset, schedule: ScheduleSettings, run: TrainingRun) -> StepLoader:
    """Batches of this rank; an epoch has the schedule's number of steps.

    Args:
        dataset: whose items are functions of the seed and the index.
        schedule: steps per epoch, and the batch size unless the command line gives one.
        run: options, ranks and device.
    """
    options, ranks = run.options, run.ranks
    batch_size = options.batch_size or schedule.batch_size
    samples_per_epoch = schedule.steps_per_epoch * options.accumulate * batch_size * ranks.world_size

    def make_loader() -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=EpochSampler(samples_per_epoch, ranks.rank, ranks.world_size),
            num_workers=options.workers,
            pin_memory=run.compute.device.type == "cuda",
            persistent_workers=options.workers > 0,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # resuming starts workers anew, which must not draw from the global one
        )

    return StepLoader(make_loader, options.accumulate)


def _box_size(preset: Preset) -> tuple[int, int, int]:
    return padded_patch_size(preset.grid.crop_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)


def _start_worker(worker: int) -> None:
    start_worker(worker)
    torch.set_num_threads(1)  # reading needs no more, and the training step wants the cores

"""loading.py: which preset trains, and what the loaders hand out."""

import pytest
import torch

from data_preprocess.augment import CropAugmentation, ShapeAugmentation
from data_preprocess.dataloaders import (
    build_step_loader,
    crop_dataset,
    shape_dataset,
    small_organ_dataset,
    training_preset,
)
from data_preprocess.dataset import CaseFolder
from utils.runtime.device import choose_compute
from utils.runtime.distributed import DistributedContext
from utils.training.run import TrainingOptions, TrainingRun

SUBMANDIBULARS = [7, 8]
SINGLE = DistributedContext()


@pytest.fixture
def train(case_folder, tiny_preset):
    return CaseFolder(case_folder, "train", tiny_preset.organ_names)


def training_run(tmp_path, *, ranks=SINGLE, **options):
    options = TrainingOptions(cases=tmp_path, run=tmp_path / "run", **options)
    return TrainingRun(options=options, splits={}, compute=choose_compute("cpu", "fp32"), ranks=ranks)


def preset_for(cases, preset=None, overrides=()):
    return training_preset(TrainingOptions(cases=cases, run=cases / "run", preset=preset, set=list(overrides)))


def test_cases_carry_their_preset(case_folder, tiny_preset):
    assert preset_for(case_folder) == tiny_preset
    changed = preset_for(case_folder, None, ["heatmap.sigma_vox=1.5"])
    assert changed.heatmap.sigma_vox == 1.5
    assert changed.grid == tiny_preset.grid


def test_preset_that_does_not_fit_the_cases_is_refused(case_folder):
    with pytest.raises(ValueError, match="was prepared at"):
        preset_for(case_folder, "phantom")
    with pytest.raises(ValueError, match="was prepared with 9 organs"):
        preset_for(case_folder, "openkbp")
    with pytest.raises(ValueError, match="grid.spacing: unknown key"):
        preset_for(case_folder, None, ["grid.spacing=3"])
    fitting = preset_for(case_folder, "pddca", ["grid.spacing_zyx_mm=[3.0,2.0,1.5]"])
    assert fitting.name == "pddca"


def test_batches_have_the_size_of_the_crop(train, tiny_preset, tmp_path):
    run = training_run(tmp_path, batch_size=2, workers=0)
    feed = build_step_loader(crop_dataset(train, tiny_preset, 0), tiny_preset.backbone, run)
    assert feed.steps_per_epoch == tiny_preset.backbone.steps_per_epoch
    [sample] = next(feed.steps(0, 0))
    batch = CropAugmentation(tiny_preset, 0)(sample)
    assert batch.image.shape == (2, 1, 8, 16, 12)
    assert batch.label.shape == (2, 8, 16, 12)
    assert batch.present.shape == (2, 9)
    assert batch.centers_vox.shape == (2, 9, 3)
    assert torch.equal(batch.centers_vox.isfinite().all(dim=2), batch.present)
    assert not batch.present[:, SUBMANDIBULARS].any()
    assert len(batch.case_ids) == 2


def test_small_organ_crops_show_small_organs(train, tiny_preset):
    dataset = small_organ_dataset(train, tiny_preset, 0)
    small = torch.tensor(tiny_preset.small_organs) + 1
    shown = [bool(torch.isin(dataset[i].label, small).any()) for i in range(100)]
    assert sum(shown) >= 85


def test_shape_batches_have_the_size_of_the_roi(train, tiny_preset, tmp_path):
    run = training_run(tmp_path, workers=0)
    feed = build_step_loader(shape_dataset(train, tiny_preset, 0), tiny_preset.autoencoder, run)
    masks = ShapeAugmentation(tiny_preset, 0)(*next(feed.steps(0, 0)))
    assert masks.shape == (tiny_preset.autoencoder.batch_size, 1, 4, 12, 8)
    assert masks.flatten(1).amax(dim=1).min() == 1


def test_workers_and_ranks_do_not_change_the_samples(train, tiny_preset, tmp_path):
    dataset, schedule = crop_dataset(train, tiny_preset, 0), tiny_preset.sol

    def images(*, first_step=0, **options):
        ranks = options.pop("ranks", SINGLE)
        feed = build_step_loader(dataset, schedule, training_run(tmp_path, ranks=ranks, **options))
        return torch.cat([sample.image_hu for samples in feed.steps(0, first_step) for sample in samples])

    alone = images(batch_size=2, workers=0)
    assert torch.equal(images(batch_size=2, workers=1), alone)
    assert torch.equal(images(batch_size=1, accumulate=2, workers=1), alone)
    assert torch.equal(images(batch_size=2, workers=0, first_step=7), alone[14:])
    shared = [images(batch_size=1, workers=0, ranks=DistributedContext(rank=rank, world_size=2)) for rank in range(2)]
    assert torch.equal(torch.stack(shared, dim=1).flatten(0, 1), alone)

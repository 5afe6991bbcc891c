"""dataloaders.py: the preset and splits of a run, and its samples."""

import shutil

import numpy as np
import pytest
import torch

from benchmarks import add_arrangement
from data_preprocess.augment import augment_crops, augment_shapes
from data_preprocess.cases import read_case_info
from data_preprocess.dataloaders import (
    choose_splits,
    crop_dataset,
    open_training_cases,
    shape_dataset,
    training_preset,
)
from data_preprocess.dataset import CaseFolder
from data_preprocess.splits import leave_out_fold
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging import arrangement
from utils.io.checkpoint import checkpoint_arrangement, read_checkpoint, save_checkpoint
from utils.io.files import write_json
from utils.runtime.command_line import Shard
from utils.runtime.device import choose_compute
from utils.runtime.distributed import DistributedContext
from utils.training.run import TrainingOptions, TrainingRun
from utils.training.run_log import write_configuration
from utils.training.step_loader import StepLoader

SUBMANDIBULARS = [7, 8]


@pytest.fixture
def train(case_folder, tiny_preset):
    return CaseFolder(case_folder, "train", tiny_preset.organ_names)


def preset_for(cases, preset=None, overrides=()):
    return training_preset(TrainingOptions(cases=cases, run_dir=cases / "run", preset=preset, set=list(overrides)))


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


def test_the_arrangement_of_the_organs_is_that_of_the_training_cases(case_folder, tiny_preset, monkeypatch):
    monkeypatch.setattr(arrangement, "MIN_CASES", 5)  # of five training cases, all have brainstem and left optic nerve
    run = TrainingRun(TrainingOptions(cases=case_folder, run_dir=case_folder / "run", device="cpu"))
    [offset] = open_training_cases(run).arrangement.offsets
    assert (offset.organ, offset.other) == ("brainstem", "optic_nerve_left")
    infos = [read_case_info(case_folder / f"case_{i}") for i in range(5)]
    between = [np.subtract(*(info.organs[name].center_vox for name in (offset.organ, offset.other))) for info in infos]
    expected = np.median(between * np.array(tiny_preset.grid.spacing_zyx_mm), axis=0)
    np.testing.assert_allclose(offset.median_mm, expected, atol=0.06)


def test_an_arrangement_is_added_to_an_old_checkpoint(case_folder, tiny_preset, tmp_path, monkeypatch):
    monkeypatch.setattr(arrangement, "MIN_CASES", 5)
    save_checkpoint(
        tmp_path / "old.pt", stage="backbone", preset=tiny_preset, networks={"s_net": torch.nn.Linear(2, 2)}
    )
    old = read_checkpoint(tmp_path / "old.pt")
    words = ["--checkpoint", tmp_path / "old.pt", "--cases", case_folder, "--output", tmp_path / "new.pt"]
    assert add_arrangement.main([str(word) for word in words]) == 0
    new = read_checkpoint(tmp_path / "new.pt")
    assert [offset.organ for offset in checkpoint_arrangement(new).offsets] == ["brainstem"]
    assert torch.equal(new["networks"]["s_net"]["weight"], old["networks"]["s_net"]["weight"])
    with pytest.raises(UserError, match=r"new\.pt: "):
        add_arrangement.main([str(word) for word in words])


def test_a_lost_case_does_not_hinder_the_arrangement(case_folder, tiny_preset, tmp_path):
    cases = tmp_path / "cases"
    shutil.copytree(case_folder, cases)
    train = CaseFolder(cases, "train", tiny_preset.organ_names)
    (cases / "case_2" / "case.json").unlink()
    centers = train.centers_mm()
    assert centers.shape == (5, 9, 3)
    assert np.isnan(centers[2]).all()
    assert np.isfinite(centers[[0, 1, 3, 4], 0]).all()


def test_batches_have_the_size_of_the_crop(train, tiny_preset):
    loader = StepLoader(dataset=crop_dataset(train, tiny_preset, 0), batch_size=2, steps_per_epoch=1)
    [sample] = next(loader.steps(0, 0))
    batch = augment_crops(sample, tiny_preset, 0)
    assert batch.image.shape == (2, 1, 8, 16, 12)
    assert batch.label.shape == (2, 8, 16, 12)
    assert batch.present.shape == (2, 9)
    assert batch.centers_vox.shape == (2, 9, 3)
    assert torch.equal(batch.centers_vox.isfinite().all(dim=2), batch.present)
    assert not batch.present[:, SUBMANDIBULARS].any()


def test_small_organ_crops_show_small_organs(train, tiny_preset):
    dataset = crop_dataset(train, tiny_preset, 0, of_small_organs=True)
    small = torch.tensor(tiny_preset.small_organs) + 1
    shown = [bool(torch.isin(dataset[i].label, small).any()) for i in range(100)]
    assert sum(shown) >= 85


def test_shape_batches_have_the_size_of_the_roi(train, tiny_preset):
    batch_size = tiny_preset.autoencoder.batch_size
    loader = StepLoader(dataset=shape_dataset(train, tiny_preset, 0), batch_size=batch_size, steps_per_epoch=1)
    masks = augment_shapes(*next(loader.steps(0, 0)), tiny_preset, 0)
    assert masks.shape == (batch_size, 1, 4, 12, 8)
    assert masks.flatten(1).amax(dim=1).min() == 1


def test_workers_and_ranks_do_not_change_the_samples(train, tiny_preset):
    dataset = crop_dataset(train, tiny_preset, 0)

    def images(*, first_step=0, **options):
        loader = StepLoader(dataset=dataset, steps_per_epoch=tiny_preset.sol.steps_per_epoch, **options)
        return torch.cat([sample.image_hu for samples in loader.steps(0, first_step) for sample in samples])

    alone = images(batch_size=2, num_workers=0)
    assert torch.equal(images(batch_size=2, num_workers=1), alone)
    assert torch.equal(images(batch_size=1, batches_per_step=2, num_workers=1), alone)
    assert torch.equal(images(batch_size=2, num_workers=0, first_step=7), alone[14:])
    shared = [
        images(batch_size=1, num_workers=0, ranks=DistributedContext(rank=rank, world_size=2)) for rank in range(2)
    ]
    assert torch.equal(torch.stack(shared, dim=1).flatten(0, 1), alone)


SPLITS = {"train": [f"scan_{i}" for i in range(8)], "val": ["scan_8", "scan_9"], "test": ["scan_10", "scan_11"]}


@pytest.fixture
def indexed_cases(tmp_path):
    """The index of cases with two scans per patient, but not the cases."""
    patients = {f"scan_{i}": f"patient_{i // 2}" for i in range(12)}
    entries = {case_id: {"patient": patient, "organs": [], "has_image": True} for case_id, patient in patients.items()}
    write_json(tmp_path / "cases" / "index.json", {"format_version": 1, "cases": entries})
    write_json(tmp_path / "cases" / "splits.json", SPLITS)
    return tmp_path / "cases"


def options_for(cases, run="run", **changed):
    return TrainingOptions(cases=cases, run_dir=cases.parent / run, **changed)


def splits_of(options):
    return choose_splits(TrainingRun(options))


def record_run(options, splits):
    preset = load_preset("phantom")
    write_configuration(
        options.run_dir,
        stage="sol",
        preset=preset,
        options=vars(options),
        compute=choose_compute("cpu", "fp32"),
        splits=splits,
        is_resumed=False,
    )
    (options.run_dir / "last.pt").touch()


def test_the_command_line_chooses(indexed_cases):
    assert splits_of(options_for(indexed_cases)) == SPLITS
    assert splits_of(options_for(indexed_cases, cross_validation="2/3")) == leave_out_fold(
        indexed_cases, SPLITS, Shard(2, 3)
    )


def test_a_run_that_is_resumed_keeps_its_splits_and_its_fold(indexed_cases):
    fold = leave_out_fold(indexed_cases, SPLITS, Shard(2, 3))
    record_run(options_for(indexed_cases, cross_validation="2/3"), fold)
    write_json(indexed_cases / "splits.json", {**SPLITS, "train": [*SPLITS["train"], "scan_20"]})
    assert splits_of(options_for(indexed_cases, resume="required")) == fold
    assert splits_of(options_for(indexed_cases, resume="auto", cross_validation="2/3")) == fold
    with pytest.raises(ValueError, match="is a run of --cross-validation 2/3, not 1/3"):
        splits_of(options_for(indexed_cases, resume="required", cross_validation="1/3"))


def test_a_repeated_run_has_the_splits_of_the_first(indexed_cases):
    record_run(options_for(indexed_cases, "first"), {**SPLITS, "val": ["scan_9"]})
    again = options_for(indexed_cases, "again", config_from=indexed_cases.parent / "first")
    assert splits_of(again)["val"] == ["scan_9"]
    mixed = {**SPLITS, "val": ["scan_9"], "test": ["scan_8"]}
    record_run(options_for(indexed_cases, "first"), mixed)
    with pytest.raises(UserError, match=r"config\.json: scan_9 is in val and scan_8 in test"):
        splits_of(again)
    record_run(options_for(indexed_cases, "begun"), mixed)  # by an earlier release, which did not check
    assert splits_of(options_for(indexed_cases, "begun", resume="required")) == mixed


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "a/b", "a\\b", "..", ".hidden", "", 7])
def test_case_names_cannot_leave_their_folder(name, indexed_cases):
    write_json(indexed_cases / "splits.json", {**SPLITS, "val": [name]})
    with pytest.raises(ValueError, match=r"splits\.json: .* cannot name a file"):
        splits_of(options_for(indexed_cases))
    record_run(options_for(indexed_cases), {**SPLITS, "test": [name]})
    with pytest.raises(ValueError, match=r"config\.json: .* cannot name a file"):
        splits_of(options_for(indexed_cases, resume="required"))

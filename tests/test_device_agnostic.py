"""Steps of all stages, and the windows of a prediction, on a device without values: no wrong device, and no wait."""

from importlib import import_module

import pytest
import torch

import train_backbone
from benchmarks.tasks import STAGES
from data_preprocess.augment import padded_patch_size
from data_preprocess.dataset import CropSample, ShapeSample
from models.roi import find_peaks
from models.sliding_window import blend_windows, window_boxes
from tests.device_without_values import DEVICE, RefusesWaits, stand_in_for_gpu
from utils.runtime.device import Compute, copy_to
from utils.training.loss_meter import LossMeter
from utils.training.optimization import Optimizers
from utils.training.step_record import StepRecords
from utils.training.train_step import train_step
from utils.training.weight_average import WeightAverage


def sample_of(name, preset):
    """A collated batch of two on the CPU; the small organs' centers lie inside."""
    box = preset.grid.roi_size_vox if name == "autoencoder" else preset.grid.crop_size_vox
    size = padded_patch_size(box, preset.augmentation, preset.grid.spacing_zyx_mm)
    label, numbers = torch.ones(2, *size, dtype=torch.uint8), {"case_id": ["a", "b"], "index": torch.tensor([3, 4])}
    if name == "autoencoder":
        return ShapeSample(mask=label, organ=torch.tensor([0, 1]), **numbers)
    present, centers = torch.ones(2, len(preset.organs), dtype=torch.bool), torch.tensor(size) / 2.0
    centers = centers.expand(2, len(preset.organs), 3)
    return CropSample(label.short(), label, present, present, centers, **numbers)


def make_steps(name, preset):
    """Make two steps as the trainer does, up to the reading."""
    script, stage_class = STAGES[name]
    sample = sample_of(name, preset)
    with stand_in_for_gpu():
        stage = getattr(import_module(script), stage_class)(preset, Compute(device=DEVICE, precision="fp32"), seed=0)
        for part, network in stage.networks.items():
            network.train(part in stage.trained).requires_grad_(part in stage.trained)
        trained = {part: stage.networks[part] for part in stage.trained}
        optimizers, average = Optimizers(trained, stage.schedule, stage.compute), WeightAverage(trained, 0.9)
        meter, records = LossMeter(), StepRecords(DEVICE)
        with RefusesWaits():
            for step in range(2):
                result = train_step(stage, [sample, sample], optimizers, rate=0.1)
                average.update(result.is_made)
                meter.add(result.losses, result.is_discarded)
                records.add(step, sample.case_id, result)
        for network in trained.values():
            assert any(weight.grad is not None for weight in network.parameters())
        with pytest.raises((RuntimeError, NotImplementedError), match="[Mm]eta"):
            records.read()


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_step_stays_on_the_device_and_never_waits(name, tiny_preset):
    make_steps(name, tiny_preset)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        lambda loss: (loss + torch.zeros(1)).sum(),
        lambda loss: loss * float(loss),
        lambda loss: loss if loss > 0 else -loss,
        lambda loss: loss + loss.cpu().to(loss.device),
        lambda loss: loss * torch.zeros(3).to(loss.device).sum(),
        lambda loss: loss[loss > 0].sum(),
        lambda loss: loss * loss.expand(2).nonzero().sum(),
    ],
    ids=["other device", "item", "bool", "cpu", "blocking copy", "mask", "nonzero"],
)
def test_a_planted_fault_is_found(fault, tiny_preset, monkeypatch):
    fault(torch.tensor(0.5))  # it fails for the device, not by itself
    training_step = train_backbone.BackboneStage.training_step

    def faulty(stage, batch):
        for objective in training_step(stage, batch):
            try:
                loss = fault(objective.loss)
            except (RuntimeError, NotImplementedError, AssertionError) as error:
                raise FoundError from error
            yield objective._replace(loss=loss)

    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", faulty)
    with pytest.raises(FoundError):
        make_steps("backbone", tiny_preset)


class FoundError(Exception):
    """The planted fault was refused, where it is."""


def test_windows_and_peaks_of_a_prediction_stay_on_the_device():
    volume = copy_to(torch.zeros(1, 10, 20, 14), DEVICE)
    boxes = window_boxes(volume.shape[1:], (8, 16, 12), 0.5)
    blended, covered = blend_windows(volume, (8, 16, 12), boxes, lambda window: window, num_channels=1)
    assert {tensor.device for tensor in (blended, covered, find_peaks(blended[None]).position)} == {DEVICE}

"""Steps of all stages, and the windows of a prediction, on a GPU without values: no wrong device, and no wait."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, unset_fake_temporarily

import adv_train
import train_backbone
from benchmarks.tasks import STAGES
from data_preprocess.augment import draw_augmentation, padded_patch_size
from data_preprocess.dataset import CropSample, ShapeSample
from models.roi import find_peaks
from models.sliding_window import blend_windows, window_boxes
from tests.fake_gpu import GPU, fake_gpu
from utils.config.preset import load_preset
from utils.runtime.device import Compute, copy_to
from utils.training.loss_meter import LossMeter
from utils.training.optimization import Optimizers
from utils.training.step_record import StepRecords
from utils.training.train_step import train_step
from utils.training.weight_average import WeightAverage

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")
TINY = (
    "grid.spacing_zyx_mm=[3.0,2.0,1.5]",
    "grid.crop_size_vox=[8,16,12]",
    "grid.roi_size_vox=[4,12,8]",
    "networks.width=0.25",
)


def stage_class(name):
    script, cls = STAGES[name]
    return getattr(__import__(script), cls)


def crops(preset):
    """A collated batch of two, on the CPU; the small organs' centers lie inside."""
    size = padded_patch_size(preset.grid.crop_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)
    organs = len(preset.organs)
    return CropSample(
        image_hu=torch.zeros(2, *size, dtype=torch.int16),
        label=torch.ones(2, *size, dtype=torch.uint8),
        present=torch.ones(2, organs, dtype=torch.bool),
        labeled=torch.ones(2, organs, dtype=torch.bool),
        centers_vox=torch.full((2, organs, 3), 6.0),
        case_id=["a", "b"],
        index=torch.tensor([3, 4]),
    )


def masks(preset):
    size = padded_patch_size(preset.grid.roi_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)
    return ShapeSample(torch.ones(2, *size, dtype=torch.uint8), torch.tensor([0, 1]), ["a", "b"], torch.tensor([3, 4]))


def make_step(name, monkeypatch, overrides=()):
    """Make two steps as the trainer does, up to the reading."""
    preset = load_preset("phantom", [*TINY, *overrides])
    sample = masks(preset) if name == "autoencoder" else crops(preset)
    draw = draw_augmentation(preset.augmentation, [(0, 3), (0, 4)], len(preset.organs))
    monkeypatch.setattr("data_preprocess.augment._draw_for", lambda *_: draw)  # its seeds are values on the host
    choose = adv_train.AdversarialStage._choose_rois

    def choose_on_host(stage, batch, _heatmaps):
        host = batch.centers_vox, batch.present, batch.roi_jitter
        assert {tensor.device.type for tensor in host} == {"cpu"}
        with unset_fake_temporarily():
            values = {"centers_vox": torch.full(host[0].shape, 5.0), "present": torch.ones(host[1].shape).bool()}
            label = torch.zeros(batch.label.shape)
            batch = batch._replace(label=label, roi_jitter=torch.zeros(host[2].shape), **values)
            return choose(stage, batch, None)

    monkeypatch.setattr(adv_train.AdversarialStage, "_choose_rois", choose_on_host)
    with fake_gpu():
        stage = stage_class(name)(preset, Compute(device=GPU, precision="fp32"), seed=0)
        for part, network in stage.networks.items():
            network.train(part in stage.trained).requires_grad_(part in stage.trained)
        trained = {part: stage.networks[part] for part in stage.trained}
        optimizers, average = Optimizers(trained, stage.schedule, stage.compute), WeightAverage(trained, 0.9)
        meter, records = LossMeter(), StepRecords(GPU)
        for step in range(2):
            result = train_step(stage, [sample, sample], optimizers, rate=0.1)
            average.update(result.is_made)
            meter.add(result.losses, result.is_discarded)
            records.add(step, sample.case_id, result)
        weights = [weight for network in trained.values() for weight in network.parameters()]
        assert {weight.device for weight in weights} == {GPU}
        assert any(weight.grad is not None for weight in weights)
        with pytest.raises(AssertionError, match="a copy from the GPU"):
            records.read()


@pytest.mark.parametrize("name", STAGES)
def test_a_step_stays_on_the_gpu_and_never_waits(name, monkeypatch):
    make_step(name, monkeypatch)


def test_nor_does_a_step_of_sgd(monkeypatch):
    make_step("backbone", monkeypatch, ["backbone.optimizer=sgd"])


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (lambda loss: loss + torch.zeros(1), Exception),
        (lambda loss: loss * float(loss), DataDependentOutputException),
        (lambda loss: loss if loss > 0 else -loss, DataDependentOutputException),
        (lambda loss: loss + loss.cpu().to(loss.device), AssertionError),
        (lambda loss: loss * torch.zeros(3).to(loss.device).sum(), AssertionError),
        (lambda loss: loss[loss > 0].sum(), Exception),
    ],
    ids=["other device", "item", "bool", "cpu", "blocking copy", "mask"],
)
def test_a_planted_fault_is_found(fault, error, monkeypatch):
    training_step = train_backbone.BackboneStage.training_step

    def faulty(stage, batch):
        for objective in training_step(stage, batch):
            yield objective._replace(loss=fault(objective.loss))

    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", faulty)
    with pytest.raises(error):
        make_step("backbone", monkeypatch)


def test_windows_and_peaks_of_a_prediction_stay_on_the_gpu():
    with fake_gpu():
        volume = copy_to(torch.zeros(1, 10, 20, 14), GPU)
        boxes = window_boxes(volume.shape[1:], (8, 16, 12), 0.5)
        blended, covered = blend_windows(volume, (8, 16, 12), boxes, lambda window: window, num_channels=1)
        assert (blended.device, covered.device, find_peaks(blended[None]).position.device) == (GPU, GPU, GPU)

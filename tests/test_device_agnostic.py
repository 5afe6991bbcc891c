"""Steps and validations of all stages, and predictions, on a stand-in for a GPU: no wrong device, and few waits."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

import models.convolution
import train_backbone
from benchmarks.tasks import STAGES
from data_preprocess.augment import padded_patch_size
from data_preprocess.dataset import CaseFolder, CropSample, ShapeSample
from data_preprocess.inference_transform import resample_to_label_map, rotate_to_label_map
from data_preprocess.splits import read_splits
from models.confidence import organ_confidences
from models.ensemble import EnsemblePredictor
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor
from models.pretrained import Model
from models.sliding_window import OVERLAP, window_boxes
from models.tta import TTAPredictor
from tests.stand_in_device import CPU, DEVICE, stand_in_device
from utils.imaging.geometry import Geometry
from utils.runtime.device import Compute, copy_to
from utils.training.loss_meter import LossMeter
from utils.training.optimization import Optimizers
from utils.training.step_record import StepRecords
from utils.training.train_step import train_step
from utils.training.weight_average import WeightAverage

CT_SIZE = (13, 26, 28)


@pytest.fixture(autouse=True)
def _same_convolutions(monkeypatch):
    """The CPU also computes convolutions by torch's operation, as other devices do: results are equal bit by bit."""
    monkeypatch.setattr(models.convolution, "_cpu_dtype", lambda _features: None)


def build_stage(name, preset, device):
    script, stage_class = STAGES[name]
    torch.manual_seed(0)
    return getattr(import_module(script), stage_class)(preset, Compute(device=device, precision="fp32"), seed=0)


def sample_of(name, preset):
    """A collated batch of two on the CPU; the small organs' centers lie inside."""
    box = preset.grid.roi_size_vox if name == "autoencoder" else preset.grid.crop_size_vox
    size = padded_patch_size(box, preset.augmentation, preset.grid.spacing_zyx_mm)
    label, numbers = torch.ones(2, *size, dtype=torch.uint8), {"case_id": ["a", "b"], "index": torch.tensor([3, 4])}
    label[:, :, : size[1] // 2] = 2
    if name == "autoencoder":
        return ShapeSample(mask=(label > 1).byte(), organ=torch.tensor([0, 1]), **numbers)
    present, centers = torch.ones(2, len(preset.organs), dtype=torch.bool), torch.tensor(size) / 2.0
    centers = centers.expand(2, len(preset.organs), 3)
    return CropSample(100 * label.short(), label, present, present, centers, **numbers)


def make_steps(name, preset, device):
    """Make two steps as the trainer does, up to the reading: the trained weights, and the records."""
    with stand_in_device() as mode:
        stage, sample = build_stage(name, preset, device), sample_of(name, preset)
        for part, network in stage.networks.items():
            network.train(part in stage.trained).requires_grad_(part in stage.trained)
        trained = {part: stage.networks[part] for part in stage.trained}
        optimizers, average = Optimizers(trained, stage.schedule, stage.compute), WeightAverage(trained, 0.9)
        meter, records = LossMeter(), StepRecords(device)
        mode.waits.clear()  # of copying the networks
        for step in range(2):
            result = train_step(stage, [sample, sample], optimizers, rate=0.01)
            average.update(result.is_made)
            meter.add(result.losses, result.is_discarded)
            records.add(step, sample.case_id, result)
        assert mode.waits == []
        weights = {(part, key): value.cpu() for part in trained for key, value in trained[part].state_dict().items()}
        return weights, records.read()


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_steps_stay_on_the_device_never_wait_and_equal_those_of_the_cpu(name, tiny_preset):
    preset = replace(tiny_preset, roi=replace(tiny_preset.roi, center="predicted"))
    weights, records = make_steps(name, preset, DEVICE)
    expected_weights, expected_records = make_steps(name, preset, CPU)
    assert records == expected_records
    assert weights.keys() == expected_weights.keys()
    assert all(torch.equal(weights[key], expected_weights[key]) for key in weights)


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
@pytest.mark.usefixtures("_deterministic")
def test_deterministic_steps_on_the_device_have_nearly_the_losses_of_the_cpu(tiny_preset):
    """On other devices than the CPU, torch composes interpolation of operations that have a fixed order.

    Weights differ more: Adam makes steps of full length also for biases before a norm, whose gradients are rounding.
    """
    losses = [[record.loss for record in make_steps("backbone", tiny_preset, device)[1]] for device in (DEVICE, CPU)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][0] != losses[0][1]


FAULTS = {
    "other device": lambda loss: (loss + torch.zeros(1)).sum(),
    "item": lambda loss: loss * float(loss.detach()),
    "bool": lambda loss: loss if loss > 0 else -loss,
    "cpu": lambda loss: loss + copy_to(loss.cpu(), loss.device),
    "blocking copy": lambda loss: loss * torch.zeros(3).to(loss.device).sum(),
    "new tensor": lambda loss: loss * loss.new_tensor([1.0, 2.0]).sum(),
    "tolist": lambda loss: loss * loss.detach().expand(2).tolist()[0],
    "mask": lambda loss: loss[loss > 0].sum(),
    "nonzero": lambda loss: loss * loss.expand(2).nonzero().sum(),
    "incomplete copy": lambda loss: loss + copy_to(loss.to("cpu", non_blocking=True), loss.device),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_stand_in_finds(fault):
    FAULTS[fault](torch.tensor(0.5))  # it fails for the device, not by itself
    with stand_in_device() as mode:
        loss = copy_to(torch.tensor(0.5), DEVICE)
        assert mode.waits == []
        if fault in ("other device", "incomplete copy"):
            with pytest.raises(AssertionError, match="on the CPU, other tensors are not|before it is complete"):
                FAULTS[fault](loss)
        else:
            FAULTS[fault](loss)
            assert len(mode.waits) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["other device", "item"])
def test_a_fault_in_a_step_is_found(fault, tiny_preset, monkeypatch):
    training_step = train_backbone.BackboneStage.training_step

    def faulty(stage, batch):
        for objective in training_step(stage, batch):
            yield objective._replace(loss=FAULTS[fault](objective.loss))

    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", faulty)
    with pytest.raises(AssertionError, match="on the CPU|_local_scalar_dense"):
        make_steps("backbone", tiny_preset, DEVICE)


def validate(name, preset, cases, device):
    with stand_in_device():
        stage = build_stage(name, preset, device)
        for network in stage.networks.values():
            network.eval()
        with torch.no_grad():
            return stage.build_validation(cases)(1)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_a_validation_on_the_device_equals_that_of_the_cpu(name, tiny_preset, case_folder):
    preset = finds_everywhere(tiny_preset)
    cases = CaseFolder(case_folder, "val", preset.organ_names, splits=read_splits(case_folder))
    found, expected = (validate(name, preset, cases, device) for device in (DEVICE, CPU))
    assert found.metrics == expected.metrics
    assert found.score == expected.score
    assert (found.picture == expected.picture).all()


def finds_everywhere(preset):
    """Also untrained networks localize every small organ."""
    return replace(preset, heatmap=replace(preset.heatmap, peak_threshold=0.0))


@pytest.fixture
def ct(tiny_preset):
    """Image of 12 windows, of which 4 show air alone, and the field of view."""
    image = torch.randint(-100, 300, CT_SIZE, dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    image[:, :, 14:] = -1000
    inside_fov = torch.ones(CT_SIZE, dtype=torch.bool)
    inside_fov[:, :2] = False
    assert len(window_boxes(CT_SIZE, tiny_preset.grid.crop_size_vox, OVERLAP)) == 12
    return image, inside_fov


def build_predictor(preset, device):
    stage = build_stage("adversarial", preset, device)
    return Predictor(stage.focusnet.eval(), autocast=stage.compute.autocast()), stage.networks["autoencoder"].eval()


@pytest.mark.slow
def test_a_prediction_waits_four_times_and_a_label_map_once(tiny_preset, ct):
    geometry = Geometry(size_zyx=CT_SIZE, spacing_zyx_mm=tiny_preset.grid.spacing_zyx_mm)
    oblique = replace(geometry, direction=(0.8, 0.6, 0.0, -0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    results = {}
    for device in (DEVICE, CPU):
        with stand_in_device() as mode:
            predictor, _ = build_predictor(finds_everywhere(tiny_preset), device)
            mode.waits.clear()  # of copying the networks
            prediction = predictor.predict(*ct)
            assert mode.waits == (["copy"] * 4 if device == DEVICE else [])
            label = resample_to_label_map(prediction.probabilities, (9, 40, 31), (1.3, 0.7, 0.6), (0.5, 0.0, -0.5))
            assert mode.waits == (["copy"] * 5 if device == DEVICE else [])
            rotated = rotate_to_label_map(prediction.probabilities, geometry, oblique)
            volumes = [volume.cpu() for volume in (*prediction[:3], prediction.label, label, rotated)]
        assert all(organ.segmented for organ in prediction.small_organs)
        results[device] = volumes, prediction.small_organs
    (volumes, small_organs), (expected_volumes, expected_small_organs) = results.values()
    assert small_organs == expected_small_organs
    assert all(torch.equal(one, other) for one, other in zip(volumes, expected_volumes, strict=True))
    assert all(len(volume.unique()) > 2 for volume in volumes[3:])


@pytest.mark.slow
def test_averages_and_the_confidence_on_the_device_equal_those_of_the_cpu(tiny_preset, ct):
    results = []
    preset = finds_everywhere(tiny_preset)
    for device in (DEVICE, CPU):
        with stand_in_device():
            predictor, autoencoder = build_predictor(preset, device)
            member = OOMFallbackPredictor(predictor, Compute(device=CPU, precision="fp32"))
            model = Model(TTAPredictor(EnsemblePredictor([member, member])), preset, autoencoder.to(CPU))
            prediction = model.predictor.predict(*ct, ct[0].flip(0))
            results.append((prediction.probabilities.cpu(), organ_confidences(prediction, model, lambda point: point)))
    (probabilities, confidences), (expected_probabilities, expected_confidences) = results
    assert torch.equal(probabilities, expected_probabilities)
    assert confidences == expected_confidences

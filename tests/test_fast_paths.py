"""What makes inference fast changes nothing: against the plain way, on the published model and a CT."""

import numpy as np
import pytest
import torch

import models.predictor
from benchmarks import baseline as plain
from data_preprocess.inference_transform import InferenceTransform, resample_to_label_map
from data_preprocess.sources import SOURCES
from data_preprocess.sources.phantom.source import generate_phantom
from losses.segmentation import SegmentationLoss
from models.pretrained import load_model, published_checkpoint
from utils.config.preset import load_preset
from utils.evaluation.overlap import dice_per_label
from utils.runtime.device import choose_compute, computes_int8


def predict(placed, precision):
    model = load_model(published_checkpoint("openkbp"), choose_compute("cpu", precision))
    return model.predictor.predict(torch.from_numpy(np.ascontiguousarray(placed.image)))


@pytest.fixture(scope="module")
def placed(real_data):
    preset = load_preset("openkbp")
    source = SOURCES["openkbp"]
    reference = next(
        case for case in source.list_cases(real_data / "openkbp" / "validation-pats") if case.case_id == "pt_232"
    )
    return InferenceTransform.apply(source.read_case(reference, preset).volume, preset.grid)


@pytest.fixture(scope="module")
def exact(placed):
    return predict(placed, "fp32")


@pytest.mark.slow
def test_labels_by_organ_box_are_those_of_the_whole_volume(placed, exact):
    size, ratio = placed.region_hu.shape, placed.transform.spacing_ratio
    fast = resample_to_label_map(exact.probabilities, size, ratio)
    assert torch.equal(fast, plain.resample_to_label_map(exact.probabilities, size, ratio))
    assert len(fast.unique()) > 6  # organs were there to be missed


@pytest.mark.slow
def test_windows_without_tissue_change_next_to_nothing(placed, exact, monkeypatch):
    monkeypatch.setattr(models.predictor, "MIN_TISSUE_HU", -np.inf)
    everywhere = predict(placed, "fp32")
    assert torch.equal(everywhere.label, exact.label)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_segments_alike(placed, exact, precision):
    if precision == "int8" and not computes_int8():
        pytest.skip("this CPU has no VNNI instructions")
    rounded = predict(placed, precision)
    assert (rounded.label == exact.label).float().mean() >= 0.999
    num_organs = len(rounded.probabilities) - 1
    agreement = dice_per_label(rounded.label.numpy(), exact.label.numpy(), num_organs)
    present = np.unique(exact.label)[1:] - 1
    assert agreement[present].min() > 0.97


@pytest.mark.slow
def test_published_weights_find_the_organs_of_a_ct_of_another_kind():
    """A phantom is nothing like a patient; what bone shows should still be there."""
    preset = load_preset("openkbp")
    label = predict(InferenceTransform.apply(generate_phantom(3).volume, preset.grid), None).label
    assert (label == preset.organ_names.index("mandible") + 1).any()


def test_the_loss_without_one_hot_tensors_is_the_one_with_them():
    preset = load_preset("openkbp")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 8, 6, 7, 8, generator=generator)
    label = torch.randint(0, 8, (2, 6, 7, 8), generator=generator)
    present = torch.ones(2, 7, dtype=torch.bool)
    ours, theirs = (kind.from_preset(preset)(logits, label, present) for kind in (SegmentationLoss, plain.OneHotLoss))
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-4, atol=0)

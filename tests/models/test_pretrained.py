"""models/pretrained.py: the published model, and that optimizations of inference do not change its label maps."""

import numpy as np
import pytest
import torch

import models.predictor
from benchmarks import baseline
from data_preprocess.inference_transform import InferenceTransform, resample_to_label_map
from data_preprocess.sources import SOURCES
from data_preprocess.sources.phantom.source import generate_phantom
from models.pretrained import load_pretrained
from utils.config.preset import load_preset
from utils.evaluation.overlap import dice_per_label
from utils.runtime.device import computes_bf16, computes_int8

pytestmark = pytest.mark.slow


def predict(ct, precision):
    model = load_pretrained("openkbp", device="cpu", precision=precision)
    return model.predictor.predict(torch.from_numpy(np.ascontiguousarray(ct.image)))


@pytest.fixture(scope="module")
def ct(real_data):
    preset, source = load_preset("openkbp"), SOURCES["openkbp"]
    handles = source.list_cases(real_data / "openkbp" / "validation-pats")
    handle = next(handle for handle in handles if handle.case_id == "pt_232")
    return InferenceTransform.apply(source.read_case(handle, preset).volume, preset.grid)


@pytest.fixture(scope="module")
def in_float32(ct):
    return predict(ct, "fp32")


def test_resampling_of_organ_boxes_equals_that_of_whole_volumes(ct, in_float32):
    size, ratio = ct.region_hu.shape, ct.transform.grid.spacing_ratio
    label = resample_to_label_map(in_float32.probabilities, size, ratio)
    assert torch.equal(label, baseline.resample_to_label_map(in_float32.probabilities, size, ratio))
    assert len(label.unique()) > 6


def test_skipping_windows_without_tissue_does_not_change_the_label_map(ct, in_float32, monkeypatch):
    monkeypatch.setattr(models.predictor, "MIN_TISSUE_HU", -np.inf)
    assert torch.equal(predict(ct, "fp32").label, in_float32.label)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precision_gives_nearly_the_same_label_map(ct, in_float32, precision):
    if not (computes_int8() if precision == "int8" else computes_bf16()):
        pytest.skip(f"this CPU has no instructions for {precision}")
    prediction = predict(ct, precision)
    assert (prediction.label == in_float32.label).float().mean() >= 0.999
    num_organs = len(prediction.probabilities) - 1
    agreement = dice_per_label(prediction.label.numpy(), in_float32.label.numpy(), num_organs)
    present = np.unique(in_float32.label)[1:] - 1
    assert agreement[present].min() > 0.97


def test_published_model_segments_the_bone_of_a_phantom():
    """A phantom hardly resembles a patient, but its mandible does (measured: Dice 0.85)."""
    preset, raw = load_preset("openkbp"), generate_phantom(3)
    ct = InferenceTransform.apply(raw.volume, preset.grid)
    label = ct.transform.invert(predict(ct, None).probabilities).array
    mandible = label == preset.organ_names.index("mandible") + 1
    reference = raw.masks["mandible"].dense()
    assert 2 * (mandible & reference).sum() / (mandible.sum() + reference.sum()) > 0.75

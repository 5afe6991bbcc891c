"""models/predictor.py, with networks whose output is encoded in the image: results are known voxel by voxel.

Normalized intensity k means class k; 2.3, 2.4 and 2.6 mark the peaks of the three small organs' heatmaps.
"""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

import models.predictor
from models.focusnet import FocusNet, build_network
from models.postprocessing import remove_small_components
from models.predictor import Predictor, SmallOrganResult, merge_small_organ
from models.s_net import SNetOutput

SIZE = (11, 20, 31)
MARKS = (2.3, 2.4, 2.6)
CHIASM = 2
"""Label of the first small organ."""


@pytest.fixture(autouse=True)
def _every_voxel_counts(monkeypatch):
    """Labels are random per voxel here: almost every voxel is a small component."""
    monkeypatch.setattr(models.predictor, "remove_small_components", lambda probabilities: None)


class EncodedSNet(nn.Module):
    """Classifies each voxel by its own intensity."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Parameter(torch.arange(10.0))

    def forward(self, image):
        logits = -50 * (image - self.classes[None, :, None, None, None]).square()
        return SNetOutput(logits=logits, features=image, stem=image)


class EncodedSOLNet(nn.Module):
    """Heatmaps with a peak at the organ's mark."""

    def __init__(self, peak=0.9, air=0.0):
        super().__init__()
        self.peak, self.air = peak, air

    def forward(self, features):
        heats = [self.peak * (features - mark).abs().lt(0.01) + self.air * features.lt(-0.85) for mark in MARKS]
        return torch.cat(heats, dim=1)


class FullSOSNet(nn.Module):
    """Fills every ROI with its organ."""

    def forward(self, rois, organ_index):
        return torch.full_like(rois[:, :1], 20.0)


class EmptySOSNet(nn.Module):
    """Segments nothing."""

    def forward(self, rois, organ_index):
        return torch.full_like(rois[:, :1], -20.0)


def hu(intensity):
    return round(1000 * intensity - 100)


def encoded_predictor(preset, *, with_sos=True, **sol_net):
    sos_net = FullSOSNet() if with_sos else None
    network = FocusNet(preset, s_net=EncodedSNet(), sol_net=EncodedSOLNet(**sol_net), sos_net=sos_net)
    return Predictor(network.eval(), autocast=nullcontext())


def encoded_image(labels, marks=()):
    image = (1000 * labels - 100).to(torch.int16)
    for k, voxel in marks:
        image[voxel] = hu(MARKS[k])
    return image


@pytest.fixture
def labels():
    """Classes 0 to 3 at random, but for the chiasm's, which SOS-Net is to find."""
    drawn = torch.randint(0, 3, SIZE, generator=torch.Generator().manual_seed(0))
    return torch.where(drawn == CHIASM, 3, drawn)


def test_without_a_peak_every_voxel_is_s_nets(labels, tiny_preset):
    prediction = encoded_predictor(tiny_preset).predict(encoded_image(labels))
    assert torch.equal(prediction.label.long(), labels)
    assert torch.equal(prediction.backbone_label, prediction.label)
    assert prediction.probabilities.shape == (10, *SIZE)
    assert prediction.heatmaps.shape == (3, *SIZE)
    assert [organ.segmented for organ in prediction.small_organs] == [False] * 3
    assert [organ.organ for organ in prediction.small_organs] == [1, 3, 4]


@pytest.mark.parametrize(
    ("peak", "corner"),
    [
        ((5, 10, 15), (3, 4, 11)),  # the ROI is 4 x 12 x 8
        ((0, 0, 0), (0, 0, 0)),
        ((10, 19, 30), (7, 8, 23)),
        ((1, 18, 3), (0, 8, 0)),
    ],
)
def test_the_roi_lies_around_the_peak_and_replaces_s_nets_segmentation(peak, corner, labels, tiny_preset):
    prediction = encoded_predictor(tiny_preset).predict(encoded_image(labels, [(0, peak)]))
    chiasm = prediction.small_organs[0]
    assert (chiasm.organ, chiasm.peak_vox, chiasm.segmented) == (1, peak, True)
    assert chiasm.peak_value == pytest.approx(0.9)

    box = tuple(slice(a, a + n) for a, n in zip(corner, (4, 12, 8), strict=True))
    expected = labels.clone()
    expected[box] = CHIASM
    assert torch.equal(prediction.label.long(), expected)
    assert prediction.backbone_label[peak] == CHIASM
    assert (prediction.backbone_label == CHIASM).sum() == 1


def test_s_nets_voxels_outside_of_the_roi_go_to_its_next_best_class(labels, tiny_preset):
    image = encoded_image(labels, [(0, (5, 10, 25))])
    image[0, 0, 0] = hu(2.45)  # S-Net: chiasm, then class 3
    prediction = encoded_predictor(tiny_preset).predict(image)
    assert prediction.backbone_label[0, 0, 0] == CHIASM
    assert prediction.label[0, 0, 0] == 3
    assert prediction.probabilities[CHIASM, 0, 0, 0] == 0


def test_probabilities_sum_to_one_after_merging_overlapping_rois(labels, tiny_preset):
    image = encoded_image(labels, [(0, (5, 10, 15)), (1, (5, 11, 17)), (2, (9, 3, 2))])
    prediction = encoded_predictor(tiny_preset).predict(image)
    assert all(organ.segmented for organ in prediction.small_organs)
    torch.testing.assert_close(prediction.probabilities.sum(dim=0), torch.ones(SIZE))
    assert prediction.probabilities.min() >= 0


def test_a_peak_below_the_threshold_keeps_s_nets_voxels(labels, tiny_preset):
    image = encoded_image(labels, [(0, (5, 10, 15))])
    threshold = tiny_preset.heatmap.peak_threshold
    below, above = (encoded_predictor(tiny_preset, peak=threshold + off).predict(image) for off in (-1e-3, 1e-3))
    assert torch.equal(below.label, below.backbone_label)
    assert below.small_organs[0] == SmallOrganResult(1, (5, 10, 15), pytest.approx(threshold - 1e-3), False, False)
    assert above.small_organs[0].segmented
    assert (above.label == CHIASM).sum() == 4 * 12 * 8


def test_the_peak_is_the_highest_of_the_whole_volume(labels, tiny_preset):
    """Three maxima in different windows; the highest is neither the first nor the last."""
    heats = {(1, 1, 1): 0.4, (5, 17, 29): 0.8, (10, 2, 16): 0.6}

    class Localized(nn.Module):
        def forward(self, features):
            warm = torch.zeros_like(features)
            for (z, y, x), heat in heats.items():
                warm += heat * (features - (z * 1000 + y * 40 + x) / 1e4 - 0.2).abs().lt(2e-5)
            return warm.repeat(1, 3, 1, 1, 1)

    places = torch.cartesian_prod(*(torch.arange(n) for n in SIZE)) @ torch.tensor([1000, 40, 1])
    image = (places.reshape(SIZE) / 1e4 + 0.2) * 1000 - 100  # every voxel's intensity names its place
    network = FocusNet(tiny_preset, s_net=EncodedSNet(), sol_net=Localized(), sos_net=FullSOSNet()).eval()
    prediction = Predictor(network, autocast=nullcontext()).predict(image)
    assert [organ.peak_vox for organ in prediction.small_organs] == [(5, 17, 29)] * 3
    assert prediction.small_organs[0].peak_value == pytest.approx(0.8)


def test_a_volume_smaller_than_the_window_is_padded_and_cut_back(tiny_preset):
    labels = torch.randint(0, 2, (3, 20, 7), generator=torch.Generator().manual_seed(0))
    prediction = encoded_predictor(tiny_preset).predict(encoded_image(labels, [(0, (2, 19, 6))]))
    expected = labels.clone()
    expected[0:3, 8:20, 2:7] = CHIASM  # the ROI reaches into the padding
    assert torch.equal(prediction.label.long(), expected)
    assert prediction.small_organs[0].peak_vox == (2, 19, 6)
    assert prediction.heatmaps.shape == (3, 3, 20, 7)


def test_no_peak_lies_in_the_padding(tiny_preset):
    image = encoded_image(torch.zeros(3, 20, 5, dtype=torch.long), [(0, (2, 7, 1))])
    prediction = encoded_predictor(tiny_preset, peak=0.5, air=0.9).predict(image)
    assert prediction.small_organs[0].peak_vox == (2, 7, 1)
    assert prediction.small_organs[0].peak_value == pytest.approx(0.5)


def test_without_sos_net_there_are_heatmaps_and_nothing_is_merged(labels, tiny_preset):
    prediction = encoded_predictor(tiny_preset, with_sos=False).predict(encoded_image(labels, [(0, (5, 10, 15))]))
    assert prediction.small_organs == []
    assert prediction.heatmaps[0, 5, 10, 15] == pytest.approx(0.9)
    assert torch.equal(prediction.label, prediction.backbone_label)


def test_s_net_alone_predicts_without_heatmaps(labels, tiny_preset):
    network = FocusNet(tiny_preset, s_net=EncodedSNet()).eval()
    prediction = Predictor(network, autocast=nullcontext()).predict(encoded_image(labels))
    assert prediction.heatmaps.shape == (0, *SIZE)
    assert torch.equal(prediction.label.long(), labels)


@pytest.fixture(scope="module")
def real_network(tiny_preset):
    torch.manual_seed(0)
    networks = {name: build_network(name, tiny_preset) for name in ("s_net", "sol_net", "sos_net")}
    return FocusNet(tiny_preset, **networks).eval()


def test_predictions_do_not_depend_on_earlier_ones(real_network, tiny_preset):
    predictor = Predictor(real_network, autocast=nullcontext())
    images = torch.randint(-200, 300, (2, 9, 18, 14), generator=torch.Generator().manual_seed(0))
    first = predictor.predict(images[0])
    predictor.predict(images[1])
    again = predictor.predict(images[0])
    assert torch.equal(first.probabilities, again.probabilities)
    assert first.small_organs == again.small_organs


def test_a_window_is_localized_as_in_any_batch(real_network):
    image = torch.randn(3, 1, 8, 16, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        batched, alone = real_network.localize(image), real_network.localize(image[1:2])
    for both, one in zip(batched, alone, strict=True):
        torch.testing.assert_close(both[1:2], one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", ["all", "one part"])
def test_training_mode_is_refused(training, tiny_preset):
    predictor = encoded_predictor(tiny_preset)
    (predictor.network if training == "all" else predictor.network.sol_net).train()
    with pytest.raises(RuntimeError, match=r"call eval\(\) on the network"):
        predictor.predict(torch.zeros(SIZE))


def test_merging_by_hand():
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0, 0, 1], [0.5, 0.3, 0.2], [0, 0, 1]]).T.reshape(3, 1, 1, 4)
    merge_small_organ(probabilities, 2, torch.tensor([0.6, 0.1]).reshape(1, 1, 2), (slice(1), slice(1), slice(0, 2)))
    expected = [[0.25, 0.15, 0.6], [0.9, 0, 0.1], [0.625, 0.375, 0], [1, 0, 0]]
    torch.testing.assert_close(probabilities.reshape(3, 4).T, torch.tensor(expected))


def test_merging_keeps_the_sum_where_s_net_was_almost_sure():
    rest = torch.tensor([1e-4, 3e-6, 1e-6, 1e-7, 1e-9])
    probabilities = torch.stack([rest / 2, rest / 2, 1 - rest]).reshape(3, 1, 1, 5)
    merge_small_organ(probabilities, 2, torch.full((1, 1, 5), 0.25), (slice(1), slice(1), slice(5)))
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(1, 1, 5))
    assert (probabilities[2] == 0.25).all()


def test_a_volume_without_tissue_is_background_and_no_network_runs(tiny_preset):
    predictor = encoded_predictor(tiny_preset)
    predictor.network.s_net.forward = None  # not callable
    prediction = predictor.predict(torch.full(SIZE, -900, dtype=torch.int16))
    assert not prediction.label.any()
    torch.testing.assert_close(prediction.probabilities.sum(dim=0), torch.ones(SIZE))
    assert not any(organ.localized for organ in prediction.small_organs)


def test_windows_without_tissue_change_nothing_elsewhere(labels, tiny_preset):
    image = torch.full((11, 20, 90), -900, dtype=torch.int16)
    image[..., :31] = encoded_image(labels, [(0, (5, 10, 15))])
    alone, beside_air = (encoded_predictor(tiny_preset).predict(x) for x in (image[..., :31], image))
    assert torch.equal(beside_air.label[..., :31], alone.label)
    assert not beside_air.label[..., 60:].any()


def test_an_empty_mask_of_sos_net_keeps_s_nets_voxels(labels, tiny_preset):
    predictor = encoded_predictor(tiny_preset)
    predictor.network.sos_net = EmptySOSNet().eval()
    prediction = predictor.predict(encoded_image(labels, [(0, (5, 10, 15))]))
    assert torch.equal(prediction.label, prediction.backbone_label)
    assert (prediction.small_organs[0].localized, prediction.small_organs[0].segmented) == (True, False)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_sos_blend_weight_blends_sos_net_with_s_net(weight, labels, tiny_preset):
    preset = replace(tiny_preset, roi=replace(tiny_preset.roi, sos_blend_weight=weight))
    peak = (5, 10, 15)
    prediction = encoded_predictor(preset).predict(encoded_image(labels, [(0, peak)]))
    inside = prediction.probabilities[CHIASM, 4, 8, 14]  # in the ROI, where S-Net sees another class
    assert inside.item() == pytest.approx(weight, abs=1e-4)
    assert prediction.probabilities[CHIASM][peak] > 0.99  # both see it there


def test_small_components_of_s_net_are_removed(tiny_preset, monkeypatch):
    monkeypatch.setattr(models.predictor, "remove_small_components", remove_small_components)
    label = torch.zeros(SIZE, dtype=torch.long)
    label[2:6, 3:9, 3:9] = 1
    alone = encoded_predictor(tiny_preset).predict(encoded_image(label))
    with_small = label.clone()
    with_small[9:11, 17:19, 25:28] = 1
    prediction = encoded_predictor(tiny_preset).predict(encoded_image(with_small))
    assert torch.equal(prediction.label, alone.label)
    assert torch.equal(prediction.backbone_label, alone.backbone_label)

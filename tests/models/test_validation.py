"""models/validation.py: scores that can be worked out."""

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from models.autoencoder import ShapeEncoding
from models.focusnet import FocusNet
from models.predictor import Predictor
from models.s_net import SNetOutput
from models.validation import NOT_FOUND_MM, CaseScores, CaseValidation, ShapeValidation, mean_scores, render_shapes
from utils.errors import UserError
from utils.runtime.device import Compute

CPU = Compute(device=torch.device("cpu"), precision="fp32")
SIZE = (9, 18, 14)
NAN = math.nan
ORGANS = 9


@dataclass
class DrawnCase:
    """A case whose image encodes the networks' output: HU 1000 k - 100 is class k."""

    image: np.ndarray
    label: np.ndarray
    contoured: list[bool]
    centers_vox: np.ndarray

    @property
    def inside_fov(self):
        return np.ones(self.image.shape, dtype=bool)


def drawn_case(predicted, label, contoured, centers=()):
    image = (1000 * predicted - 100).astype(np.int16)
    image.flags.writeable = False  # as memory-mapped cases are
    centers_vox = np.full((ORGANS, 3), np.nan, dtype=np.float32)
    for organ, center in centers:
        centers_vox[organ] = center
    present = [organ in contoured for organ in range(ORGANS)]
    return DrawnCase(image=image, label=label.astype(np.uint8), contoured=present, centers_vox=centers_vox)


class EncodedSNet(nn.Module):
    """Classifies each voxel by its intensity."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Parameter(torch.arange(10.0))

    def forward(self, image):
        logits = -50 * (image - self.classes[None, :, None, None, None]).square()
        return SNetOutput(logits=logits, features=image, stem=image)


class HottestWhereBrightest(nn.Module):
    """The same heatmap for every organ."""

    def forward(self, features):
        return (features / 4).clamp(0, 1).repeat(1, 3, 1, 1, 1)


class DrawnCases(list):
    """A list of cases with `contoured`."""

    @property
    def contoured(self):
        return np.array([case.contoured for case in self])


def validation_of(preset, cases, score, *, sol_net=None):
    network = FocusNet(preset, s_net=EncodedSNet(), sol_net=sol_net)
    return CaseValidation(network, DrawnCases(cases), CPU, score)


@pytest.fixture
def half_right():
    """Of the brainstem 8 of 16 voxels are predicted, and 4 voxels of the mandible, which is not contoured."""
    label, predicted = np.zeros(SIZE, int), np.zeros(SIZE, int)
    label[4, 4:8, 4:8] = 1
    predicted[4, 4:8, 4:6] = 1
    predicted[0, 0, 0:4] = 3
    return drawn_case(predicted, label, contoured=[0])


def test_dice_by_hand_and_organs_without_contours_do_not_count(half_right, tiny_preset):
    result = validation_of(tiny_preset, [half_right], lambda metrics: metrics["dice"])(5)
    assert result.metrics == pytest.approx({"dice": 2 / 3, "dice_large": 2 / 3, "dice/brainstem": 2 / 3})
    assert result.score == pytest.approx(2 / 3)  # 2 * 8 / (16 + 8)
    assert result.picture.dtype == np.uint8
    assert result.picture.ndim == 3


def test_read_only_images_raise_no_warning(half_right, tiny_preset):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validation_of(tiny_preset, [half_right], lambda metrics: metrics["dice"])(1)


def test_peak_errors_are_in_mm_and_capped(tiny_preset):
    predicted = np.zeros(SIZE, int)
    predicted[3, 9, 6] = 3  # the brightest voxel
    near, far = (2, 9, 8), (3, 9, 6 + 200)
    cases = [
        drawn_case(predicted, np.zeros(SIZE), [1], [(1, near)]),  # off by 1 x 3 mm and 2 x 1.5 mm
        drawn_case(predicted, np.zeros(SIZE), [3], [(3, far)]),
    ]
    result = validation_of(
        tiny_preset, cases, lambda metrics: -metrics["peak_error_mm"], sol_net=HottestWhereBrightest()
    )(2)
    assert result.metrics["peak_error_mm/chiasm"] == pytest.approx(math.hypot(3, 3))
    assert result.metrics["peak_error_mm/optic_nerve_left"] == NOT_FOUND_MM
    assert "peak_error_mm/optic_nerve_right" not in result.metrics
    assert result.score == pytest.approx(-(math.hypot(3, 3) + NOT_FOUND_MM) / 2)


def test_means_count_every_organ_once_however_often_it_was_contoured(tiny_preset):
    dice, backbone = torch.full((3, ORGANS), NAN), torch.full((3, ORGANS), NAN)
    dice[:, 0] = torch.tensor([0.9, 0.8, 0.7])  # brainstem
    dice[0, 1] = 0.4  # chiasm, small
    backbone[0, 1] = 0.1
    metrics = mean_scores(CaseScores(dice, backbone, torch.zeros(3, 0)), tiny_preset)
    assert metrics == pytest.approx(
        {
            "dice": (0.8 + 0.4) / 2,
            "dice_large": 0.8,
            "dice_small": 0.4,
            "backbone_dice_small": 0.1,
            "dice/brainstem": 0.8,
            "dice/chiasm": 0.4,
        }
    )


def numbered_cases(contoured):
    """Case i has i + 1 voxels of the brainstem, all predicted, and the organs contoured that are given for it."""
    cases = []
    for i, organs in enumerate(contoured):
        label = np.zeros(SIZE, int)
        label[0, 0, : i + 1] = 1
        cases.append(drawn_case(label, label, organs, [(organ, (0, 0, i)) for organ in organs]))
    return cases


@pytest.mark.parametrize(("count", "seen"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 3]), (9, [0, 1, 2, 3, 4])])
def test_cases_are_spread_evenly_over_the_split(count, seen, tiny_preset, monkeypatch):
    scored, predict = [], Predictor.predict

    def record(self, image, inside_fov):
        scored.append(int((image == 900).sum()) - 1)
        return predict(self, image, inside_fov)

    monkeypatch.setattr(Predictor, "predict", record)
    validation_of(tiny_preset, numbered_cases([[0]] * 5), lambda metrics: metrics["dice"])(count)
    assert scored == seen


def test_localization_is_scored_only_on_cases_with_a_small_organ(tiny_preset):
    """Two trial cases without any would otherwise leave nothing to score."""
    cases = numbered_cases([[0], [0], [0], [0, 1], [2]])
    validation = validation_of(
        tiny_preset, cases, lambda metrics: -metrics["peak_error_mm"], sol_net=HottestWhereBrightest()
    )
    assert validation.usable == [3]
    assert validation(2).metrics["peak_error_mm"] == pytest.approx(3 * 1.5)  # the first of 4 bright voxels is hottest


def test_a_split_that_can_score_nothing_is_refused(tiny_preset):
    with pytest.raises(
        ValueError, match="none of chiasm, optic_nerve_left, optic_nerve_right is contoured in any of the 2"
    ):
        validation_of(tiny_preset, numbered_cases([[0], [2]]), None, sol_net=HottestWhereBrightest())
    with pytest.raises(ValueError, match="none of brainstem, .* is contoured"):
        validation_of(tiny_preset, numbered_cases([[], []]), None)


class PartlyUnreadable(DrawnCases):
    """Opening case 1 raises an error."""

    def __init__(self, cases, error):
        super().__init__(cases)
        self.error = error

    def __getitem__(self, index):
        if index == 1:
            raise self.error
        return super().__getitem__(index)


def test_an_unreadable_case_is_skipped_but_a_bug_is_not(tiny_preset, caplog):
    def validate(error):
        cases = PartlyUnreadable(numbered_cases([[0]] * 3), error)
        network = FocusNet(tiny_preset, s_net=EncodedSNet())
        return CaseValidation(network, cases, CPU, lambda metrics: metrics["dice"])(3)

    assert validate(UserError("case_1/image.npy: cannot be read")).score == 1
    assert "validation skips a case: case_1/image.npy: cannot be read" in caplog.text
    with pytest.raises(ValueError, match="operands could not be broadcast"):
        validate(ValueError("operands could not be broadcast"))


class Shape(NamedTuple):
    mask: torch.Tensor
    organ: int


class HalvingAutoEncoder(nn.Module):
    """Reconstructs the masks' first two slices only."""

    def forward(self, mask):
        half = mask.clone()
        half[:, :, 2:] = 0
        return ShapeEncoding(code=mask, feature_1=mask, feature_2=mask, reconstruction=0.9 * half)


def test_reconstructions_are_scored_by_organ(tiny_preset):
    whole, top = torch.zeros(4, 12, 8), torch.zeros(4, 12, 8)
    whole[:, 3:5, 3:5] = 1
    top[:2, 3:5, 3:5] = 1
    shapes = [Shape(whole, 0), Shape(top, 2), Shape(whole, 0), Shape(top, 2)]
    validation = ShapeValidation(HalvingAutoEncoder(), tiny_preset, shapes, CPU)
    result = validation(2)
    # of 16 voxels 8 are reconstructed: 2 * 8 / (16 + 8); the other organ is reconstructed whole
    assert result.metrics == pytest.approx({"dice": (2 / 3 + 1) / 2, "dice/chiasm": 2 / 3, "dice/optic_nerve_right": 1})
    assert result.score == result.metrics["dice"]
    assert result.picture.shape == (2 * 12 * 6, 4 * 8 * 6, 3)


def test_shapes_are_rendered_as_projections_side_by_side():
    masks = torch.zeros(2, 1, 2, 3, 4)
    masks[0, 0, :, 0, 0] = 1
    masks[1, 0, 0, 2, 3] = 1
    picture = render_shapes(masks, torch.zeros_like(masks), zoom=1)
    assert picture.shape == (6, 8, 3)
    assert picture[0, 0].tolist() == [255] * 3
    assert picture[2, 7].tolist() == [127] * 3
    assert picture.sum() == 3 * (255 + 127)

"""models/tta.py: the mean of the results for the CT and its mirror image, with paired organs swapped."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from models.focusnet import FocusNet
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor
from models.s_net import SNetOutput
from models.tta import TTAPredictor
from utils.runtime.device import choose_compute

SIZE = (9, 18, 13)
LEFT, RIGHT = 6, 7
"""Labels of the parotids."""


class SidedSNet(nn.Module):
    """Segments bright voxels as the left parotid in the window's left half (large x), else as the right one."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, image):
        x = torch.arange(image.shape[-1]) + 0.5 > image.shape[-1] / 2
        logits = torch.zeros(len(image), 10, *image.shape[2:])
        logits[:, 0] = 4 * (image[:, 0] < 0.5)
        logits[:, LEFT] = 5 * (image[:, 0] >= 0.5) * x
        logits[:, RIGHT] = 5 * (image[:, 0] >= 0.5) * ~x
        return SNetOutput(logits=logits, features=image, stem=image)


class SidedSOLNet(nn.Module):
    """Peaks at the brightest voxel: 0.8 for the left optic nerve, 0.4 for the right one, none for the chiasm."""

    def forward(self, features):
        warm = features.ge(1.9)
        return torch.cat([0 * warm, 0.8 * warm, 0.4 * warm], dim=1)


class FullSOSNet(nn.Module):
    def forward(self, rois, organ_index):
        return torch.full_like(rois[:, :1], 20.0)


def predictor(preset, **networks):
    network = FocusNet(preset, s_net=SidedSNet(), **networks).eval()
    return OOMFallbackPredictor(Predictor(network, autocast=nullcontext()), choose_compute("cpu", "fp32"))


@pytest.fixture
def image():
    """Dark, with a bright block in the left half and one very bright voxel in it."""
    image = torch.full(SIZE, 0, dtype=torch.int16)
    image[3:6, 5:9, 8:12] = 1000
    image[4, 6, 9] = 2000
    return image


def test_a_mirrored_image_has_the_mirrored_result_with_sides_swapped(image, tiny_preset):
    tta = TTAPredictor(predictor(tiny_preset))
    answer, mirrored = tta.predict(image), tta.predict(image.flip(-1))
    swapped = answer.probabilities.flip(-1)[[0, *(organ + 1 for organ in tiny_preset.mirrored_organs)]]
    torch.testing.assert_close(mirrored.probabilities, swapped)


def test_the_result_is_the_mean_of_two(image, tiny_preset):
    plain = predictor(tiny_preset)
    one, other = plain.predict(image), plain.predict(image.flip(-1))
    both = TTAPredictor(plain).predict(image)
    expected = (one.probabilities[LEFT] + other.probabilities[RIGHT].flip(-1)) / 2
    torch.testing.assert_close(both.probabilities[LEFT], expected)
    torch.testing.assert_close(both.probabilities.sum(dim=0), torch.ones(SIZE))


def test_the_mirror_image_lies_on_a_grid_moved_by_half_a_voxel(image, tiny_preset):
    plain = predictor(tiny_preset)
    moved = image.roll((1, 1, 1), (0, 1, 2))
    one, other = plain.predict(image), plain.predict(moved.flip(-1))
    both = TTAPredictor(plain).predict(image, None, moved)
    seen = other.probabilities[RIGHT].flip(-1)
    at_voxels = seen.clone()  # voxel i lies between the voxels i - 1 and i of the moved grid
    for axis in range(3):
        before = torch.cat([at_voxels.narrow(axis, 0, 1), at_voxels.narrow(axis, 0, SIZE[axis] - 1)], dim=axis)
        at_voxels = (at_voxels + before) / 2
    torch.testing.assert_close(both.probabilities[LEFT], (one.probabilities[LEFT] + at_voxels) / 2)
    torch.testing.assert_close(both.probabilities.sum(dim=0), torch.ones(SIZE))


def test_peaks_are_those_of_the_mean_heatmap(image, tiny_preset):
    both = TTAPredictor(predictor(tiny_preset, sol_net=SidedSOLNet(), sos_net=FullSOSNet())).predict(image)
    nothing, left, right = both.small_organs
    assert left.peak_vox == right.peak_vox == (4, 6, 9)
    assert left.peak_value == pytest.approx(0.6)  # 0.8 as itself, 0.4 as its mirror image
    assert right.peak_value == pytest.approx(0.6)
    assert left.segmented
    assert right.segmented
    assert not nothing.segmented


def test_no_peak_lies_outside_of_the_field_of_view(image, tiny_preset):
    inside_fov = torch.ones(SIZE, dtype=torch.bool)
    inside_fov[:, :, 9:] = False
    networks = {"sol_net": SidedSOLNet(), "sos_net": FullSOSNet()}
    assert predictor(tiny_preset, **networks).predict(image).small_organs[1].peak_value == pytest.approx(0.8)
    assert predictor(tiny_preset, **networks).predict(image, inside_fov).small_organs[1].peak_value == 0
    assert TTAPredictor(predictor(tiny_preset, **networks)).predict(image, inside_fov).small_organs[1].peak_value == 0

"""heatmap.py: Gaussians of hand-computed values, and back to centers."""

import math
from dataclasses import replace

import pytest
import torch

from data_preprocess.augment import Batch
from data_preprocess.heatmap_targets import gaussian_heatmaps, heatmap_targets
from utils.config.preset import HeatmapSettings

SIZE = (7, 20, 14)
SETTINGS = HeatmapSettings(sigma_vox=2.0, neighbor_slices=1, zero_below=0.01, peak_threshold=0.2)


def heatmap_of(*center, settings=SETTINGS, size=SIZE):
    return gaussian_heatmaps(torch.tensor([[center]], dtype=torch.float32), size, settings)[0, 0]


def test_peak_is_one_at_the_center():
    heatmap = heatmap_of(3, 11, 6)
    assert heatmap.shape == SIZE
    assert heatmap.dtype == torch.float32
    assert heatmap[3, 11, 6] == 1
    assert (heatmap == 1).sum() == 1


def test_values_by_hand():
    heatmap = heatmap_of(3, 11, 6)
    assert float(heatmap[3, 13, 6]) == pytest.approx(math.exp(-4 / 8))
    assert float(heatmap[3, 11, 3]) == pytest.approx(math.exp(-9 / 8))
    assert float(heatmap[4, 12, 8]) == pytest.approx(math.exp(-6 / 8))
    between = heatmap_of(3, 10.5, 6)
    assert between[3, 10, 6] == between[3, 11, 6] == pytest.approx(math.exp(-0.25 / 8))


@pytest.mark.parametrize(("neighbors", "kept"), [(0, [3]), (1, [2, 3, 4]), (2, [1, 2, 3, 4, 5])])
def test_only_the_neighboring_slices_are_kept(neighbors, kept):
    heatmap = heatmap_of(3.2, 11, 6, settings=replace(SETTINGS, neighbor_slices=neighbors))
    assert heatmap.amax(dim=(1, 2)).nonzero().flatten().tolist() == kept


def test_values_below_the_floor_are_zero():
    heatmap = heatmap_of(3, 11, 6)
    assert heatmap[heatmap > 0].min() >= 0.01
    assert heatmap[3, 5, 6] > 0  # exp(-36/8) = 0.0111
    assert heatmap[3, 4, 6] == 0  # exp(-49/8) = 0.0022


@pytest.mark.parametrize("center", [(torch.nan,) * 3, (30.0, 11.0, 6.0), (3.0, 40.0, 6.0), (-3.0, 11.0, 6.0)])
def test_unknown_and_far_centers_give_zeros(center):
    assert not heatmap_of(*center).any()


def test_center_just_outside_leaves_its_tail():
    heatmap = heatmap_of(-1, 11, 6)
    assert heatmap.amax(dim=(1, 2)).nonzero().flatten().tolist() == [0]
    assert heatmap_of(3, 11, 14)[3, 11, 13] == pytest.approx(math.exp(-1 / 8))


@pytest.mark.parametrize("center", [(0, 0, 0), (6, 19, 13), (2, 17, 1), (5, 3, 12)])
def test_argmax_returns_the_center(center):
    flat = heatmap_of(*center).flatten().argmax()
    assert tuple(int(i) for i in torch.unravel_index(flat, SIZE)) == center


def test_targets_are_those_of_small_organs(tiny_preset):
    centers = torch.full((2, 9, 3), torch.nan)
    centers[0, 1], centers[1, 4] = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([5.0, 6.0, 7.0])
    present = torch.zeros(2, 9, dtype=torch.bool)
    present[0, 1] = present[1, 4] = present[1, 0] = True
    label = torch.zeros(2, 8, 16, 12, dtype=torch.uint8)
    batch = Batch(
        image=torch.zeros(2, 1, 8, 16, 12),
        label=label,
        present=present,
        labeled=torch.ones_like(present),
        centers_vox=centers,
        roi_jitter=torch.zeros(2, 9, 3),
    )
    targets = heatmap_targets(batch, tiny_preset)

    assert targets.heatmaps.shape == (2, 3, 8, 16, 12)  # chiasm, optic nerve left, right
    assert targets.known.tolist() == [[True, False, False], [False, False, True]]
    assert targets.heatmaps[0, 0, 2, 3, 4] == 1
    assert targets.heatmaps[1, 2, 5, 6, 7] == 1
    assert targets.heatmaps.amax(dim=(2, 3, 4)).tolist() == [[1, 0, 0], [0, 0, 1]]

"""plausibility.py: how much of a mask an AutoEncoder gives back."""

import pytest
import torch
from torch import nn

from models.autoencoder import ShapeAutoEncoder, ShapeEncoding
from models.shape_plausibility import shape_plausibility

ROI = (4, 8, 6)


class Remembers(nn.Module):
    """Reconstructs the upper half of a mask."""

    def __init__(self):
        super().__init__()
        self.roi_size = ROI
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, mask):
        kept = mask.clone()
        kept[:, :, :2] = 0
        return ShapeEncoding(None, None, None, 0.9 * kept + 0.05)


def test_dice_of_a_half_reproduced_mask_by_hand():
    label = torch.zeros(9, 20, 15, dtype=torch.uint8)
    label[3:7, 8:10, 6:9] = 2  # 4 x 2 x 3 voxels, centered in the ROI; the upper 2 slices come back
    assert shape_plausibility(Remembers(), label, 2) == pytest.approx(2 * 12 / (12 + 24))
    assert shape_plausibility(Remembers(), label, 3) is None


def test_a_mask_larger_than_the_roi_is_less_plausible():
    label = torch.ones(9, 20, 15, dtype=torch.uint8)
    half_roi = 2 * 8 * 6
    assert shape_plausibility(Remembers(), label, 1) == pytest.approx(2 * half_roi / (half_roi + label.numel()))


@pytest.mark.parametrize("size", [(2, 5, 3), (4, 8, 6), (3, 20, 6)])
def test_volumes_smaller_than_the_roi_are_padded(size):
    torch.manual_seed(0)
    autoencoder = ShapeAutoEncoder(roi_size=ROI, code_length=8, width=0.1).eval()
    label = torch.zeros(size, dtype=torch.uint8)
    label[-1, -1, -1] = 1
    assert 0 <= shape_plausibility(autoencoder, label, 1) <= 1

"""SOL-Net localizes the small organs."""

import math

from torch import Tensor, nn

from models.blocks import PreActConv3d
from models.convolution import Conv3d
from utils.config.preset import Preset

PRIOR_PROBABILITY = 0.01
"""Initial value of the heatmaps."""


class SOLNet(nn.Module):
    """Small-organ localization: one heatmap per small organ, whose peak is the organ's center.

    Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.

    Args:
        in_channels: channels of S-Net's last features; both hidden layers have as many.
        num_organs: number of small organs.
    """

    def __init__(self, *, in_channels: int, num_organs: int):
        super().__init__()
        self.body = nn.Sequential(
            PreActConv3d(in_channels, in_channels, (3, 3, 3)),
            PreActConv3d(in_channels, in_channels, (3, 3, 3)),
        )
        self.head = Conv3d(in_channels, num_organs, 1)
        # All but a few hundred of a crop's million voxels have target 0. If heatmaps started at sigmoid(0) = 0.5, these
        # voxels would dominate the first steps and push the bias so low that the sigmoid passes the few peaks no
        # gradient. At the prior, close to the background, the sigmoid's slope is still about 0.01.
        nn.init.constant_(self.head.bias, math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY)))

    @staticmethod
    def organ_weights(preset: Preset) -> tuple[str, tuple[str, ...]]:
        """The keys and the organs of weights that belong to one small organ each."""
        return "head.", preset.small_organ_names

    def forward(self, features: Tensor) -> Tensor:
        """Predict the heatmaps.

        Args:
            features: (B, in_channels, D, H, W), S-Net's last features.

        Returns:
            Heatmaps (B, num_organs, D, H, W), float32 in 0..1.
        """
        logits = self.head(self.body(features))  # (B, num_organs, D, H, W)
        # Half precision cannot resolve values just below 1: the voxels around a peak would tie with it.
        return logits.float().sigmoid()

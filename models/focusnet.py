"""FocusNet: S-Net, SOL-Net and SOS-Net put together from a preset."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.autoencoder import ShapeAutoEncoder
from models.roi import crop_rois, roi_corners
from models.s_net import SNet
from models.sol_net import SOLNet
from models.sos_net import SOSNet
from utils.config.preset import Preset
from utils.errors import UserError

NETWORK_NAMES = ("s_net", "sol_net", "sos_net", "autoencoder")


class LocalizationOutput(NamedTuple):
    """What S-Net and SOL-Net say of a crop."""

    logits: Tensor
    """(B, num_classes, D, H, W), before softmax."""
    features: Tensor
    """(B, feature_channels, D, H, W)."""
    stem: Tensor
    """(B, stem_channels, D, H, W)."""
    heatmaps: Tensor
    """(B, K, D, H, W) in 0..1, one per small organ; K = 0 without SOL-Net."""


class Rois(NamedTuple):
    """Boxes around small organs, each with its own sample, organ and place."""

    sample_index: Tensor
    """(R,) long."""
    organ_index: Tensor
    """(R,) long, among the small organs."""
    starts: Tensor
    """(R, 3) long, lowest corner (z, y, x) in voxels."""


def build_network(name: str, preset: Preset) -> nn.Module:
    """One network of the method, sized by the preset.

    Args:
        name: one of `NETWORK_NAMES`.
        preset: organs, ROI size, width.

    Raises:
        UserError: the part serves small organs and the preset has none.
    """
    width, num_small = preset.networks.width, len(preset.small_organs)
    if name != "s_net" and num_small == 0:
        raise UserError(f"preset {preset.name}: {name} needs a small organ; set organs.<name>.small=true")
    s_net = SNet(num_classes=preset.num_classes, width=width)
    if name == "s_net":
        return s_net
    if name == "sol_net":
        return SOLNet(in_channels=s_net.feature_channels, num_organs=num_small)
    if name == "sos_net":
        features = s_net.feature_channels + s_net.stem_channels + 1 if preset.networks.sos_input == "features" else 0
        return SOSNet(num_organs=num_small, in_channels=features + 1, width=width)
    return ShapeAutoEncoder(
        roi_size=preset.grid.roi_size_vox, code_length=preset.networks.autoencoder_code, width=width
    )


class FocusNet(nn.Module):
    """The networks that segment: S-Net, and where they exist SOL-Net and SOS-Net.

    Gao et al., Medical Image Analysis 67 (2021) 101831, sec. 3.

    Args:
        preset: grid and sos_input.
        s_net, sol_net, sos_net: trained or in training; without SOL-Net there are no heatmaps, without SOS-Net small
            organs stay S-Net's.
    """

    def __init__(
        self, preset: Preset, *, s_net: nn.Module, sol_net: nn.Module | None = None, sos_net: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.roi_size = preset.grid.roi_size_vox
        self.sos_sees_features = preset.networks.sos_input == "features"
        self.s_net = s_net
        self.sol_net = sol_net
        self.sos_net = sos_net

    def locate(self, image: Tensor) -> LocalizationOutput:
        """Run S-Net and SOL-Net.

        Args:
            image: (B, 1, D, H, W), normalized.
        """
        s_net = self.s_net(image)
        if self.sol_net is None:
            heatmaps = image.new_zeros(len(image), 0, *image.shape[2:])
        else:
            heatmaps = self.sol_net(s_net.features)
        return LocalizationOutput(logits=s_net.logits, features=s_net.features, stem=s_net.stem, heatmaps=heatmaps)

    def select_rois(self, centers_vox: Tensor, wanted: Tensor, volume_size: tuple[int, int, int]) -> Rois:
        """Boxes around the wanted organs of every sample, clamped to the volume.

        Args:
            centers_vox: (B, K, 3) float or long, voxels; values of unwanted organs are not looked at.
            wanted: (B, K) bool.
            volume_size: (D, H, W).
        """
        sample_index, organ_index = wanted.nonzero(as_tuple=True)
        starts = roi_corners(centers_vox[sample_index, organ_index], self.roi_size, volume_size)
        return Rois(sample_index=sample_index, organ_index=organ_index, starts=starts)

    def segment_rois(self, image: Tensor, location: LocalizationOutput, rois: Rois) -> Tensor:
        """ROI-pool what SOS-Net sees and run its branches.

        Args:
            image: (B, 1, D, H, W), normalized.
            location: of the same crop, from `locate`.
            rois: from `select_rois`.

        Returns:
            (R, 1, d, h, w) logits.
        """
        pooled = [crop_rois(image, rois.sample_index, rois.starts, self.roi_size)]
        if self.sos_sees_features:
            num_organs = location.heatmaps.shape[1]
            own_heatmap = location.heatmaps.flatten(0, 1)[:, None]  # (B * K, 1, D, H, W)
            own_index = rois.sample_index * num_organs + rois.organ_index
            pooled = [
                crop_rois(location.features, rois.sample_index, rois.starts, self.roi_size),
                crop_rois(location.stem, rois.sample_index, rois.starts, self.roi_size),
                crop_rois(own_heatmap, own_index, rois.starts, self.roi_size),
                *pooled,
            ]
        inputs = torch.cat([part.to(location.features.dtype) for part in pooled], dim=1)
        return self.sos_net(inputs, rois.organ_index)

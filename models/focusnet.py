"""FocusNet: the registry of the method's networks, and the composition of those that segment."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.autoencoder import ShapeAutoEncoder
from models.roi import Rois, roi_corners
from models.s_net import SNet, feature_channels
from models.sol_net import SOLNet
from models.sos_net import SOSNet
from utils.config.preset import Preset
from utils.errors import UserError
from utils.runtime.device import copy_to


class NetworkSpec(NamedTuple):
    """How to build one of the method's networks, and what it is for."""

    build: Callable[[Preset], nn.Module]
    segments: bool = True
    """Whether it is a part of `FocusNet`; the others only train or judge those that are."""
    needs_small_organs: bool = True


def _build_sol_net(preset: Preset) -> SOLNet:
    return SOLNet(in_channels=feature_channels(preset.networks.width), num_organs=len(preset.small_organs))


def _build_sos_net(preset: Preset) -> SOSNet:
    width = preset.networks.width
    pooled = 2 * feature_channels(width) + 1 if preset.networks.sos_input == "features" else 0  # and the image
    return SOSNet(num_organs=len(preset.small_organs), in_channels=pooled + 1, width=width)


def _build_autoencoder(preset: Preset) -> ShapeAutoEncoder:
    sizes = preset.networks
    return ShapeAutoEncoder(roi_size=preset.grid.roi_size_vox, code_length=sizes.autoencoder_code, width=sizes.width)


NETWORKS = {
    "s_net": NetworkSpec(
        lambda preset: SNet(num_classes=preset.num_classes, width=preset.networks.width), needs_small_organs=False
    ),
    "sol_net": NetworkSpec(_build_sol_net),
    "sos_net": NetworkSpec(_build_sos_net),
    "autoencoder": NetworkSpec(_build_autoencoder, segments=False),
}
"""Name, as in checkpoints, to network. A new network is one more entry; all lists of networks follow from this one."""

NETWORK_NAMES = tuple(NETWORKS)
SEGMENTATION_NETWORKS = tuple(name for name, spec in NETWORKS.items() if spec.segments)


def build_network(name: str, preset: Preset) -> nn.Module:
    """Build one of the method's networks with random weights, sized by the preset.

    Args:
        name: one of `NETWORK_NAMES`.
        preset: organs, ROI size, width.

    Raises:
        UserError: the network serves small organs and the preset has none.
    """
    spec = NETWORKS[name]
    if spec.needs_small_organs and not preset.small_organs:
        raise UserError(f"preset {preset.name}: {name} needs a small organ; set organs.ORGAN.small=true")
    if name != "s_net":
        build_network("s_net", preset)  # draws the random numbers that version 0.1 drew: a seed's weights stay the same
    return spec.build(preset)


class LocalizationOutput(NamedTuple):
    """Output of S-Net and SOL-Net for a crop."""

    logits: Tensor
    """(B, num_classes, D, H, W), before softmax."""
    features: Tensor
    """(B, C, D, H, W): S-Net's last features."""
    stem: Tensor
    """(B, C, D, H, W): S-Net's first features."""
    heatmaps: Tensor
    """(B, K, D, H, W) in 0..1, one per small organ; K = 0 without SOL-Net."""


class FocusNet(nn.Module):
    """The networks that segment: S-Net, and SOL-Net and SOS-Net where they exist.

    Gao et al., Medical Image Analysis 67 (2021) 101831, sec. 3.

    Args:
        preset: of the networks.
        s_net, sol_net, sos_net: in any state of training. Without SOL-Net there are no heatmaps; without SOS-Net small
            organs keep S-Net's segmentation.
    """

    def __init__(
        self, preset: Preset, *, s_net: nn.Module, sol_net: nn.Module | None = None, sos_net: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.preset = preset
        self.s_net = s_net
        self.sol_net = sol_net
        self.sos_net = sos_net

    def localize(self, image: Tensor) -> LocalizationOutput:
        """Run S-Net and SOL-Net on normalized images (B, 1, D, H, W)."""
        output = self.s_net(image)
        if self.sol_net is None:
            heatmaps = image.new_zeros(len(image), 0, *image.shape[2:])
        else:
            heatmaps = self.sol_net(output.features)
        return LocalizationOutput(*output, heatmaps=heatmaps)

    def select_rois(self, centers_vox: Tensor, wanted: Tensor, volume_size: tuple[int, int, int]) -> Rois:
        """Place boxes around the wanted organs of every sample, clamped to the volume.

        Args:
            centers_vox: (B, K, 3) float or long (z, y, x), voxels; values of unwanted organs are ignored.
            wanted: (B, K) bool, on the CPU.
            volume_size: (D, H, W).
        """
        sample_index, organ_index = wanted.nonzero(as_tuple=True)
        roi_size = self.preset.grid.roi_size_vox
        centers = centers_vox[copy_to(sample_index, centers_vox.device), copy_to(organ_index, centers_vox.device)]
        corners = roi_corners(centers, roi_size, volume_size)
        return Rois(sample_index, organ_index, corners, roi_size)

    def segment_rois(self, image: Tensor, localization: LocalizationOutput, rois: Rois) -> Tensor:
        """Crop an image (B, 1, D, H, W) and its localization to the ROIs and segment these.

        Returns:
            (R, 1, d, h, w) logits, before sigmoid.
        """
        inputs = [rois.crop(image)]
        if self.preset.networks.sos_input == "features":
            num_organs = localization.heatmaps.shape[1]
            in_heatmaps = rois._replace(sample_index=rois.sample_index * num_organs + rois.organ_index)
            own_heatmap = in_heatmaps.crop(localization.heatmaps.flatten(0, 1)[:, None])  # of (B * K, 1, D, H, W)
            inputs = [rois.crop(localization.features), rois.crop(localization.stem), own_heatmap, *inputs]
        dtype = localization.features.dtype
        return self.sos_net(torch.cat([tensor.to(dtype) for tensor in inputs], dim=1), rois.organ_index)

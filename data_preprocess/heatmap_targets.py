"""Gaussian heatmaps of organ centers, SOL-Net's targets."""

from typing import NamedTuple

import torch

from data_preprocess.augment import Batch
from utils.config.preset import HeatmapSettings, Preset
from utils.runtime.device import copy_to


class HeatmapTargets(NamedTuple):
    """The targets of SOL-Net."""

    heatmaps: torch.Tensor
    """(B, K, D, H, W) float32 in 0..1."""
    known: torch.Tensor
    """(B, K) bool: whether the organ is contoured, so that its center is known."""


def heatmap_targets(batch: Batch, preset: Preset) -> HeatmapTargets:
    """Targets of the small organs of a training batch."""
    small = list(preset.small_organs)
    centers, known = (copy_to(tensor[:, small], batch.label.device) for tensor in (batch.centers_vox, batch.present))
    return HeatmapTargets(gaussian_heatmaps(centers, batch.label.shape[1:], preset.heatmap), known)


def gaussian_heatmaps(
    centers_vox: torch.Tensor, size_zyx: tuple[int, int, int], settings: HeatmapSettings
) -> torch.Tensor:
    """One Gaussian per organ center, on the center's slice and its neighbors only (sec. 3 of the paper).

    Args:
        centers_vox: (B, K, 3) float (z, y, x) in voxels of the crop; may lie outside of it; NaN where unknown.
        size_zyx: (D, H, W) of the crop.
        settings: sigma, slices kept, and the value below which targets are 0.

    Returns:
        (B, K, D, H, W) float32 in 0..1; all zero where the center is unknown or far outside.
    """
    profiles = []
    for axis, size in enumerate(size_zyx):
        position = torch.arange(size, device=centers_vox.device, dtype=torch.float32)
        center = centers_vox[..., axis, None].float()  # (B, K, 1)
        profile = torch.exp(-((position - center) ** 2) / (2 * settings.sigma_vox**2))  # (B, K, size)
        if axis == 0:
            kept = (position - center.round()).abs() <= settings.neighbor_slices
            profile = profile * kept
        profiles.append(torch.nan_to_num(profile, nan=0.0))
    z, y, x = profiles
    heatmaps = z[..., :, None, None] * y[..., None, :, None] * x[..., None, None, :]  # (B, K, D, H, W)
    return torch.where(heatmaps < settings.zero_below, torch.zeros_like(heatmaps), heatmaps)

"""How well the shape AutoEncoder, which learned true masks, can reproduce a predicted one."""

import torch
import torch.nn.functional as F
from torch import nn

from models.roi import crop_rois, roi_corners


@torch.no_grad()
def shape_plausibility(autoencoder: nn.Module, label: torch.Tensor, organ_label: int) -> float | None:
    """Dice between an organ's mask and its reconstruction.

    A shape unlike any that the AutoEncoder was trained on is reproduced badly.

    Args:
        autoencoder: in evaluation mode; its `roi_size` is cut around the mask's centroid.
        label: (D, H, W) uint8 on the networks' grid.
        organ_label: which organ.

    Returns:
        0..1, or None where the organ has no voxel.
    """
    mask = label == organ_label
    if not mask.any():
        return None
    padding = [max(0, roi - n) for roi, n in zip(autoencoder.roi_size, mask.shape, strict=True)]
    padded = F.pad(mask.float(), [0, padding[2], 0, padding[1], 0, padding[0]])
    center = mask.nonzero().float().mean(dim=0)
    starts = roi_corners(center[None], autoencoder.roi_size, padded.shape)
    first = torch.zeros(1, dtype=torch.long, device=mask.device)
    roi = crop_rois(padded[None, None], first, starts, autoencoder.roi_size)  # (1, 1, d, h, w)
    weight = next(autoencoder.parameters())
    reconstruction = autoencoder(roi.to(weight.device)).reconstruction.to(roi.device) >= 0.5
    common = float((reconstruction & (roi > 0)).sum())
    return 2 * common / float(reconstruction.sum() + mask.sum())

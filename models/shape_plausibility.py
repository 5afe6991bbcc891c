"""Shape plausibility: how well the shape AutoEncoder, trained on reference masks, reconstructs a predicted mask."""

import torch
import torch.nn.functional as F
from torch import nn

from models.roi import crop_rois, roi_corners


@torch.no_grad()
def shape_plausibility(autoencoder: nn.Module, label: torch.Tensor, organ_label: int) -> float | None:
    """Dice between an organ's mask and its reconstruction, which is low for shapes unlike those of the training data.

    Args:
        autoencoder: in eval mode; a box of its `roi_size` is cut around the centroid of the mask.
        label: (D, H, W) uint8 on the networks' grid.
        organ_label: label of the organ.

    Returns:
        0..1, or None if the organ has no voxel.
    """
    mask = label == organ_label
    if not mask.any():
        return None
    padding = [max(0, roi - n) for roi, n in zip(autoencoder.roi_size, mask.shape, strict=True)]
    padded = F.pad(mask.float(), [0, padding[2], 0, padding[1], 0, padding[0]])
    centroid = mask.nonzero().float().mean(dim=0)
    corners = roi_corners(centroid[None], autoencoder.roi_size, padded.shape)
    sample_index = torch.zeros(1, dtype=torch.long, device=mask.device)
    roi = crop_rois(padded[None, None], sample_index, corners, autoencoder.roi_size)  # (1, 1, d, h, w)
    device = next(autoencoder.parameters()).device
    reconstruction = autoencoder(roi.to(device)).reconstruction.to(roi.device) >= 0.5
    overlap = float((reconstruction & (roi > 0)).sum())
    return 2 * overlap / float(reconstruction.sum() + mask.sum())

"""Shape plausibility: how well the shape AutoEncoder, trained on reference masks, reconstructs a predicted mask."""

import torch
from torch import nn

from models.roi import roi_corners
from models.sliding_window import box_at, pad_at_end


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
    padded = pad_at_end(mask.float(), autoencoder.roi_size)
    corner = roi_corners(mask.nonzero().float().mean(dim=0), autoencoder.roi_size, padded.shape)
    roi = padded[box_at(corner.tolist(), autoencoder.roi_size)][None, None]  # (1, 1, d, h, w)
    device = next(autoencoder.parameters()).device
    reconstruction = autoencoder(roi.to(device)).reconstruction.to(roi.device) >= 0.5
    overlap = float((reconstruction & (roi > 0)).sum())
    return 2 * overlap / float(reconstruction.sum() + mask.sum())

"""Regions of interest (ROI): from a heatmap's peak to a box, and from a volume to the box's content and back.

All positions and sizes are in voxels, in the order (z, y, x). Every ROI has its own place, in its own sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Peaks(NamedTuple):
    """The highest voxel of every heatmap."""

    position: Tensor
    """(B, K, 3) long: voxel (z, y, x)."""
    value: Tensor
    """(B, K): the heatmap there, in its dtype."""


def find_peaks(heatmaps: Tensor) -> Peaks:
    """Find the highest voxel of every heatmap.

    Args:
        heatmaps: (B, K, D, H, W), one per sample and small organ.

    Returns:
        Position and value of the peaks; of several equal maxima, one.
    """
    value, flat_index = heatmaps.flatten(2).max(dim=2)  # (B, K)
    position = torch.unravel_index(flat_index, heatmaps.shape[2:])
    return Peaks(position=torch.stack(position, dim=-1), value=value)  # (B, K, 3)


def roi_corners(centers: Tensor, roi_size: Sequence[int], volume_size: Sequence[int]) -> Tensor:
    """Place a box around every center, inside the volume.

    The center's voxel has index `roi_size // 2` in the box, unless the box had to be moved into the volume.

    Args:
        centers: (..., 3) voxel positions (z, y, x), integer or finite floating point (rounded, halves up).
        roi_size: (d, h, w) of the boxes.
        volume_size: (D, H, W) of the volume.

    Returns:
        (..., 3) long: each box's lowest corner, from 0 to `volume_size - roi_size`.

    Raises:
        ValueError: the volume is smaller than the box along an axis.
    """
    if any(extent < roi_extent for extent, roi_extent in zip(volume_size, roi_size, strict=True)):
        raise ValueError(
            f"the volume {tuple(volume_size)} is smaller than the ROI {tuple(roi_size)} (z, y, x voxels): "
            "pad the volume or choose a smaller ROI"
        )
    if centers.is_floating_point():
        centers = (centers + 0.5).floor().long()
    size = torch.tensor(tuple(roi_size), device=centers.device)
    last = torch.tensor(tuple(volume_size), device=centers.device) - size
    return torch.clamp(centers - size // 2, min=torch.zeros_like(last), max=last)


def group_rois_into_windows(
    starts: Sequence[Sequence[int]], roi_size: Sequence[int], window_size: Sequence[int], volume_size: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Windows in which all ROIs lie, those of neighbours in one window where they fit.

    Args:
        starts: lowest corner (z, y, x) of every ROI, inside the volume.
        roi_size: (d, h, w) of the ROIs.
        window_size: of the windows, not smaller.
        volume_size: (D, H, W), not smaller than a window.

    Returns:
        The lowest corner of each window, inside the volume, its ROIs in the middle, and their indices in `starts`.
    """
    groups: list[list[int]] = []
    for index in range(len(starts)):
        for group in groups:
            extents = np.ptp([starts[i] for i in (*group, index)], axis=0) + roi_size
            if (extents <= window_size).all():
                group.append(index)
                break
        else:
            groups.append([index])
    last = np.subtract(volume_size, window_size)
    windows = []
    for group in groups:
        corners = np.array([starts[i] for i in group])
        middle = (corners.min(axis=0) + corners.max(axis=0) + roi_size) // 2
        windows.append((np.clip(middle - np.floor_divide(window_size, 2), 0, last).tolist(), group))
    return windows


def crop_rois(tensor: Tensor, sample_index: Tensor, starts: Tensor, roi_size: Sequence[int]) -> Tensor:
    """Cut boxes out of a batch of volumes; gradients flow back into the volumes.

    Args:
        tensor: (B, C, D, H, W), any dtype.
        sample_index: (R,) long, the sample in 0..B-1 that each box is cut from.
        starts: (R, 3) long, lowest corners inside the volume, as `roi_corners` returns them.
        roi_size: (d, h, w) of the boxes.

    Returns:
        (R, C, d, h, w), a copy.
    """
    z, y, x = _box_indices(starts, roi_size)
    boxes = tensor[sample_index[:, None, None, None], :, z, y, x]  # (R, d, h, w, C): indexed axes come first
    return boxes.movedim(-1, 1)  # (R, C, d, h, w)


def paste_rois(rois: Tensor, starts: Tensor, volume_size: Sequence[int], fill: float) -> Tensor:
    """Put every box back into a volume of its own; the inverse of `crop_rois` inside the box.

    Args:
        rois: (R, C, d, h, w).
        starts: (R, 3) long, lowest corners inside the volume, as `roi_corners` returns them.
        volume_size: (D, H, W) of the volumes.
        fill: value outside the box.

    Returns:
        (R, C, D, H, W), in the dtype of `rois`.
    """
    num_rois, channels, *roi_size = rois.shape
    volumes = rois.new_full((num_rois, channels, *volume_size), fill)
    row = torch.arange(num_rois, device=rois.device)[:, None, None, None]
    z, y, x = _box_indices(starts, roi_size)
    volumes[row, :, z, y, x] = rois.movedim(1, -1)  # (R, d, h, w, C): indexed axes come first
    return volumes


def _box_indices(starts: Tensor, roi_size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the z, y and x indices of the boxes' voxels: (R, d, 1, 1), (R, 1, h, 1) and (R, 1, 1, w) long."""
    z, y, x = (
        starts[:, axis, None] + torch.arange(extent, device=starts.device) for axis, extent in enumerate(roi_size)
    )
    return z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]

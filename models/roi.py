"""Regions of interest (ROI): from a heatmap's peak to a box, and from a volume to the content of the box.

All positions and sizes are in voxels, in the order (z, y, x). Every ROI has its own position in its own sample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.config.preset import POOLING_VOX
from utils.runtime.device import copy_to


class Rois(NamedTuple):
    """Boxes of one size around small organs, each in its own sample.

    On a GPU the host must know them, because it decides which networks run: indices, and corners unless they are those
    of peaks, stay on the CPU.
    """

    sample_index: Tensor
    """(R,) long, index in the batch."""
    organ_index: Tensor
    """(R,) long, index among the small organs."""
    corners: Tensor
    """(R, 3) long, lowest corner (z, y, x); see `roi_corners`."""
    size: tuple[int, int, int]
    """(d, h, w)."""

    def crop(self, volumes: Tensor) -> Tensor:
        """Copy the boxes (R, C, d, h, w) out of volumes (B, C, D, H, W) of any dtype; gradients flow back."""
        corners, samples = copy_to(self.corners, volumes.device), copy_to(self.sample_index, volumes.device)
        z, y, x = (
            corners[:, axis, None] + torch.arange(extent, device=volumes.device)
            for axis, extent in enumerate(self.size)
        )
        z, y, x = z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]
        boxes = volumes[samples[:, None, None, None], :, z, y, x]  # (R, d, h, w, C): indexed axes come first
        return boxes.movedim(-1, 1)  # (R, C, d, h, w)


class Peaks(NamedTuple):
    """The highest voxel of every heatmap."""

    position: Tensor
    """(B, K, 3) long: voxel (z, y, x)."""
    value: Tensor
    """(B, K): the heatmap there, in its dtype."""


def find_peaks(heatmaps: Tensor) -> Peaks:
    """Find the highest voxel of every heatmap (B, K, D, H, W), of several equal maxima any one."""
    _, height, width = heatmaps.shape[2:]
    value, flat_index = heatmaps.flatten(2).max(dim=2)  # (B, K)
    # The host of a GPU waits in torch.unravel_index, which copies the volume's size to the device.
    position = flat_index // (height * width), flat_index // width % height, flat_index % width
    return Peaks(position=torch.stack(position, dim=-1), value=value)  # (B, K, 3)


def read_peaks(heatmaps: Tensor) -> Peaks:
    """Find the peaks of heatmaps (B, K, D, H, W) and copy them to the CPU at once: on a GPU the host waits once.

    Returns:
        float32 values; positions in volumes of up to 2**24 voxels along each axis.
    """
    peaks = find_peaks(heatmaps)
    rows = torch.cat([peaks.position.float(), peaks.value.float()[..., None]], dim=-1).cpu()  # (B, K, 4)
    return Peaks(position=rows[..., :3].long(), value=rows[..., 3])


def roi_corners(centers: Tensor, roi_size: Sequence[int], volume_size: Sequence[int]) -> Tensor:
    """Place a box around every center, which has index `roi_size // 2` in it, unless the box is clamped to the volume.

    Args:
        centers: (..., 3) positions (z, y, x), integer or finite floating point (rounded, halves up).
        roi_size: (d, h, w) of the boxes.
        volume_size: (D, H, W) of the volume.

    Returns:
        (..., 3) long: the lowest corner of each box, from 0 to `volume_size - roi_size`.

    Raises:
        ValueError: the volume is smaller than the box along an axis.
    """
    if any(extent < roi_extent for extent, roi_extent in zip(volume_size, roi_size, strict=True)):
        raise ValueError(
            f"expected a volume at least as large as the ROI {tuple(roi_size)} (z, y, x voxels), got "
            f"{tuple(volume_size)}: pad the volume or choose a smaller ROI"
        )
    if centers.is_floating_point():
        centers = (centers + 0.5).floor().long()
    corners = [
        (center - extent // 2).clamp(0, size - extent)
        for center, extent, size in zip(centers.unbind(-1), roi_size, volume_size, strict=True)
    ]
    return torch.stack(corners, dim=-1)


def group_rois_into_windows(
    corners: Sequence[Sequence[int]], roi_size: Sequence[int], window_size: Sequence[int], volume_size: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Find windows that contain all ROIs; neighboring ROIs share a window if they fit.

    Args:
        corners: lowest corner (z, y, x) of every ROI, inside the volume.
        roi_size: (d, h, w) of the ROIs.
        window_size: of the windows, at least `roi_size`.
        volume_size: (D, H, W), at least `window_size`.

    Returns:
        For each window its lowest corner and the indices of its ROIs in `corners`. The window is centered on its ROIs
        up to a pooled voxel, and clamped to the volume.
    """
    groups: list[list[int]] = []
    for index in range(len(corners)):
        for group in groups:
            extents = np.ptp([corners[i] for i in (*group, index)], axis=0) + roi_size
            if (extents <= window_size).all():
                group.append(index)
                break
        else:
            groups.append([index])
    last = np.subtract(volume_size, window_size)
    windows = []
    for group in groups:
        own = np.array([corners[i] for i in group])
        middle = (own.min(axis=0) + own.max(axis=0) + roi_size) // 2
        start = (middle - np.floor_divide(window_size, 2)) // POOLING_VOX * POOLING_VOX
        start = np.clip(start, own.max(axis=0) + roi_size - window_size, own.min(axis=0))  # it still holds the ROIs
        windows.append((np.clip(start, 0, last).tolist(), group))
    return windows

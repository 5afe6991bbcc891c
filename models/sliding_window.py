"""Sliding windows over a volume, blended smoothly."""

import os
import tempfile
from collections.abc import Callable, Sequence

import torch

from utils.errors import UserError

Allocator = Callable[[Sequence[int], torch.device], torch.Tensor]


def memmap_above(limit_bytes: float) -> Allocator:
    """A function that makes float32 volumes of zeros: on the device if they are small enough, else on disk.

    The file has no name and vanishes with the volume, also when the process is killed.

    Args:
        limit_bytes: size beyond which a volume goes to disk, in the folder that TMPDIR names.
    """

    def new_volume(shape: Sequence[int], device: torch.device) -> torch.Tensor:
        size = torch.Size(shape)
        num_bytes = size.numel() * torch.float32.itemsize
        if num_bytes <= limit_bytes:
            return torch.zeros(size, device=device)
        descriptor, path = tempfile.mkstemp(prefix="focusnet_")
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)  # a full disk is an error now, not a crash later
            return torch.from_file(path, shared=True, size=size.numel(), dtype=torch.float32).reshape(size)
        finally:
            os.close(descriptor)
            os.unlink(path)

    return new_volume


Box = tuple[slice, slice, slice]

OVERLAP = 0.375
"""Share of a window that its neighbour covers too; on OpenKBP as good as half: docs/performance.md."""

EDGE_WEIGHT = 0.02
"""Smallest blending weight: positive, so that a voxel seen only at a window's edge is still defined."""


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """Evenly spread starts of windows along one axis.

    Args:
        size: voxels of the volume.
        window: voxels of the window.
        overlap: smallest share of a window that its neighbour covers too, 0 to below 1.

    Returns:
        Starts from 0 to size - window; [0] if the window covers the axis.

    Raises:
        UserError: overlap out of range.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"overlap: expected 0 to below 1, got {overlap}")
    room = max(0, size - window)
    stride = max(1, int(window * (1 - overlap)))
    count = -(-room // stride) + 1
    return [round(i * room / max(1, count - 1)) for i in range(count)]


def window_starts_from_end(size: int, window: int, overlap: float) -> list[int]:
    """Starts of as many windows as `window_starts` has, the last ones where they are in a volume of any other size.

    Along z they begin at the head: how far a scan reaches down does not move the windows above.
    """
    stride = max(1, int(window * (1 - overlap)))
    last = max(0, size - window)
    return sorted({max(0, last - i * stride) for i in range(len(window_starts(size, window, overlap)))})


def window_boxes(volume_size: Sequence[int], window_size: Sequence[int], overlap: float) -> list[Box]:
    """Boxes of windows that cover a volume which is at least as large as the window."""
    methods = (window_starts_from_end, window_starts, window_starts)
    z_starts, y_starts, x_starts = (
        starts(size, window, overlap) for starts, size, window in zip(methods, volume_size, window_size, strict=True)
    )
    starts = ((z, y, x) for z in z_starts for y in y_starts for x in x_starts)
    return [tuple(slice(a, a + n) for a, n in zip(start, window_size, strict=True)) for start in starts]


def blending_weight(window_size: Sequence[int]) -> torch.Tensor:
    """Weights that fall from 1 at a window's middle to `EDGE_WEIGHT` at its corners, as a cosine bell.

    Returns:
        (d, h, w) float32.
    """
    weight = torch.ones(())
    for size in window_size:
        position = (torch.arange(size) + 0.5) / size
        weight = weight[..., None] * torch.sin(torch.pi * position)
    return weight.clamp_min(EDGE_WEIGHT)


def blend_windows(
    volume: torch.Tensor,
    window_size: Sequence[int],
    boxes: Sequence[Box],
    predict: Callable[[torch.Tensor], torch.Tensor],
    *,
    num_channels: int,
    batch_size: int = 1,
    new_volume: Allocator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a function to windows and average its results where they overlap.

    Args:
        volume: (C, D, H, W).
        window_size: (d, h, w).
        boxes: of the windows.
        predict: (B, C, d, h, w) to (B, K, d, h, w).
        num_channels: K.
        batch_size: windows that are handed to `predict` at once.
        new_volume: makes the result; None puts it on the volume's device.

    Returns:
        (K, D, H, W) float32, 0 where no window lies, and (D, H, W) bool, where one does.
    """
    new_volume = new_volume or (lambda shape, device: torch.zeros(shape, device=device))
    blended = new_volume((num_channels, *volume.shape[1:]), volume.device)
    total = torch.zeros(volume.shape[1:], device=blended.device)
    weight = blending_weight(window_size).to(volume.device)
    for first in range(0, len(boxes), batch_size):
        batch = boxes[first : first + batch_size]
        results = predict(torch.stack([volume[:, *box] for box in batch])).float()
        for box, result in zip(batch, results, strict=True):
            blended[:, *box] += (result * weight).to(blended.device)
            total[box] += weight.to(blended.device)
    seen = total > 0
    return blended.div_(total.clamp_min_(EDGE_WEIGHT)), seen

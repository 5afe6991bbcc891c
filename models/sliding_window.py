"""Sliding windows over a volume, and the blending of their results."""

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from utils.config.preset import POOLING_VOX
from utils.errors import UserError
from utils.runtime.device import copy_to

Box = tuple[slice, slice, slice]

OVERLAP = 0.375
"""Fraction of a window that its neighbor covers too; on OpenKBP as good as one half: docs/performance.md."""

EDGE_WEIGHT = 0.02
"""Smallest blending weight. It is positive, so that a voxel that only window edges cover is still defined."""


def box_at(corner: Sequence[int], size: Sequence[int]) -> Box:
    """The box of a size (d, h, w) at its lowest corner (z, y, x)."""
    return tuple(slice(start, start + extent) for start, extent in zip(corner, size, strict=True))


def pad_at_end(volume: torch.Tensor, size: Sequence[int], value: float = 0) -> torch.Tensor:
    """Extend a volume (D, H, W) at the end of each axis to at least a size (d, h, w)."""
    z, y, x = (max(0, wanted - extent) for extent, wanted in zip(volume.shape, size, strict=True))
    return F.pad(volume, [0, x, 0, y, 0, z], value=value)


def window_starts(size: int, window: int, overlap: float, pooling: int = 1) -> list[int]:
    """Evenly spaced starts of windows along one axis, symmetric if the size is that of the window or even times more.

    Args:
        size: voxels of the volume.
        window: voxels of the window.
        overlap: smallest fraction of a window that its neighbor covers too, 0 to below 1; half a pooled voxel less is
            allowed.
        pooling: the windows start at multiples of it, but for the last one.

    Returns:
        Starts from 0 to size - window; [0] if the window covers the axis.

    Raises:
        UserError: the overlap is out of range.
    """
    if not 0 <= overlap < 1:
        raise UserError(f"--overlap: expected 0 <= overlap < 1, got {overlap}")
    last = max(0, size - window)
    stride = max(1, int(window * (1 - overlap)))
    count = 1 + max(math.ceil((last - pooling // 2) / stride), int(last > 0))
    inner = [pooling * round(i * last / (count - 1) / pooling) for i in range(1, count - 1)]
    return [0, *inner, last] if last else [0]


def window_starts_from_end(size: int, window: int, overlap: float, pooling: int = 1) -> list[int]:
    """Window starts counted from the end of the axis, as many as `window_starts` returns.

    Along z the end is the top of the head: the topmost windows stay at the same distance from it however far the scan
    extends caudally.
    """
    stride = max(pooling, int(window * (1 - overlap)) // pooling * pooling)
    nearly_first = pooling // 2 * 2  # so close to the first window, another one would add nothing
    return [*range(size - window, nearly_first, -stride), 0][::-1]


def window_boxes(volume_size: Sequence[int], window_size: Sequence[int], overlap: float) -> list[Box]:
    """Boxes of windows that cover a volume; the volume is at least as large as a window."""
    methods = (window_starts_from_end, window_starts, window_starts)
    z_starts, y_starts, x_starts = (
        starts(size, window, overlap, pooling)
        for starts, size, window, pooling in zip(methods, volume_size, window_size, POOLING_VOX, strict=True)
    )
    return [box_at((z, y, x), window_size) for z in z_starts for y in y_starts for x in x_starts]


def blending_weight(window_size: Sequence[int]) -> torch.Tensor:
    """Weights (d, h, w), float32: a cosine bell from 1 at the center of a window to `EDGE_WEIGHT` at its corners."""
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
    limit_bytes: float = math.inf,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a function to one window after the other and average its results where they overlap.

    Args:
        volume: (C, D, H, W).
        window_size: (d, h, w).
        boxes: of the windows.
        predict: maps (1, C, d, h, w) to (1, K, d, h, w).
        num_channels: K.
        limit_bytes: a larger result is kept in a file, see `allocate_zeros`.

    Returns:
        (K, D, H, W) float32, 0 where no window lies; and (D, H, W) bool, whether a window lies there.
    """
    blended = allocate_zeros((num_channels, *volume.shape[1:]), volume.device, limit_bytes)
    total = torch.zeros(volume.shape[1:], device=blended.device)
    weight = blending_weight(window_size)
    weight_of_result, weight_of_total = copy_to(weight, volume.device), copy_to(weight, total.device)
    for box in boxes:
        result = predict(volume[None, :, *box])[0].float()
        blended[:, *box].add_((result * weight_of_result).to(blended.device))  # a GPU's host waits if that is the CPU
        total[box].add_(weight_of_total)
    covered = total > 0
    return blended.div_(total.clamp_min_(EDGE_WEIGHT)), covered


def allocate_zeros(shape: Sequence[int], device: torch.device, limit_bytes: float) -> torch.Tensor:
    """A float32 volume of zeros: on the device, or if it is larger than the limit, in a file in the folder of TMPDIR.

    The file vanishes with the volume, even if the process is killed.
    """
    num_bytes = math.prod(shape) * torch.float32.itemsize
    if num_bytes <= limit_bytes:
        return torch.zeros(*shape, device=device)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):  # a full disk then fails here, not in the middle of the prediction
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        elif num_bytes > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir())
        return torch.from_numpy(np.memmap(file, dtype=np.float32, shape=tuple(shape)))

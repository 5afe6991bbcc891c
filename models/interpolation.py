"""Linear interpolation of a volume onto a grid of another spacing, on any device."""

import torch

SAME_STEP = 1e-3
"""A step nearer to 1 is none."""


def resize_linear(volume: torch.Tensor, box: tuple[slice, slice, slice], step_zyx: tuple[float, ...]) -> torch.Tensor:
    """Resample a part of a volume's extent along each axis in turn.

    Output voxel i lies at input index (i + 0.5) * step - 0.5: grids are aligned at the outer edge of their first voxel,
    as in data_preprocess/resample.py.

    Args:
        volume: (..., D, H, W) float.
        box: the output voxels wanted, counted on a grid that begins where the volume does; starts and stops are given.
        step_zyx: output spacing / input spacing.

    Returns:
        (..., d, h, w), the box; beyond the volume its border is repeated.
    """
    for axis, (wanted, step) in enumerate(zip(box, step_zyx, strict=True), start=-3):
        length = volume.shape[axis]
        if abs(step - 1) < SAME_STEP and wanted.stop <= length:
            volume = volume.narrow(axis, wanted.start, wanted.stop - wanted.start)
            continue
        index = torch.arange(wanted.start, wanted.stop, device=volume.device)
        position = ((index + 0.5) * step - 0.5).clamp(0, length - 1)
        low = position.floor().long()
        high = (low + 1).clamp_max(length - 1)
        share = (position - low).to(volume.dtype).reshape(-1, *[1] * (-axis - 1))
        volume = torch.lerp(volume.index_select(axis, low), volume.index_select(axis, high), share)
    return volume

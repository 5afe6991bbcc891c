"""Linear interpolation of a volume onto a grid of another spacing, on any device."""

import torch


def resize_linear(volume: torch.Tensor, size_zyx: tuple[int, int, int], step_zyx: tuple[float, ...]) -> torch.Tensor:
    """Resample along each axis in turn.

    Output voxel i lies at input index (i + 0.5) * step - 0.5: grids are aligned at the outer edge of their first voxel,
    as in data_preprocess/resample.py.

    Args:
        volume: (..., D, H, W) float.
        size_zyx: (D', H', W') of the result.
        step_zyx: output spacing / input spacing.

    Returns:
        (..., D', H', W'); beyond the volume its border is repeated.
    """
    for axis, (size, step) in enumerate(zip(size_zyx, step_zyx, strict=True), start=-3):
        length = volume.shape[axis]
        if size == length and abs(step - 1) < 1e-3:
            continue
        position = ((torch.arange(size, device=volume.device) + 0.5) * step - 0.5).clamp(0, length - 1)
        low = position.floor().long()
        high = (low + 1).clamp_max(length - 1)
        share = (position - low).to(volume.dtype).reshape(-1, *[1] * (-axis - 1))
        volume = torch.lerp(volume.index_select(axis, low), volume.index_select(axis, high), share)
    return volume

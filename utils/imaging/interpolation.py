"""Linear interpolation of a volume onto a grid of another spacing, on any device."""

import torch

SAME_SPACING_TOLERANCE = 1e-3
"""A ratio of spacings this close to 1 counts as 1."""


def resize_linear(
    volume: torch.Tensor,
    box: tuple[slice, slice, slice],
    spacing_ratio_zyx: tuple[float, ...],
    offset_zyx: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Resample a part of a volume's extent, one axis after the other.

    Output voxel i lies at input index (i + 0.5 - offset) * ratio - 0.5.

    Args:
        volume: (..., D, H, W) float.
        box: the wanted voxels of the output grid; every slice has a start and a stop.
        spacing_ratio_zyx: output spacing / input spacing.
        offset_zyx: outer edge of the input in output voxels, from the outer edge of the output.

    Returns:
        (..., d, h, w), the box; beyond the volume its border is repeated.
    """
    for axis, (wanted, ratio, offset) in enumerate(zip(box, spacing_ratio_zyx, offset_zyx, strict=True), start=-3):
        length = volume.shape[axis]
        if abs(ratio - 1) < SAME_SPACING_TOLERANCE and offset == 0 and wanted.stop <= length:
            volume = volume.narrow(axis, wanted.start, wanted.stop - wanted.start)
            continue
        index = torch.arange(wanted.start, wanted.stop, device=volume.device)
        position = ((index + 0.5 - offset) * ratio - 0.5).clamp(0, length - 1)
        low = position.floor().long()
        high = (low + 1).clamp_max(length - 1)
        weight = (position - low).to(volume.dtype).reshape(-1, *[1] * (-axis - 1))
        volume = torch.lerp(volume.index_select(axis, low), volume.index_select(axis, high), weight)
    return volume

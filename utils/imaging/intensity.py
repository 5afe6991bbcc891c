"""HU to network input."""

import torch

from utils.config.preset import IntensitySettings

AIR_HU = -1000


def normalize(image_hu: torch.Tensor, settings: IntensitySettings) -> torch.Tensor:
    """Clip, shift and scale a CT.

    Args:
        image_hu: any shape, any numeric dtype, HU.
        settings: of the preset.

    Returns:
        float32 of the same shape; (HU + 100) / 1000 in the paper.
    """
    low, high = settings.clip_hu
    return (image_hu.float().clamp(low, high) + settings.shift_hu) / settings.scale_hu

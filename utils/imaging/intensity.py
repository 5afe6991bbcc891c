"""Hounsfield units: the values that the program knows, and how a CT becomes the networks' input."""

import torch

from utils.config.preset import IntensitySettings

AIR_HU = -1000
"""Air; what lies beyond a CT is filled with it."""
MIN_TISSUE_HU = -300
"""Tissue is denser; air, lung and most of clothes and couch are less dense."""
PADDING_HU = -1200
"""Scanners fill what they did not image with this or less (-2000, -3024, ...); nothing real is less dense than air."""
SOFT_TISSUE_HU = (-160, 140)
"""Range of fat and muscle."""
BONE_HU = (240, 840)
"""Range of most bone."""
OFFSET_HU = 1024
"""Added by exports that store positive numbers only and lose the rescale intercept."""


def normalize(image_hu: torch.Tensor, settings: IntensitySettings) -> torch.Tensor:
    """Clip, shift and scale a CT in HU, of any shape and dtype, to float32; (HU + 100) / 1000 in the paper."""
    low, high = settings.clip_hu
    return (image_hu.float().clamp(low, high) + settings.shift_hu) / settings.scale_hu

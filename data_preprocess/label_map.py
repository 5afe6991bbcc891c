"""Combines named masks into one label map."""

from collections.abc import Iterable, Mapping

import numpy as np

from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.masks import Mask


def merge_masks(masks: Mapping[str, Mask], preset: Preset, shape: tuple[int, int, int]) -> np.ndarray:
    """Combine the masks of a preset's organs; a voxel of two organs belongs to the smaller one.

    The smaller organ is usually nested in the larger one: the cord in its canal, the lens in the orbit.

    Args:
        masks: structure name, as in the data set, to mask on a grid of the shape.
        preset: organs with their aliases; other structures are left out.
        shape: (D, H, W).

    Returns:
        (D, H, W) uint8, 0 = background, organ i = i + 1.

    Raises:
        UserError: two structures are the same organ.
    """
    label = np.zeros(shape, dtype=np.uint8)
    by_organ = match_organs(masks, preset)
    largest_first = sorted(by_organ, key=lambda organ: np.count_nonzero(masks[by_organ[organ]].voxels), reverse=True)
    for organ in largest_first:
        mask = masks[by_organ[organ]]
        label[mask.box][mask.voxels] = organ + 1
    return label


def match_organs(masks: Iterable[str], preset: Preset) -> dict[int, str]:
    """Map organ indices to names of structures.

    Raises:
        UserError: two structures are the same organ.
    """
    by_organ: dict[int, str] = {}
    for name in masks:
        organ = preset.find_organ(name)
        if organ is not None and organ in by_organ:
            raise UserError(
                f"structures {by_organ[organ]!r} and {name!r} are both {preset.organ_names[organ]}; keep one, "
                "or correct the preset's aliases"
            )
        if organ is not None:
            by_organ[organ] = name
    return by_organ

"""Named masks to one label map."""

from collections.abc import Iterable, Mapping

import numpy as np

from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.masks import Mask


def merge_masks(masks: Mapping[str, Mask], preset: Preset, shape: tuple[int, int, int]) -> np.ndarray:
    """Paint the masks that the preset knows into a label map; where two organs share a voxel the smaller one wins.

    The smaller organ wins because nested structures are drawn inside their hosts: the cord in its canal, the lens in
    the orbit.

    Args:
        masks: structure name, as in the data set, to mask on a grid of the shape.
        preset: its organs' names and aliases say which label a structure gets; others are left out.
        shape: (D, H, W).

    Returns:
        (D, H, W) uint8, 0 = background, organ i = i + 1.

    Raises:
        UserError: two structures claim to be the same organ.
    """
    label = np.zeros(shape, dtype=np.uint8)
    by_organ = match_organs(masks, preset)
    largest_first = sorted(by_organ, key=lambda organ: np.count_nonzero(masks[by_organ[organ]].voxels), reverse=True)
    for organ in largest_first:
        mask = masks[by_organ[organ]]
        label[mask.box][mask.voxels] = organ + 1
    return label


def match_organs(masks: Iterable[str], preset: Preset) -> dict[int, str]:
    """Organ index to the name of its structure.

    Raises:
        UserError: two structures claim to be the same organ.
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

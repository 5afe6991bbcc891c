"""Named masks to one label map."""

from collections.abc import Mapping

import numpy as np

from utils.preset import Preset


def merge_masks(masks: Mapping[str, np.ndarray], preset: Preset, shape: tuple[int, int, int]) -> np.ndarray:
    """Paint the masks that the preset knows into a label map; where two organs share a voxel the smaller one wins.

    The smaller organ wins because nested structures are drawn inside their hosts: the cord in its canal, the lens in
    the orbit.

    Args:
        masks: structure name, as in the data set, to bool (D, H, W).
        preset: its organs' names and aliases say which label a structure gets; others are left out.
        shape: (D, H, W).

    Returns:
        (D, H, W) uint8, 0 = background, organ i = i + 1.

    Raises:
        ValueError: two structures claim to be the same organ.
    """
    by_organ: dict[int, str] = {}
    for name in masks:
        organ = preset.find_organ(name)
        if organ is not None and organ in by_organ:
            raise ValueError(
                f"structures {by_organ[organ]!r} and {name!r} are both {preset.organ_names[organ]}; keep one, "
                "or correct the preset's aliases"
            )
        if organ is not None:
            by_organ[organ] = name
    label = np.zeros(shape, dtype=np.uint8)
    largest_first = sorted(by_organ, key=lambda organ: masks[by_organ[organ]].sum(), reverse=True)
    for organ in largest_first:
        label[masks[by_organ[organ]]] = organ + 1
    return label

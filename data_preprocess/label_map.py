"""Combines named masks into one label map."""

from collections.abc import Mapping

import numpy as np

from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.masks import Mask


def match_organs(masks: Mapping[str, Mask], preset: Preset) -> dict[str, Mask]:
    """The masks of a preset's organs, by the preset's names; other structures are left out.

    Args:
        masks: structure name, as in the data set or as in the preset, to mask.
        preset: organs with their aliases.

    Raises:
        UserError: two structures are the same organ.
    """
    structures: dict[str, str] = {}
    for structure in masks:
        organ = preset.find_organ(structure)
        if organ is None:
            continue
        name = preset.organ_names[organ]
        if name in structures:
            raise UserError(
                f"structures {structures[name]!r} and {structure!r} are both {name}; keep one, or correct the preset's "
                "aliases"
            )
        structures[name] = structure
    return {name: masks[structure] for name, structure in structures.items()}


def merge_masks(masks: Mapping[str, Mask], preset: Preset, shape: tuple[int, int, int]) -> np.ndarray:
    """Combine the masks of a preset's organs; a voxel of two organs belongs to the smaller one.

    The smaller organ is usually nested in the larger one: the cord in its canal, the lens in the orbit.

    Args:
        masks: see `match_organs`; all on one grid.
        preset: organs with their aliases.
        shape: (D, H, W) of the grid.

    Returns:
        (D, H, W) uint8, 0 = background, organ i = i + 1.

    Raises:
        UserError: two structures are the same organ.
    """
    label = np.zeros(shape, dtype=np.uint8)
    organs = match_organs(masks, preset)
    for name in sorted(organs, key=lambda name: np.count_nonzero(organs[name].voxels), reverse=True):
        label[organs[name].box][organs[name].voxels] = preset.organ_names.index(name) + 1
    return label

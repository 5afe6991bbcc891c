"""Whether the small organs of the training cases fit into the boxes that SOS-Net and the AutoEncoder see."""

import logging

import numpy as np

from data_preprocess.cases import Case
from data_preprocess.dataset import CaseFolder
from utils.config.preset import Preset
from utils.errors import UserError
from utils.runtime.distributed import current_distributed_context

MAX_MEASURED = 60
"""Cases whose label maps are read; to read those of all would take long on a slow disk."""
HELD = 0.9
"""Fraction of an organ's cases that the advised size holds."""

logger = logging.getLogger(__name__)


def warn_of_large_organs(cases: CaseFolder, preset: Preset) -> None:
    """Log a warning for each small organ that exceeds `grid.roi_size_vox` in a case, with the size that would do.

    Args:
        cases: of the train split; evenly spread ones are measured if there are many.
        preset: small organs and size of their box.
    """
    if not current_distributed_context().is_rank_zero:
        return
    needed: dict[str, list[np.ndarray]] = {preset.organ_names[organ]: [] for organ in preset.small_organs}
    for index in np.unique(np.linspace(0, len(cases) - 1, min(MAX_MEASURED, len(cases))).round().astype(int)):
        try:
            case = cases[index]
        except UserError:  # a lost case is noticed and replaced in training
            continue
        for name in needed.keys() & case.info.organs.keys():
            needed[name].append(needed_size_vox(case, name))
    box = np.asarray(preset.grid.roi_size_vox)
    for name, sizes in needed.items():
        num_larger = sum(bool((size > box).any()) for size in sizes)
        if num_larger:
            advised = size_that_holds(np.array(sizes), box)
            logger.warning(
                "%s exceeds grid.roi_size_vox %s in %d of %d train cases; SOS-Net cuts it off. %s would hold %.0f %%",
                *(name, box.tolist(), num_larger, len(sizes), advised.tolist(), 100 * HELD),
            )


def needed_size_vox(case: Case, name: str) -> np.ndarray:
    """The smallest box (z, y, x) that holds a contoured organ; the organ's centroid has index `size // 2` in it."""
    voxels = np.argwhere(case.label == case.organ_names.index(name) + 1)
    center = np.floor(np.add(case.info.organs[name].center_vox, 0.5)).astype(int)
    return np.maximum(2 * (center - voxels.min(axis=0)), 2 * (voxels.max(axis=0) - center) + 1)


def size_that_holds(sizes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The size (z, y, x) that holds `HELD` of the `sizes` (N, 3), at least `box` (3,) along each axis.

    Those that exceed the box by the largest factor are left out.
    """
    factors = (sizes / box).max(axis=1)
    held = sizes[np.argsort(factors, kind="stable")[: int(np.ceil(HELD * len(sizes)))]]
    return np.maximum(held.max(axis=0), box)

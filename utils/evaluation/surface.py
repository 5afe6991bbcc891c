"""Distances between the surfaces of two masks, from DeepMind's surface-distance package.

The package's surface elements ("surfels") sit at voxel corners and carry an area, so that percentiles and means do not
depend on how voxels sample the surface. Distances are computed once per pair of masks; every metric derives from them.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import surface_distance

from utils.errors import UserError
from utils.evaluation.metrics import OrganScores
from utils.evaluation.overlap import center_distance_mm, dice, relative_volume_error, volume_ml


class SurfaceScores(NamedTuple):
    """Metrics of two surfaces, in mm except `surface_dice`."""

    hd95_mm: float
    hd_mm: float
    assd_mm: float
    surface_dice: float
    mean_distance_to_reference_mm: float
    mean_distance_to_prediction_mm: float


ONE_EMPTY = SurfaceScores(np.inf, np.inf, np.inf, 0.0, np.inf, np.inf)
BOTH_EMPTY = SurfaceScores(*[np.nan] * 6)


def compare_masks(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], tolerance_mm: float
) -> OrganScores:
    """Measure everything between two masks; crop them to their joint bounding box first, it changes nothing but time.

    Args:
        prediction: bool (D, H, W).
        reference: bool, same shape.
        spacing_zyx_mm: voxel spacing.
        tolerance_mm: of surface Dice.

    Returns:
        All metrics. One mask empty: Dice and surface Dice 0, distances infinite, relative volume error -1 (nothing
        predicted) or infinite (nothing there). Both empty: NaN.

    Raises:
        UserError: the shapes differ, or a mask is not boolean.
    """
    if prediction.shape != reference.shape or prediction.dtype != bool or reference.dtype != bool:
        raise UserError(
            f"expected two boolean masks of one shape, got {prediction.dtype} {prediction.shape} and "
            f"{reference.dtype} {reference.shape}"
        )
    volumes = [volume_ml(mask, spacing_zyx_mm) for mask in (prediction, reference)]
    return OrganScores(
        dice=dice(prediction, reference),
        volume_prediction_ml=volumes[0],
        volume_reference_ml=volumes[1],
        relative_volume_error=relative_volume_error(*volumes),
        center_distance_mm=center_distance_mm(prediction, reference, spacing_zyx_mm),
        **compare_surfaces(prediction, reference, spacing_zyx_mm, tolerance_mm)._asdict(),
    )


def compare_surfaces(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], tolerance_mm: float
) -> SurfaceScores:
    """The surface metrics of two masks.

    Args:
        prediction: bool (D, H, W).
        reference: bool, same shape.
        spacing_zyx_mm: voxel spacing.
        tolerance_mm: of surface Dice.
    """
    empty = [not mask.any() for mask in (prediction, reference)]
    if any(empty):
        return BOTH_EMPTY if all(empty) else ONE_EMPTY
    distances = _surface_distances(reference, prediction, spacing_zyx_mm)
    to_prediction_mm, to_reference_mm = map(float, surface_distance.compute_average_surface_distance(distances))
    return SurfaceScores(
        hd95_mm=float(surface_distance.compute_robust_hausdorff(distances, 95)),
        hd_mm=float(surface_distance.compute_robust_hausdorff(distances, 100)),
        assd_mm=(to_prediction_mm + to_reference_mm) / 2,
        surface_dice=float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        mean_distance_to_reference_mm=to_reference_mm,
        mean_distance_to_prediction_mm=to_prediction_mm,
    )


def _surface_distances(
    reference: np.ndarray, prediction: np.ndarray, spacing_zyx_mm: Sequence[float]
) -> Mapping[str, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package imports scipy.ndimage by its old names
        return surface_distance.compute_surface_distances(reference, prediction, spacing_zyx_mm)

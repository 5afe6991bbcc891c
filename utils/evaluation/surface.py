"""All metrics of two masks, among them the distances between their surfaces (HD95, ASSD, surface Dice).

Distances come from DeepMind's surface-distance package and are computed once per pair of masks. Its surface elements
lie at voxel corners and carry an area, so percentiles and means do not depend on how voxels sample the surface.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import surface_distance

from utils.evaluation.metrics import OrganScores
from utils.evaluation.overlap import centroid_distance_mm, dice, relative_volume_error, volume_ml

DISTANCES = ("hd95_mm", "hd_mm", "assd_mm", "mean_distance_to_reference_mm", "mean_distance_to_prediction_mm")


def score_masks(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], tolerance_mm: float
) -> OrganScores:
    """Compute all metrics of two masks. Cropping both to their common bounding box saves time and changes no value.

    Args:
        prediction: bool (D, H, W).
        reference: bool (D, H, W).
        spacing_zyx_mm: voxel spacing.
        tolerance_mm: of the surface Dice.

    Returns:
        If one mask is empty, Dice and surface Dice are 0, distances are infinite, and the relative volume error is -1
        (empty prediction) or infinite (empty reference). If both are empty, all are NaN, but the volumes are 0.

    Raises:
        ValueError: the shapes differ, or a mask is not boolean.
    """
    if prediction.shape != reference.shape or prediction.dtype != bool or reference.dtype != bool:
        raise ValueError(
            f"expected two boolean masks of one shape, got {prediction.dtype} {prediction.shape} and "
            f"{reference.dtype} {reference.shape}"
        )
    prediction_ml, reference_ml = (volume_ml(mask, spacing_zyx_mm) for mask in (prediction, reference))
    return OrganScores(
        dice=dice(prediction, reference),
        volume_prediction_ml=prediction_ml,
        volume_reference_ml=reference_ml,
        relative_volume_error=relative_volume_error(prediction_ml, reference_ml),
        centroid_distance_mm=centroid_distance_mm(prediction, reference, spacing_zyx_mm),
        **_surface_scores(prediction, reference, spacing_zyx_mm, tolerance_mm),
    )


def _surface_scores(
    prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float], tolerance_mm: float
) -> dict[str, float]:
    is_empty = [not mask.any() for mask in (prediction, reference)]
    if any(is_empty):
        distance_mm, surface_dice = (np.nan, np.nan) if all(is_empty) else (np.inf, 0.0)
        return dict.fromkeys(DISTANCES, distance_mm) | {"surface_dice": surface_dice}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the package uses old names of scipy.ndimage
        distances = surface_distance.compute_surface_distances(reference, prediction, spacing_zyx_mm)
    to_prediction_mm, to_reference_mm = map(float, surface_distance.compute_average_surface_distance(distances))
    return {
        "hd95_mm": float(surface_distance.compute_robust_hausdorff(distances, 95)),
        "hd_mm": float(surface_distance.compute_robust_hausdorff(distances, 100)),
        "assd_mm": (to_prediction_mm + to_reference_mm) / 2,
        "surface_dice": float(surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        "mean_distance_to_reference_mm": to_reference_mm,
        "mean_distance_to_prediction_mm": to_prediction_mm,
    }

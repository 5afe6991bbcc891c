"""Overlap, volume and centers of masks, with numpy alone, so that training's validation can use them.

The scores of empty masks are the same in every metric, also in utils/evaluation/surface.py: both empty is NaN,
one empty is the worst value (0 where 1 is best, infinite where 0 is best). docs/metrics.md lists all of it.
"""

from collections.abc import Sequence

import numpy as np

from utils.errors import UserError


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient 2 |P and R| / (|P| + |R|).

    Args:
        prediction: bool, any shape.
        reference: bool, same shape.

    Returns:
        In [0, 1]; 0 if one mask is empty, NaN if both are.
    """
    sizes = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(prediction & reference)) / sizes if sizes else float("nan")


def dice_per_label(prediction: np.ndarray, reference: np.ndarray, num_labels: int) -> np.ndarray:
    """Dice coefficient of every label of two label maps.

    Args:
        prediction: unsigned integers, any shape, 0 = background.
        reference: the same shape.
        num_labels: labels run from 1 to this.

    Returns:
        (num_labels,) float, in [0, 1]; 0 where one map lacks the label, NaN where both do.

    Raises:
        UserError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise UserError(f"label maps of shapes {prediction.shape} and {reference.shape} cannot be compared")
    agreed = prediction[prediction == reference]
    predicted, true, both = (
        np.bincount(labels.ravel(), minlength=num_labels + 1)[1 : num_labels + 1]
        for labels in (prediction, reference, agreed)
    )
    sizes = predicted + true
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), np.nan)


def volume_ml(mask: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """Volume of a mask's voxels.

    Args:
        mask: bool (D, H, W).
        spacing_zyx_mm: voxel spacing.
    """
    return int(np.count_nonzero(mask)) * float(np.prod(spacing_zyx_mm)) / 1000


def relative_volume_error(prediction_ml: float, reference_ml: float) -> float:
    """(prediction - reference) / reference; infinite for an empty reference, NaN if both are empty."""
    if reference_ml > 0:
        return (prediction_ml - reference_ml) / reference_ml
    return float("inf") if prediction_ml > 0 else float("nan")


def center_distance_mm(prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """Distance between the centroids of two masks.

    Args:
        prediction: bool (D, H, W).
        reference: bool, same shape.
        spacing_zyx_mm: voxel spacing.

    Returns:
        Millimetres; infinite if one mask is empty, NaN if both are.
    """
    empty = [not mask.any() for mask in (prediction, reference)]
    if any(empty):
        return float("nan") if all(empty) else float("inf")
    centers = [np.mean(np.nonzero(mask), axis=1) for mask in (prediction, reference)]
    return float(np.linalg.norm((centers[0] - centers[1]) * np.asarray(spacing_zyx_mm, dtype=float)))

"""Overlap, volume and centroids of masks. Uses numpy only, because validation during training needs it.

Every metric treats empty masks alike. If both are empty, it is NaN. If one is empty, it has its worst value: 0 if 1 is
best, infinite if 0 is best. docs/metrics.md lists all cases.
"""

import math
from collections.abc import Sequence

import numpy as np


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """Dice coefficient 2 |P and R| / (|P| + |R|) of two bool masks of one shape.

    Returns:
        In [0, 1]; 0 if one mask is empty, NaN if both are.
    """
    sizes = int(np.count_nonzero(prediction)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(prediction & reference)) / sizes if sizes else math.nan


def dice_per_label(prediction: np.ndarray, reference: np.ndarray, num_labels: int) -> np.ndarray:
    """Dice coefficient of the labels 1 to `num_labels` of two label maps of unsigned integers, of any shape.

    Returns:
        (num_labels,) float in [0, 1]; 0 if one map lacks the label, NaN if both do.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"cannot compare label maps of different shapes {prediction.shape} and {reference.shape}")
    num_predicted, num_reference, num_both = (
        np.bincount(labels.ravel(), minlength=num_labels + 1)[1 : num_labels + 1]
        for labels in (prediction, reference, prediction[prediction == reference])
    )
    sizes = num_predicted + num_reference
    return np.where(sizes > 0, 2 * num_both / np.maximum(sizes, 1), np.nan)


def volume_ml(mask: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """Volume of a bool (D, H, W) mask in ml."""
    return int(np.count_nonzero(mask)) * float(np.prod(spacing_zyx_mm)) / 1000


def relative_volume_error(prediction_ml: float, reference_ml: float) -> float:
    """(prediction - reference) / reference; infinite if the reference is empty, NaN if both are."""
    if reference_ml > 0:
        return (prediction_ml - reference_ml) / reference_ml
    return math.inf if prediction_ml > 0 else math.nan


def centroid_distance_mm(prediction: np.ndarray, reference: np.ndarray, spacing_zyx_mm: Sequence[float]) -> float:
    """Distance between the centroids of two bool (D, H, W) masks; infinite if one mask is empty, NaN if both are."""
    is_empty = [not mask.any() for mask in (prediction, reference)]
    if any(is_empty):
        return math.nan if all(is_empty) else math.inf
    centroids = [np.mean(np.nonzero(mask), axis=1) for mask in (prediction, reference)]
    return float(np.linalg.norm((centroids[0] - centroids[1]) * np.asarray(spacing_zyx_mm, dtype=float)))

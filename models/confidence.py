"""The networks' confidence in every organ of a prediction, for the report."""

from collections.abc import Callable
from typing import Any

from models.predictor import Prediction, SmallOrganResult
from models.pretrained import Model
from models.shape_plausibility import shape_plausibility
from utils.reporting.organ_report import OrganConfidence

Point = tuple[float, float, float]


def organ_confidences(
    prediction: Prediction, model: Model, world_mm: Callable[[Point], Point]
) -> dict[str, OrganConfidence]:
    """Mean probability, heatmap peak and shape plausibility of every organ, by name.

    Args:
        prediction: on the networks' grid.
        model: that made it.
        world_mm: from a voxel (z, y, x) of that grid to patient coordinates (x, y, z) in mm.
    """
    names = model.preset.organ_names
    label = prediction.label
    values: dict[str, dict[str, Any]] = {name: {} for name in names}
    for value, name in enumerate(names, 1):
        mask = label == value
        if mask.any():
            values[name]["confidence"] = float(prediction.probabilities[value][mask].mean())
    if model.autoencoder is not None:
        for organ in model.preset.small_organs:
            values[names[organ]]["plausibility"] = shape_plausibility(model.autoencoder, label, organ + 1)
    for result in prediction.small_organs:
        values[names[result.organ]] |= {
            "peak": result.peak_value,
            "peak_xyz_mm": world_mm(result.peak_vox),
            "peak_found": result.localized,
            "segmented_by": _segmented_by(result),
        }
    return {name: OrganConfidence(**known) for name, known in values.items()}


def _segmented_by(result: SmallOrganResult) -> str:
    if result.segmented:
        return "SOS-Net"
    reason = "SOS-Net's mask there is empty" if result.localized else "the peak is below the threshold"
    return f"S-Net, since {reason}"

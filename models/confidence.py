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
    label, preset = prediction.label, model.preset
    localized = {result.organ: result for result in prediction.small_organs}
    confidences = {}
    for organ, name in enumerate(preset.organ_names):
        mask = label == organ + 1
        known: dict[str, Any] = {}
        if mask.any():
            known["confidence"] = float(prediction.probabilities[organ + 1][mask].mean())
        if model.autoencoder is not None and organ in preset.small_organs:
            known["plausibility"] = shape_plausibility(model.autoencoder, label, organ + 1)
        if result := localized.get(organ):
            known["peak"], known["peak_xyz_mm"] = result.peak_value, world_mm(result.peak_vox)
            known["peak_found"], known["segmented_by"] = result.localized, _segmented_by(result)
        confidences[name] = OrganConfidence(**known)
    return confidences


def _segmented_by(result: SmallOrganResult) -> str:
    if result.segmented:
        return "SOS-Net"
    reason = "SOS-Net's mask there is empty" if result.localized else "the peak is below the threshold"
    return f"S-Net, since {reason}"

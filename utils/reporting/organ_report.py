"""Size, position, confidence and flags of every organ of a segmentation."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from utils.config.organ_volumes import known_volume
from utils.config.preset import Preset
from utils.imaging.arrangement import Arrangement, Triple
from utils.imaging.geometry import Geometry
from utils.imaging.masks import connected_components

LOW_CONFIDENCE = 0.6
"""Mean probability of an organ's voxels. It is about 0.5 where the organ barely wins against the background."""
IMPLAUSIBLE_DICE = 0.6
"""Dice between a mask and its reconstruction by the shape autoencoder."""
MAX_DISPLACEMENT = 3.0
"""Standard deviations from an organ's usual place, see `Arrangement.displacements`; chosen in docs/experiments.md."""

TOUCHES_BORDER = "touches the border of the scan"
UNUSUAL_VOLUME = "unusual volume"
UNUSUAL_PLACE = "unusual place"


@dataclass(frozen=True, kw_only=True)
class OrganConfidence:
    """The confidence of the networks in an organ."""

    confidence: float | None = None
    """Mean probability of its voxels, 0..1; None if it has none."""
    peak: float | None = None
    """Highest heatmap value, 0..1; None for an organ without a heatmap."""
    peak_xyz_mm: tuple[float, float, float] | None = None
    """Patient coordinates of the peak, LPS."""
    peak_found: bool = True
    """Whether the peak reached the preset's threshold."""
    plausibility: float | None = None
    """Dice between the mask and the autoencoder's reconstruction, 0..1; None without an autoencoder."""
    segmented_by: str = "S-Net"
    """The network whose mask was used."""


def build_organ_report(
    label: np.ndarray,
    geometry: Geometry,
    preset: Preset,
    confidences: Mapping[str, OrganConfidence],
    arrangement: Arrangement,
) -> dict[str, dict[str, Any]]:
    """Measure every organ of the preset and flag those that someone should check.

    Args:
        label: (D, H, W) uint8, on the grid `geometry`.
        geometry: of the CT.
        preset: organs and left/right pairs.
        confidences: by organ name; an organ may be missing.
        arrangement: of the organs in the model's training cases.

    Returns:
        By organ name, the entry of the JSON report; coordinates are (x, y, z) in mm, LPS.
    """
    boxes = ndimage.find_objects(label, max_label=len(preset.organs))
    organs = {}
    for value, (name, box) in enumerate(zip(preset.organ_names, boxes, strict=True), 1):
        confidence = confidences.get(name, OrganConfidence())
        organs[name] = {"label": value, **_measure(label, geometry, value, box), **_confidence_entry(confidence)}
        organs[name]["flags"] = _flags(confidence, box, label.shape)
        if _has_unusual_volume(name, organs[name]):
            organs[name]["flags"].append(UNUSUAL_VOLUME)
    _add_displacements(organs, arrangement)
    for names in preset.left_right_pairs:
        left, right = pair = [organs[name] for name in names]
        if all("center_xyz_mm" in organ for organ in pair) and left["center_xyz_mm"][0] < right["center_xyz_mm"][0]:
            for organ in pair:  # in LPS the left organ has the larger x
                organ["flags"].append("left and right swapped")
    return organs


def centers_and_cut_off(organs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Triple], list[str]]:
    """The centroids (z, y, x) in mm of the organs that were found, and those that the scan may cut off."""
    found = {name: organ for name, organ in organs.items() if organ["num_voxels"]}
    centers_mm = {name: tuple(organ["center_xyz_mm"][::-1]) for name, organ in found.items()}
    return centers_mm, [name for name, organ in found.items() if TOUCHES_BORDER in organ["flags"]]


def _add_displacements(organs: Mapping[str, dict[str, Any]], arrangement: Arrangement) -> None:
    """Add each organ's distance from its usual place to its entry, and a flag if that is large."""
    for name, deviations in arrangement.displacements(*centers_and_cut_off(organs)).items():
        organs[name]["displacement"] = round(deviations, 2)
        if deviations > MAX_DISPLACEMENT:
            organs[name]["flags"].append(UNUSUAL_PLACE)


def _measure(
    label: np.ndarray, geometry: Geometry, value: int, box: tuple[slice, slice, slice] | None
) -> dict[str, Any]:
    if box is None:
        return {"num_voxels": 0, "volume_ml": 0.0, "components": 0}
    mask = label[box] == value
    voxels = int(mask.sum())
    center_vox = np.add([axis.start for axis in box], [np.mean(axis) for axis in np.nonzero(mask)])
    return {
        "num_voxels": voxels,
        "volume_ml": round(voxels * float(np.prod(geometry.spacing_zyx_mm)) / 1000, 3),
        "components": len(connected_components(mask, connectivity=3).sizes),
        "center_xyz_mm": _rounded(geometry.world_mm(tuple(center_vox.tolist()))),
    }


def _confidence_entry(confidence: OrganConfidence) -> dict[str, Any]:
    numbers = {name: getattr(confidence, name) for name in ("confidence", "peak", "plausibility")}
    entry = {"segmented_by": confidence.segmented_by}
    entry |= {name: round(value, 4) for name, value in numbers.items() if value is not None}
    return entry if confidence.peak_xyz_mm is None else {**entry, "peak_xyz_mm": _rounded(confidence.peak_xyz_mm)}


def _flags(
    confidence: OrganConfidence, box: tuple[slice, slice, slice] | None, size_zyx: tuple[int, int, int]
) -> list[str]:
    if box is None:
        return ["not found"]
    is_low = confidence.confidence is not None and confidence.confidence < LOW_CONFIDENCE
    flags = {
        "low confidence": is_low or not confidence.peak_found,
        "implausible shape": confidence.plausibility is not None and confidence.plausibility < IMPLAUSIBLE_DICE,
        TOUCHES_BORDER: any(axis.start == 0 or axis.stop == size for axis, size in zip(box, size_zyx, strict=True)),
    }
    return [flag for flag, applies in flags.items() if applies]


def _has_unusual_volume(name: str, organ: Mapping[str, Any]) -> bool:
    """Whether an organ that was found is too large or too small; the scan may have cut off one at its border."""
    known = known_volume(name)
    if known is None or not organ["num_voxels"] or organ["volume_ml"] in known:
        return False
    return organ["volume_ml"] > known.high_ml or TOUCHES_BORDER not in organ["flags"]


def _rounded(point_mm: tuple[float, float, float]) -> list[float]:
    return [round(value, 2) for value in point_mm]

"""Pseudo-labels: where an organ without contour surely is, surely is not, and may be."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_preprocess.cases import CaseInfo
from data_preprocess.quality_control.outliers import MIN_CASES
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement, robust_deviation
from utils.imaging.geometry import Geometry
from utils.imaging.masks import UNKNOWN_LABEL
from utils.reporting.organ_report import TOUCHES_BORDER, OrganConfidence, build_organ_report

MAX_VOLUME_DEVIATIONS = 2.5
"""Robust standard deviations of the log volume from that of the contoured organs."""


@dataclass(frozen=True, kw_only=True)
class PseudoRule:
    """When and where a prediction stands in for a contour."""

    high: float = 0.7
    """Probability from which on a voxel belongs to the organ."""
    low: float = 0.2
    """Probability below which it does not. Voxels between the two are unknown."""
    min_confidence: float = 0.75
    """Lowest mean probability of the predicted organ's voxels."""

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high < 1 and self.high >= 0.5):
            raise UserError(
                f"--low {self.low:g} --high {self.high:g}: expected 0 < low <= high < 1 and high of at least 0.5"
            )


class UsualVolumes:
    """Volumes of the contoured organs of all cases.

    Args:
        volumes_ml: by organ name.
    """

    @classmethod
    def of_cases(cls, infos: Iterable[CaseInfo]) -> "UsualVolumes":
        """The volumes of all contoured organs."""
        volumes_ml: dict[str, list[float]] = {}
        for info in infos:
            voxel_ml = float(np.prod(info.spacing_zyx_mm)) / 1000
            for name, organ in info.organs.items():
                volumes_ml.setdefault(name, []).append(organ.num_voxels * voxel_ml)
        return cls(volumes_ml)

    def __init__(self, volumes_ml: Mapping[str, Sequence[float]]) -> None:
        enough = {name: np.log(volumes) for name, volumes in volumes_ml.items() if len(volumes) >= MIN_CASES}
        self.median = {name: float(np.median(logs)) for name, logs in enough.items()}
        self.deviation = {name: float(robust_deviation(logs)) for name, logs in enough.items()}

    def is_usual(self, name: str, volume_ml: float) -> bool:
        """Whether an organ could be as large as this; an organ of few cases may have any volume."""
        if name not in self.median:
            return True
        return abs(np.log(volume_ml) - self.median[name]) <= MAX_VOLUME_DEVIATIONS * self.deviation[name]


def doubts(
    label: np.ndarray,
    confidences: Mapping[str, OrganConfidence],
    contoured_centers_mm: Mapping[str, tuple[float, float, float]],
    *,
    preset: Preset,
    arrangement: Arrangement,
    volumes: UsualVolumes,
    rule: PseudoRule,
) -> dict[str, str]:
    """Why a predicted organ cannot stand in for a contour, by name; "" if it can.

    Args:
        label: (D, H, W) uint8, predicted on the networks' grid.
        confidences: of the prediction.
        contoured_centers_mm: centroids (z, y, x) of the contoured organs, from the corner of the grid.
        preset: organs and spacing.
        arrangement: of the organs in the model's training cases.
        volumes: of the contoured organs.
        rule: lowest confidence.
    """
    geometry = Geometry(size_zyx=label.shape, spacing_zyx_mm=preset.grid.spacing_zyx_mm, origin_xyz_mm=(0.0, 0.0, 0.0))
    no_places = Arrangement(())  # places are compared with contours below, which are surer than other predictions
    found = build_organ_report(label, geometry, preset, confidences, no_places)
    return {
        name: _doubt(name, organ, contoured_centers_mm, arrangement, volumes, rule) for name, organ in found.items()
    }


def _doubt(
    name: str,
    organ: Mapping[str, Any],
    contoured_centers_mm: Mapping[str, tuple[float, float, float]],
    arrangement: Arrangement,
    volumes: UsualVolumes,
    rule: PseudoRule,
) -> str:
    if flags := [flag for flag in organ["flags"] if flag != TOUCHES_BORDER]:
        return flags[0]
    if organ.get("confidence", 1.0) < rule.min_confidence:
        return f"confidence below {rule.min_confidence:g}"
    if not volumes.is_usual(name, organ["volume_ml"]):
        return f"{organ['volume_ml']:.3g} ml, unlike contours"
    own = Arrangement([offset for offset in arrangement.offsets if name in (offset.organ, offset.other)])
    centers_mm = {**contoured_centers_mm, name: tuple(organ["center_xyz_mm"][::-1])}
    ends_at_scan = [name] if TOUCHES_BORDER in organ["flags"] else []
    return next(iter(own.contradictions(centers_mm, ends_at_scan)), "")


def pseudo_label(probabilities: np.ndarray, label: np.ndarray, organs: Sequence[int], rule: PseudoRule) -> np.ndarray:
    """Label the voxels that surely belong to organs without contour, and those that may.

    Args:
        probabilities: (organs + 1, D, H, W) in 0..1, background first.
        label: (D, H, W) uint8 of the contours, which are kept.
        organs: indices of the organs to label.
        rule: the probabilities.

    Returns:
        (D, H, W) uint8: organ i is i + 1, `UNKNOWN_LABEL` a voxel that may belong to one of `organs`, 0 any other.
    """
    pseudo = np.zeros_like(label)
    free = label == 0
    for organ in organs:
        pseudo[free & (probabilities[organ + 1] >= rule.low) & (pseudo == 0)] = UNKNOWN_LABEL
    for organ in organs:
        pseudo[free & (probabilities[organ + 1] >= rule.high)] = organ + 1
    return pseudo


class Agreement(NamedTuple):
    """How well a pseudo-label agrees with the contour that it would have replaced."""

    precision: float
    """Fraction of the pseudo-label's voxels that lie in the contour."""
    recall: float
    """Fraction of the contour's voxels that the pseudo-label has."""
    missed: float
    """Fraction of the contour's voxels that the pseudo-label excludes; the rest is unknown."""

    @property
    def dice(self) -> float:
        """Dice of the voxels that belong to the organ for sure."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


def agreement(probability: np.ndarray, label: np.ndarray, organ: int, rule: PseudoRule) -> Agreement:
    """Compare the pseudo-label that an organ would get with its contour.

    Args:
        probability: (D, H, W) of the organ, 0..1; one voxel at least reaches `rule.high`.
        label: (D, H, W) uint8 with the organ's contour.
        organ: its index.
        rule: the probabilities.
    """
    contour = label == organ + 1
    free = contour | (label == 0)
    sure = free & (probability >= rule.high)
    overlap = np.count_nonzero(sure & contour)
    return Agreement(
        precision=overlap / np.count_nonzero(sure),
        recall=overlap / np.count_nonzero(contour),
        missed=np.count_nonzero(contour & (probability < rule.low)) / np.count_nonzero(contour),
    )

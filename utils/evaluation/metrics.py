"""The metrics of an organ in a case, and the definition of each."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class OrganScores:
    """All metrics of a predicted and a reference mask of one organ."""

    dice: float
    hd95_mm: float
    hd_mm: float
    assd_mm: float
    surface_dice: float
    mean_distance_to_reference_mm: float
    mean_distance_to_prediction_mm: float
    volume_prediction_ml: float
    volume_reference_ml: float
    relative_volume_error: float
    centroid_distance_mm: float


class Status(StrEnum):
    """How an organ of a case counts."""

    SCORED = "scored"
    """Both masks have voxels."""
    MISSED = "missed"
    """The reference mask has voxels, the predicted mask is empty."""
    SPURIOUS = "spurious"
    """The reference mask is empty, which says that the organ is absent; the predicted mask has voxels."""
    ABSENT = "absent"
    """Both masks are empty, so no metric is defined."""
    NOT_CONTOURED = "not contoured"
    """The reference has no mask of the organ, so it cannot be scored."""
    NOT_PREDICTED = "not predicted"
    """No case has a predicted mask of the organ, so the method does not claim to segment it."""


COUNTED = (Status.SCORED, Status.MISSED, Status.SPURIOUS)
"""Organs that enter the means; the others are listed below the table."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One organ of one case."""

    case_id: str
    organ: str
    status: Status
    tolerance_mm: float
    scores: OrganScores | None
    """None if the reference has no mask of the organ."""


@dataclass(frozen=True)
class Metric:
    """The name and the definition of a metric."""

    key: str
    """Field of `OrganScores`."""
    label: str
    """Heading without unit."""
    direction: int
    """1 if larger is better, -1 if smaller is better, 0 if values near zero are best."""
    definition: str
    """One sentence for summary.json."""

    @property
    def heading(self) -> str:
        """Label with unit."""
        return f"{self.label} (mm)" if self.key.endswith("_mm") else self.label

    @property
    def digits(self) -> int:
        """Number of decimals in tables."""
        return 2 if self.key.endswith("_mm") else 3


DICE = Metric("dice", "Dice", 1, "2 |P and R| / (|P| + |R|), counted in voxels")
HD95 = Metric(
    "hd95_mm",
    "HD95",
    -1,
    "95th percentile, weighted by surface area, of the distances from every surface element of one mask to the nearest "
    "surface element of the other; the larger of the two directions",
)
HD = Metric("hd_mm", "HD", -1, "the largest distance from a surface element of either mask to the other surface")
ASSD = Metric(
    "assd_mm", "ASSD", -1, "mean of the two directed average surface distances, each weighted by surface area"
)
SURFACE_DICE = Metric(
    "surface_dice", "Surface Dice", 1, "fraction of both surfaces' area within the tolerance of the other surface"
)
VOLUME_ERROR = Metric(
    "relative_volume_error", "Volume error", 0, "(predicted volume - reference volume) / reference volume"
)
CENTROID_DISTANCE = Metric("centroid_distance_mm", "Centroid distance", -1, "distance between the two centroids")

METRICS = (DICE, HD95, HD, ASSD, SURFACE_DICE, VOLUME_ERROR, CENTROID_DISTANCE)
COMPARED_METRICS = (DICE, HD95, ASSD, SURFACE_DICE)
"""Metrics of the printed table and of comparisons."""

"""What is measured of an organ in a case, and how each number is defined."""

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, kw_only=True)
class OrganScores:
    """Everything measured between a predicted and a reference mask of one organ."""

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
    center_distance_mm: float


class Status(StrEnum):
    """What two masks of an organ have to say to each other."""

    SCORED = "scored"
    """Both hold voxels."""
    MISSED = "missed"
    """The reference holds voxels, the prediction none."""
    SPURIOUS = "spurious"
    """The reference says by an empty mask that the organ is not there, the prediction holds voxels."""
    ABSENT = "absent"
    """Both masks are empty: there is nothing to score."""
    NOT_CONTOURED = "not contoured"
    """The reference has no mask of the organ: nobody knows, so nothing is scored."""
    NOT_PREDICTED = "not predicted"
    """The prediction names the organ in no case at all, so it does not claim to segment it."""


COUNTED = (Status.SCORED, Status.MISSED, Status.SPURIOUS)
"""These enter the table; the others are listed below it."""


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """One organ of one case.

    Attributes:
        scores: of every metric; None where the organ is not contoured or not predicted.
    """

    case_id: str
    organ: str
    status: Status
    tolerance_mm: float
    scores: OrganScores | None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as tables name and define it.

    Attributes:
        key: field of `OrganScores`.
        label: heading.
        unit: "mm", "ml" or "".
        digits: decimals in tables.
        better: +1 if larger is better, -1 if smaller is, 0 if the value nearest to zero is.
        definition: one sentence for the record.
    """

    key: str
    label: str
    unit: str
    digits: int
    better: int
    definition: str

    @property
    def heading(self) -> str:
        """Label with unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


METRICS = (
    Metric(
        key="dice", label="Dice", unit="", digits=3, better=1, definition="2 |P and R| / (|P| + |R|), counted in voxels"
    ),
    Metric(
        key="hd95_mm",
        label="HD95",
        unit="mm",
        digits=2,
        better=-1,
        definition="95th percentile, weighted by surface area, of the distances from every surface element of one mask "
        "to the nearest surface element of the other, for either direction; the larger of the two",
    ),
    Metric(
        key="hd_mm",
        label="HD",
        unit="mm",
        digits=2,
        better=-1,
        definition="the largest distance from a surface element of either mask to the other's surface",
    ),
    Metric(
        key="assd_mm",
        label="ASSD",
        unit="mm",
        digits=2,
        better=-1,
        definition="mean of the two directed average surface distances, each weighted by surface area",
    ),
    Metric(
        key="surface_dice",
        label="Surface Dice",
        unit="",
        digits=3,
        better=1,
        definition="share of both surfaces' area that lies within the organ's tolerance of the other surface",
    ),
    Metric(
        key="relative_volume_error",
        label="Volume error",
        unit="",
        digits=3,
        better=0,
        definition="(predicted volume - reference volume) / reference volume",
    ),
    Metric(
        key="center_distance_mm",
        label="Center distance",
        unit="mm",
        digits=2,
        better=-1,
        definition="distance between the two centroids",
    ),
)

COMPARED_METRICS = tuple(metric for metric in METRICS if metric.key in ("dice", "hd95_mm", "assd_mm", "surface_dice"))
"""Those of the table on screen and of comparisons."""

"""Ensembles: the results of models that were trained apart, for example one per fold, are averaged."""

from collections.abc import Sequence

import torch

from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Prediction, SmallOrganResult
from models.roi import read_peaks
from utils.config.preset import Preset


class EnsemblePredictor:
    """Averages the probabilities and heatmaps of several models for the same volume.

    Args:
        members: one or more, without a difference by `ensemble_difference`.
    """

    def __init__(self, members: Sequence[OOMFallbackPredictor]) -> None:
        self.members = tuple(members)
        self.preset = members[0].preset

    @property
    def notes(self) -> list[str]:
        """Changes that the members made so far, for the reports."""
        return list(dict.fromkeys(note for member in self.members for note in member.notes))

    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`. `backbone_label` is that of the first model.

        One member's result is in memory beside the sum. The small organs are those of `average_small_organs`.
        """
        mean = self.members[0].predict(image_hu, inside_fov)
        results = [mean.small_organs]
        for member in self.members[1:]:
            other = member.predict(image_hu, inside_fov)
            mean.probabilities.add_(other.probabilities)
            mean.heatmaps.add_(other.heatmaps)
            results.append(other.small_organs)
        mean.probabilities.div_(len(self.members))
        mean.heatmaps.div_(len(self.members))
        return mean._replace(small_organs=average_small_organs(mean.heatmaps, results))


def average_small_organs(
    heatmaps: torch.Tensor, results: Sequence[Sequence[SmallOrganResult]]
) -> list[SmallOrganResult]:
    """The small organs of an average: with the peak of the averaged heatmaps, localized or segmented if any one is.

    Args:
        heatmaps: (K, D, H, W), averaged.
        results: of every prediction, K each; none without SOS-Net.
    """
    averaged, peaks = [], read_peaks(heatmaps[None])
    for k, same in enumerate(zip(*results, strict=True)):
        position, value = tuple(peaks.position[0, k].tolist()), float(peaks.value[0, k])
        localized, segmented = any(one.localized for one in same), any(one.segmented for one in same)
        averaged.append(SmallOrganResult(same[0].organ, position, value, localized, segmented))
    return averaged


def ensemble_difference(first: OOMFallbackPredictor, other: OOMFallbackPredictor) -> str | None:
    """Why the results of two models cannot be averaged, as "NAME: expected ..., got ..."; None if they can."""
    pairs = zip(_must_agree(first), _must_agree(other), strict=True)
    return next((f"{name}: expected {a}, got {b}" for (name, a), (_, b) in pairs if a != b), None)


def _must_agree(predictor: OOMFallbackPredictor) -> list[tuple[str, str]]:
    preset: Preset = predictor.preset
    networks = ", ".join(name for name, _ in predictor.predictor.network.named_children())
    return [
        ("organs", ", ".join(preset.organ_names)),
        ("small organs", ", ".join(preset.small_organ_names)),
        ("left_right_pairs", "; ".join(", ".join(pair) for pair in preset.left_right_pairs)),
        *((f"grid.{name}", str(value)) for name, value in vars(preset.grid).items()),
        ("networks", networks),
    ]

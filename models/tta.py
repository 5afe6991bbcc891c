"""Test-time augmentation: the CT and its left/right mirror image are segmented and averaged."""

import torch

from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Prediction, SmallOrganResult
from models.roi import find_peaks

LEFT_RIGHT_AXIS = -1


class FlipTTAPredictor:
    """Averages a predictor's results for a volume and for its mirror image, in which paired organs are swapped."""

    def __init__(self, predictor: OOMFallbackPredictor) -> None:
        self.predictor = predictor
        self.notes = predictor.notes

    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`.

        The peak of a small organ is that of the averaged heatmaps. The organ counts as localized, or as segmented by
        SOS-Net, if it is in one of the two images.
        """
        preset, small = self.predictor.preset, self.predictor.preset.small_organs
        own = self.predictor.predict(image_hu, inside_fov)
        flipped_fov = None if inside_fov is None else inside_fov.flip(LEFT_RIGHT_AXIS)
        mirrored = self.predictor.predict(image_hu.flip(LEFT_RIGHT_AXIS), flipped_fov)
        for label, other in enumerate([0, *(organ + 1 for organ in preset.mirrored_organs)]):
            _average(own.probabilities[label], mirrored.probabilities[other])
        partners = [small.index(preset.mirrored_organs[organ]) for organ in small]
        for heatmap, other in zip(own.heatmaps, partners, strict=False):  # there are none without SOL-Net
            _average(heatmap, mirrored.heatmaps[other])
        small_organs, peaks = [], find_peaks(own.heatmaps[None])
        for k, result in enumerate(own.small_organs):
            other = mirrored.small_organs[partners[k]]
            position, value = tuple(peaks.position[0, k].tolist()), float(peaks.value[0, k])
            localized, segmented = result.localized or other.localized, result.segmented or other.segmented
            small_organs.append(SmallOrganResult(result.organ, position, value, localized, segmented))
        return own._replace(small_organs=small_organs)


def _average(own: torch.Tensor, mirrored: torch.Tensor) -> None:
    """Replace a volume by its mean with a mirrored one."""
    own.add_(mirrored.flip(LEFT_RIGHT_AXIS)).mul_(0.5)

"""Test-time augmentation: the CT and its mirror image, segmented both and averaged."""

import torch

from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Prediction, SmallOrganResult
from models.roi import find_peaks

LEFT_RIGHT_AXIS = -1


class FlipTTAPredictor:
    """Averages what a predictor says of a volume and of its left/right mirror image, whose paired organs are swapped.

    Args:
        predictor: of the networks.
    """

    def __init__(self, predictor: OOMFallbackPredictor) -> None:
        self.predictor = predictor

    @property
    def notes(self) -> list[str]:
        """What the predictor gave up so far."""
        return self.predictor.notes

    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`.

        The peak of a small organ is that of the averaged heatmaps; the organ counts as located, or segmented by
        SOS-Net, if it was so in one of the two images.
        """
        preset = self.predictor.preset
        plain = self.predictor.predict(image_hu, inside_fov)
        flipped = None if inside_fov is None else inside_fov.flip(LEFT_RIGHT_AXIS)
        mirrored = self.predictor.predict(image_hu.flip(LEFT_RIGHT_AXIS), flipped)
        partner = preset.mirrored_organs
        small = preset.small_organs
        for label, other in enumerate([0, *(organ + 1 for organ in partner)]):
            _average(plain.probabilities[label], mirrored.probabilities[other])
        for k in range(len(plain.heatmaps)):
            _average(plain.heatmaps[k], mirrored.heatmaps[small.index(partner[small[k]])])
        found = []
        if plain.small_organs:
            peaks = find_peaks(plain.heatmaps[None])
            in_mirror = {organ.organ: organ for organ in mirrored.small_organs}
            for k, own in enumerate(plain.small_organs):
                other = in_mirror[partner[own.organ]]
                place, value = tuple(peaks.position[0, k].tolist()), float(peaks.value[0, k])
                located, segmented = own.located or other.located, own.segmented or other.segmented
                found.append(SmallOrganResult(own.organ, place, value, located, segmented))
        return Prediction(plain.probabilities, plain.backbone_label, plain.heatmaps, found)


def _average(own: torch.Tensor, mirrored: torch.Tensor) -> None:
    """Mean of a volume and a mirrored one, into the first."""
    own.add_(mirrored.flip(LEFT_RIGHT_AXIS)).mul_(0.5)

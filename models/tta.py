"""Test-time augmentation: the CT and its mirror image, on a grid moved by half a voxel, are segmented and averaged."""

import torch

from models.ensemble import EnsemblePredictor, average_small_organs
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Prediction
from utils.config.preset import TTA_MOVE_VOX
from utils.imaging.interpolation import resize_linear

LEFT_RIGHT_AXIS = -1


class TTAPredictor:
    """Averages a predictor's results for a volume and for a mirror image, in which paired organs are swapped.

    A trained network answers differently if the patient moves by a fraction of a voxel. The mirror image therefore lies
    on a grid that is moved by half a voxel, if the caller gives it.
    """

    def __init__(self, predictor: OOMFallbackPredictor | EnsemblePredictor) -> None:
        self.predictor = predictor

    @property
    def notes(self) -> list[str]:
        """Changes made so far, for the reports."""
        return self.predictor.notes

    def predict(
        self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None, moved_hu: torch.Tensor | None = None
    ) -> Prediction:
        """Segment one CT.

        The peak of a small organ is that of the averaged heatmaps. The organ counts as localized, or as segmented by
        SOS-Net, if it is in one of the two images.

        Args:
            image_hu, inside_fov: see `Predictor.predict`.
            moved_hu: the CT on the same grid, moved by `TTA_MOVE_VOX` toward the end of each axis; None mirrors
                `image_hu` itself.
        """
        preset, small = self.predictor.preset, self.predictor.preset.small_organs
        own = self.predictor.predict(image_hu, inside_fov)
        flipped_fov = None if inside_fov is None else inside_fov.flip(LEFT_RIGHT_AXIS)
        second_hu = image_hu if moved_hu is None else moved_hu
        mirrored = self.predictor.predict(second_hu.flip(LEFT_RIGHT_AXIS), flipped_fov)
        move_vox = 0.0 if moved_hu is None else TTA_MOVE_VOX
        for label, other in enumerate([0, *(organ + 1 for organ in preset.mirrored_organs)]):
            _average(own.probabilities[label], mirrored.probabilities[other], move_vox)
        partners = [small.index(preset.mirrored_organs[organ]) for organ in small]
        for heatmap, other in zip(own.heatmaps, partners, strict=False):  # there are none without SOL-Net
            _average(heatmap, mirrored.heatmaps[other], move_vox)
        in_order = [mirrored.small_organs[k] for k in partners] if mirrored.small_organs else []
        small_organs = average_small_organs(own.heatmaps, [own.small_organs, in_order])
        return own._replace(small_organs=small_organs)


def _average(own: torch.Tensor, mirrored: torch.Tensor, move_vox: float) -> None:
    """Replace a volume by its mean with a mirrored one, whose grid is moved."""
    whole = tuple(slice(0, n) for n in own.shape)
    flipped = resize_linear(mirrored.flip(LEFT_RIGHT_AXIS), whole, (1.0, 1.0, 1.0), (move_vox,) * 3)
    own.add_(flipped).mul_(0.5)

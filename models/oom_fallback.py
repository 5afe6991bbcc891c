"""Go on with less where a GPU's memory does not suffice."""

import logging

import torch

from models.predictor import Prediction, Predictor
from utils.runtime.device import Compute

logger = logging.getLogger(__name__)


class OOMFallbackPredictor:
    """Predicts on the device; out of a GPU's memory with smaller batches of windows, then on the CPU, which it says.

    What was given up stays given up: the cases that follow are as large.

    Args:
        predictor: whose network and context it replaces.
        on_cpu: where to go on.
    """

    def __init__(self, predictor: Predictor, on_cpu: Compute) -> None:
        self.predictor = predictor
        self.preset = predictor.preset
        self.on_cpu = on_cpu
        self.is_on_cpu = False
        self.notes: list[str] = []
        """What was given up so far."""

    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`.

        Raises:
            torch.OutOfMemoryError: nothing is left to give up.
        """
        while True:
            try:
                return self.predictor.predict(image_hu, inside_fov)
            except torch.OutOfMemoryError:
                if self.is_on_cpu:
                    raise
            self._give_up()  # outside of the handler, which keeps the failed prediction's tensors alive

    def _give_up(self) -> None:
        predictor = self.predictor
        if predictor.batch_size > 1:
            predictor.batch_size = max(1, predictor.batch_size // 2)
            note = f"out of GPU memory: went on with {predictor.batch_size} windows at once"
        else:
            self.is_on_cpu = True
            predictor.network, predictor.autocast = self.on_cpu.place(predictor.network), self.on_cpu.autocast()
            note = "out of GPU memory: went on on the CPU"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notes.append(note)
        logger.warning("%s", note)

"""Go on with less where a GPU's memory does not suffice."""

import logging

import torch

from models.predictor import Prediction, Predictor
from utils.compute import Compute

logger = logging.getLogger(__name__)


class CautiousPredictor:
    """Predicts on the device; out of a GPU's memory on the CPU, which it says.

    What was given up stays given up: the cases that follow are as large.

    Args:
        predictor: whose network and context it replaces.
        on_cpu: where to go on.
    """

    def __init__(self, predictor: Predictor, on_cpu: Compute) -> None:
        self.predictor = predictor
        self.preset = predictor.preset
        self.on_cpu = on_cpu
        self.notes: list[str] = []
        """What was given up so far."""

    def predict(self, image_hu: torch.Tensor, scanned: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`.

        Raises:
            torch.OutOfMemoryError: nothing is left to give up.
        """
        while True:
            try:
                return self.predictor.predict(image_hu, scanned)
            except torch.OutOfMemoryError:
                if not self._can_give_up():
                    raise
            self._give_up()  # outside of the handler, which keeps the failed prediction's tensors alive

    def _can_give_up(self) -> bool:
        return not self.notes

    def _give_up(self) -> None:
        self.predictor.network = self.on_cpu.place(self.predictor.network)
        self.predictor.autocast = self.on_cpu.autocast()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notes.append("out of GPU memory: went on on the CPU")
        logger.warning("%s", self.notes[-1])

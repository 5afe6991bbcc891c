"""Prediction that continues on the CPU if a GPU runs out of memory."""

import logging

import torch

from models.predictor import Prediction, Predictor
from utils.runtime.device import Compute

logger = logging.getLogger(__name__)


class OOMFallbackPredictor:
    """Predicts on the GPU until it runs out of memory, then on the CPU, and logs that.

    It does not return to the GPU, because the following cases are about as large.

    Args:
        predictor: its network moves to the CPU when the GPU runs out of memory.
        cpu: device and precision to continue with.
    """

    def __init__(self, predictor: Predictor, cpu: Compute) -> None:
        self.predictor = predictor
        self.preset = predictor.preset
        self.cpu = cpu
        self.notes: list[str] = []
        """Changes made so far, for the reports."""

    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT; see `Predictor.predict`.

        Raises:
            torch.OutOfMemoryError: the memory does not suffice on the CPU either.
        """
        try:
            return self.predictor.predict(image_hu, inside_fov)
        except torch.OutOfMemoryError:
            if self.notes:
                raise
        self._move_to_cpu()  # outside of the handler, which keeps the tensors of the failed prediction alive
        return self.predictor.predict(image_hu, inside_fov)

    def _move_to_cpu(self) -> None:
        self.predictor.network, self.predictor.autocast = self.cpu.place(self.predictor.network), self.cpu.autocast()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.notes.append("out of GPU memory: continued on the CPU")
        logger.warning("%s", self.notes[-1])

"""The baseline of the benchmarks: straightforward implementations with the same results.

The rest of the baseline is in benchmarks/tasks.py: contiguous float32 tensors and windows that overlap by one half.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.segmentation import SegmentationLoss, SegmentationTerms
from utils.imaging.interpolation import resize_linear


class OneHotLoss(SegmentationLoss):
    """`SegmentationLoss` with one-hot tensors, for samples in which every organ is contoured."""

    def forward(self, logits: Tensor, label: Tensor, present: Tensor) -> SegmentationTerms:
        """See `SegmentationLoss.forward`."""
        probability = logits.softmax(1)
        target = F.one_hot(label.long(), logits.shape[1]).movedim(-1, 1).float()
        alpha = self.focal_alpha[None, :, None, None, None]
        log_probability = probability.clamp_min(1e-12).log()
        focal = -(alpha * target * (1 - probability) ** self.focal_gamma * log_probability).sum(1).mean()
        overlap = (probability * target).sum((0, 2, 3, 4))
        false_positive = (probability * (1 - target)).sum((0, 2, 3, 4))
        false_negative = ((1 - probability) * target).sum((0, 2, 3, 4))
        a = (false_positive / (false_positive + false_negative).clamp(min=1e-6)).clamp(0.2, 0.8).detach()
        similarity = overlap / (overlap + a * false_positive + (1 - a) * false_negative).clamp(min=1e-6)
        in_batch = target.sum((0, 2, 3, 4)) > 0
        dice = ((1 - similarity) * in_batch).sum() / in_batch.sum()
        return SegmentationTerms(focal + self.dice_weight * dice, focal, dice)


def resample_to_label_map(
    probabilities: Tensor, size_zyx: tuple[int, int, int], spacing_ratio_zyx: tuple[float, ...]
) -> Tensor:
    """`data_preprocess.inference_transform.resample_to_label_map` with every class resampled over the whole volume."""
    whole = tuple(slice(0, n) for n in size_zyx)
    on_grid = [resize_linear(probability, whole, spacing_ratio_zyx) for probability in probabilities]
    return torch.stack(on_grid).argmax(dim=0).byte()

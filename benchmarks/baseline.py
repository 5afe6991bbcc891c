"""The baseline of the benchmarks: straightforward implementations of the same steps.

The rest of the baseline is in benchmarks/tasks.py: contiguous float32 tensors and windows that overlap by one half.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import surface_distance
import torch
import torch.nn.functional as F
from torch import Tensor

from data_preprocess.resample import whole_volume
from data_preprocess.sources import RawCase
from losses.segmentation import SegmentationLoss, SegmentationTerms
from utils.imaging.interpolation import resize_linear
from utils.io.volumes import Volume, read_volume, to_sitk
from utils.runtime.device import Compute
from utils.training.optimization import Optimizers


class BaselineCompute(Compute):
    """A device whose convolutions are not in channels-last order."""

    def place(self, network: torch.nn.Module) -> torch.nn.Module:
        """Move a network to the device."""
        return network.to(self.device)


class PlainOptimizers(Optimizers):
    """Optimizers that are not fused; the host waits to learn whether the gradients are finite."""

    def step(self, names: Sequence[str], allowed: Tensor) -> Tensor:
        """See `Optimizers.step`."""
        optimizers = [self.by_network[name] for name in names]
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        gradients = [weight.grad for group in groups for weight in group["params"] if weight.grad is not None]
        is_made = allowed & torch.nn.utils.get_total_norm(gradients).isfinite()
        for group in groups:
            group["fused"] = False
        for optimizer in optimizers if is_made else ():
            optimizer.step()
        return is_made


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
    probabilities: Tensor, size_zyx: tuple[int, int, int], *to_output: tuple[float, float, float]
) -> Tensor:
    """`data_preprocess.inference_transform.resample_to_label_map` with every class resampled over the whole volume."""
    whole = tuple(slice(0, n) for n in size_zyx)
    on_grid = [resize_linear(probability, whole, *to_output) for probability in probabilities]
    return torch.stack(on_grid).argmax(dim=0).byte()


def resample_case(raw: RawCase, spacing_zyx_mm: tuple[float, float, float], folder: Path) -> None:
    """Resample a CT and each of its masks as a whole, and write image.npy and label.npy."""
    own = raw.geometry
    size = whole_volume(own.size_zyx, own.spacing_zyx_mm, spacing_zyx_mm).size_zyx

    def resample(array: np.ndarray, method: int) -> np.ndarray:
        image = to_sitk(Volume(array=array, geometry=own))
        grid = image.GetOrigin(), spacing_zyx_mm[::-1], image.GetDirection()
        return sitk.GetArrayFromImage(sitk.Resample(image, size[::-1], sitk.Transform(), method, *grid))

    np.save(folder / "image.npy", resample(raw.volume.array, sitk.sitkLinear))
    label = np.zeros(size, dtype=np.uint8)
    for value, mask in enumerate(raw.masks.values(), 1):
        label[resample(mask.dense(), sitk.sitkNearestNeighbor) > 0] = value
    np.save(folder / "label.npy", label)


def score_masks(
    reference: np.ndarray, prediction: np.ndarray, spacing_zyx_mm: tuple[float, float, float], tolerance_mm: float
) -> dict[str, float]:
    """Call the surface-distance package on whole masks, bool (D, H, W) with a voxel each; scores named as ours."""
    distances = surface_distance.compute_surface_distances(reference, prediction, spacing_zyx_mm)
    to_prediction, to_reference = surface_distance.compute_average_surface_distance(distances)
    return {
        "dice": surface_distance.compute_dice_coefficient(reference, prediction),
        "hd95_mm": surface_distance.compute_robust_hausdorff(distances, 95),
        "hd_mm": surface_distance.compute_robust_hausdorff(distances, 100),
        "assd_mm": (to_prediction + to_reference) / 2,
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm),
        "mean_distance_to_prediction_mm": to_prediction,
        "mean_distance_to_reference_mm": to_reference,
    }


def score_labels(prediction: Path, reference: Path) -> None:
    """Compute the scores of each organ of a label map."""
    predicted, expected = (read_volume(path) for path in (prediction, reference))
    for label in np.unique(expected.array)[1:]:
        score_masks(expected.array == label, predicted.array == label, expected.geometry.spacing_zyx_mm, 2.0)

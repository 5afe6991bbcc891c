"""A whole CT in, class probabilities and found small organs out; validation and inference share it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.focusnet import FocusNet, Location
from models.roi import find_peaks
from utils.intensity import AIR_HU, normalize
from utils.preset import Preset
from utils.resize import resize_linear
from utils.scratch import NewVolume
from utils.sliding_window import blend_windows

Box = tuple[slice, slice, slice]


class SmallOrgan(NamedTuple):
    """Where SOL-Net saw a small organ, and whether SOS-Net segmented it there; if not, S-Net's voxels were kept."""

    organ: int
    """Index in the preset."""
    peak_vox: tuple[int, int, int]
    """(z, y, x) of the highest heatmap value in the whole volume."""
    peak_value: float
    """0..1."""
    located: bool
    """Whether the peak reaches the preset's threshold."""
    segmented: bool
    """Whether it was located and SOS-Net's mask there is not empty."""


class Prediction(NamedTuple):
    """What FocusNet says of a volume, on the network's grid."""

    probabilities: torch.Tensor
    """(num_classes, D, H, W) float32, sums to 1; small organs merged in."""
    backbone_label: torch.Tensor
    """(D, H, W) uint8: S-Net alone."""
    heatmaps: torch.Tensor
    """(K, D, H, W) float32 in 0..1; K = 0 without SOL-Net."""
    small_organs: list[SmallOrgan]
    """One per small organ; empty without SOS-Net."""

    @property
    def label(self) -> torch.Tensor:
        """(D, H, W) uint8: the merged segmentation."""
        return self.probabilities.argmax(dim=0).byte()


class Predictor:
    """Sliding-window S-Net and SOL-Net, then one SOS-Net ROI per small organ around its peak in the whole volume.

    Args:
        network: FocusNet with at least S-Net; its device is where windows are computed.
        preset: grid, intensity, heatmap threshold.
        overlap: share of a window that its neighbour covers too.
        autocast: context in which the networks run, for mixed precision.
        new_volume: makes the blended probabilities; None puts them on the network's device.
    """

    def __init__(
        self,
        network: FocusNet,
        preset: Preset,
        *,
        overlap: float = 0.25,
        autocast: AbstractContextManager,
        new_volume: NewVolume | None = None,
    ) -> None:
        self.network = network
        self.preset = preset
        self.overlap = overlap
        self.autocast = autocast
        self.new_volume = new_volume

    @torch.no_grad()
    def predict(self, image_hu: torch.Tensor, scanned: torch.Tensor | None = None) -> Prediction:
        """Segment one CT.

        Args:
            image_hu: (D, H, W) at the preset's spacing, any size: smaller than a window is padded with air.
            scanned: (D, H, W) bool, the voxels that the scanner saw; no small organ is sought in what was added around.

        Raises:
            RuntimeError: a network is in training mode, whose batch statistics would leak between windows.
        """
        if any(module.training for module in self.network.modules()):
            raise RuntimeError("call eval() on the network before predicting")
        window = self.preset.grid.crop_size_vox
        device = next(self.network.parameters()).device
        padding = [max(0, w - n) for n, w in zip(image_hu.shape, window, strict=True)]
        padded_hu = F.pad(image_hu.to(device).float(), [0, padding[2], 0, padding[1], 0, padding[0]], value=AIR_HU)
        image = normalize(padded_hu, self.preset.intensity)[None]  # (1, D, H, W)
        num_classes = self.preset.num_classes
        blended = blend_windows(image, window, self.overlap, self._predict_window, self.new_volume)
        probabilities, heatmaps = blended[:num_classes], blended[num_classes:]
        unpadded = tuple(slice(0, n) for n in image_hu.shape)
        backbone_label = probabilities.argmax(dim=0).byte()[unpadded]
        heatmaps = heatmaps[:, *unpadded]  # no peak lies in the padding
        if scanned is not None:
            heatmaps = heatmaps * scanned.to(heatmaps.device)
        small_organs = self._segment_small(image, probabilities, heatmaps) if self.network.sos_net is not None else []
        return Prediction(probabilities[:, *unpadded], backbone_label, heatmaps, small_organs)

    def _locate(self, image: torch.Tensor) -> Location:
        with self.autocast:
            return self.network.locate(image.contiguous(memory_format=torch.channels_last_3d))

    def _predict_window(self, image: torch.Tensor) -> torch.Tensor:
        location = self._locate(image)
        return torch.cat([location.logits.float().softmax(dim=1), location.heatmaps.float()], dim=1)

    def _segment_small(
        self, image: torch.Tensor, probabilities: torch.Tensor, heatmaps: torch.Tensor
    ) -> list[SmallOrgan]:
        """Merge each small organ's ROI into `probabilities`, in place."""
        peaks = find_peaks(heatmaps[None])
        found = []
        for k, organ in enumerate(self.preset.small_organs):
            position, value = peaks.position[0, k], float(peaks.value[0, k])
            located, segmented = value >= self.preset.heatmap.peak_threshold, False
            if located:
                roi_probability, box = self._segment_roi(image, position.to(image.device), k)
                segmented = bool(roi_probability.max() > 0.5)
                if segmented:
                    merge_small_organ(probabilities, organ + 1, roi_probability.to(probabilities.device), box)
            found.append(SmallOrgan(organ, tuple(position.tolist()), value, located, segmented))
        return found

    def _segment_roi(self, image: torch.Tensor, peak_vox: torch.Tensor, k: int) -> tuple[torch.Tensor, Box]:
        """Run one window around a peak and the organ's SOS branch in it: (d, h, w) probability and its box."""
        window, roi_size = self.preset.grid.crop_size_vox, self.network.roi_size
        corner = _corner(peak_vox.tolist(), window, image.shape[1:])
        crop = image[None, :, *_box(corner, window)]
        location = self._locate(crop)
        wanted = torch.zeros(1, len(self.preset.small_organs), dtype=torch.bool, device=image.device)
        wanted[0, k] = True
        center = (peak_vox - torch.tensor(corner, device=image.device)).expand(1, wanted.shape[1], 3)
        rois = self.network.place_rois(center, wanted, window)
        with self.autocast:
            logits = self.network.segment_rois(crop, location, rois)
        start = [a + b for a, b in zip(corner, rois.starts[0].tolist(), strict=True)]
        return logits[0, 0].float().sigmoid(), _box(start, roi_size)


def label_on_grid(
    probabilities: torch.Tensor, size_zyx: tuple[int, int, int], step_zyx: tuple[float, ...]
) -> torch.Tensor:
    """Interpolate every class's probability onto another grid and take the likeliest class of each voxel.

    One class at a time, so that memory stays at a few volumes of the result's size.

    Args:
        probabilities: (num_classes, D, H, W).
        size_zyx: (D', H', W') of the result.
        step_zyx: its spacing / the probabilities' spacing.

    Returns:
        (D', H', W') uint8.
    """
    highest = resize_linear(probabilities[0], size_zyx, step_zyx)
    label = torch.zeros(highest.shape, dtype=torch.uint8, device=highest.device)
    for value in range(1, len(probabilities)):
        probability = resize_linear(probabilities[value], size_zyx, step_zyx)
        higher = probability > highest
        label[higher] = value
        highest = torch.where(higher, probability, highest)
    return label


def merge_small_organ(probabilities: torch.Tensor, label: int, roi_probability: torch.Tensor, box: Box) -> None:
    """Replace one organ's probability by SOS-Net's and scale the others so that the sum stays 1, in place.

    Outside of the ROI the organ's probability becomes 0: SOS-Net's answer replaces S-Net's everywhere.

    Args:
        probabilities: (num_classes, D, H, W).
        label: the organ's class.
        roi_probability: (d, h, w) in 0..1.
        box: where the ROI lies.
    """
    probabilities[label] = 0
    others = probabilities.sum(dim=0)
    nothing_else = others < 1e-6
    probabilities[0] += nothing_else  # where S-Net saw nothing else, the rest is background
    scale = 1 / torch.where(nothing_else, 1.0, others)
    scale[box] *= 1 - roi_probability
    probabilities *= scale
    probabilities[label][box] = roi_probability


def _corner(center: Sequence[int], size: Sequence[int], volume_size: Sequence[int]) -> list[int]:
    return [min(max(0, c - s // 2), n - s) for c, s, n in zip(center, size, volume_size, strict=True)]


def _box(start: Sequence[int], size: Sequence[int]) -> Box:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))

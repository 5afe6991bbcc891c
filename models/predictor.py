"""A whole CT in, class probabilities and found small organs out; validation and inference share it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torch.nn.functional as F

from models.focusnet import FocusNet, LocalizationOutput, Rois
from models.postprocessing import argmax_label, remove_small_components
from models.roi import find_peaks, group_rois_into_windows, roi_corners
from models.sliding_window import OVERLAP, Allocator, Box, blend_windows, window_boxes
from utils.config.preset import Preset
from utils.imaging.intensity import AIR_HU, MIN_TISSUE_HU, normalize


class SmallOrganResult(NamedTuple):
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
    small_organs: list[SmallOrganResult]
    """One per small organ; empty without SOS-Net."""

    @property
    def label(self) -> torch.Tensor:
        """(D, H, W) uint8: the merged segmentation."""
        return argmax_label(self.probabilities)


class Predictor:
    """Sliding-window S-Net and SOL-Net, then one SOS-Net ROI per small organ around its peak in the whole volume.

    Args:
        network: FocusNet with at least S-Net; its device is where windows are computed.
        preset: grid, intensity, heatmap threshold.
        overlap: share of a window that its neighbour covers too.
        batch_size: windows that the networks see at once.
        autocast: context in which the networks run, for mixed precision.
        new_volume: makes the blended probabilities; None puts them on the network's device.
    """

    def __init__(
        self,
        network: FocusNet,
        preset: Preset,
        *,
        overlap: float = OVERLAP,
        batch_size: int = 1,
        autocast: AbstractContextManager,
        new_volume: Allocator | None = None,
    ) -> None:
        self.network = network
        self.preset = preset
        self.overlap = overlap
        self.batch_size = batch_size
        self.autocast = autocast
        self.new_volume = new_volume

    @torch.no_grad()
    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
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
        probabilities, heatmaps = self._predict_windows(padded_hu, image)
        unpadded = tuple(slice(0, n) for n in image_hu.shape)
        remove_small_components(probabilities)
        backbone_label = argmax_label(probabilities)[unpadded]
        heatmaps = heatmaps[:, *unpadded]  # no peak lies in the padding
        if inside_fov is not None:
            heatmaps = heatmaps * inside_fov.to(heatmaps.device)
        small_organs = []
        if self.network.sos_net is not None:
            small_organs = self._segment_small(image, probabilities, heatmaps)
            remove_small_components(
                probabilities
            )  # also of large organs, to which voxels fell that were S-Net's small organs
        return Prediction(probabilities[:, *unpadded], backbone_label, heatmaps, small_organs)

    def _locate(self, image: torch.Tensor) -> LocalizationOutput:
        with self.autocast:
            return self.network.locate(image.contiguous(memory_format=torch.channels_last_3d))

    def _predict_windows(self, image_hu: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(num_classes, D, H, W) probabilities and (K, D, H, W) heatmaps, blended; windows without tissue are not run.

        Args:
            image_hu: (D, H, W).
            image: (1, D, H, W), normalized.
        """

        def predict(windows: torch.Tensor) -> torch.Tensor:
            location = self._locate(windows)
            return torch.cat([location.logits.float().softmax(dim=1), location.heatmaps.float()], dim=1)

        window = self.preset.grid.crop_size_vox
        boxes = window_boxes(image_hu.shape, window, self.overlap)
        boxes = [box for box in boxes if image_hu[box].max() >= MIN_TISSUE_HU]  # others show air, clothes or couch
        num_classes = self.preset.num_classes
        num_heatmaps = len(self.preset.small_organs) if self.network.sol_net is not None else 0
        blended, seen = blend_windows(
            image,
            window,
            boxes,
            predict,
            num_channels=num_classes + num_heatmaps,
            batch_size=self.batch_size,
            new_volume=self.new_volume,
        )
        blended[0].masked_fill_(~seen, 1)  # what no window looked at is background
        return blended[:num_classes], blended[num_classes:]

    def _segment_small(
        self, image: torch.Tensor, probabilities: torch.Tensor, heatmaps: torch.Tensor
    ) -> list[SmallOrganResult]:
        """Merge each small organ's ROI into `probabilities`, in place."""
        peaks = find_peaks(heatmaps[None])
        located = (peaks.value[0] >= self.preset.heatmap.peak_threshold).tolist()
        wanted = [k for k, is_there in enumerate(located) if is_there]
        rois = self._segment_rois(image, peaks.position[0].to(image.device), wanted)
        found = []
        for k, organ in enumerate(self.preset.small_organs):
            segmented = False
            if k in rois:
                roi_probability, box = rois[k]
                segmented = bool(roi_probability.max() > 0.5)
                if segmented:
                    s_net, share = probabilities[organ + 1][box], self.preset.roi.sos_blend_weight
                    merged = torch.lerp(s_net, roi_probability.to(probabilities.device), share)
                    merge_small_organ(probabilities, organ + 1, merged, box)
            position, value = tuple(peaks.position[0, k].tolist()), float(peaks.value[0, k])
            found.append(SmallOrganResult(organ, position, value, located[k], segmented))
        return found

    def _segment_rois(
        self, image: torch.Tensor, peaks_vox: torch.Tensor, organs: list[int]
    ) -> dict[int, tuple[torch.Tensor, Box]]:
        """Run S-Net and SOL-Net once more around the peaks, and each organ's SOS branch on what they see there.

        Args:
            image: (1, D, H, W), normalized.
            peaks_vox: (K, 3) long.
            organs: places among the small organs, of those that were located.

        Returns:
            (d, h, w) probability and its box in the volume, by organ.
        """
        window, roi_size = self.preset.grid.crop_size_vox, self.network.roi_size
        starts = roi_corners(peaks_vox[organs], roi_size, image.shape[1:])
        results = {}
        for corner, rows in group_rois_into_windows(starts.tolist(), roi_size, window, image.shape[1:]):
            crop = image[None, :, *_box(corner, window)]
            location = self._locate(crop)
            rois = Rois(
                sample_index=starts.new_zeros(len(rows)),
                organ_index=starts.new_tensor([organs[row] for row in rows]),
                starts=starts[rows] - starts.new_tensor(corner),
            )
            with self.autocast:
                logits = self.network.segment_rois(crop, location, rois)
            for row, logit in zip(rows, logits[:, 0], strict=True):
                results[organs[row]] = logit.float().sigmoid(), _box(starts[row].tolist(), roi_size)
        return results


def merge_small_organ(probabilities: torch.Tensor, label: int, roi_probability: torch.Tensor, box: Box) -> None:
    """Replace one organ's probability and scale the others so that the sum stays 1, in place.

    Outside of the ROI the organ's probability becomes 0.

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


def _box(start: Sequence[int], size: Sequence[int]) -> Box:
    return tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))

"""Prediction of a whole CT: class probabilities and small organs, for validation and inference."""

import math
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch

from models.focusnet import FocusNet, LocalizationOutput
from models.postprocessing import argmax_label, remove_small_components
from models.roi import Peaks, Rois, group_rois_into_windows, read_peaks
from models.sliding_window import OVERLAP, Box, blend_windows, box_at, pad_at_end, window_boxes
from utils.imaging.intensity import AIR_HU, MIN_TISSUE_HU, normalize
from utils.runtime.device import copy_to


class SmallOrganResult(NamedTuple):
    """Where SOL-Net localized a small organ, and whether SOS-Net segmented it; otherwise S-Net's voxels are kept."""

    organ: int
    """Index in the preset."""
    peak_vox: tuple[int, int, int]
    """(z, y, x) of the highest heatmap value in the whole volume."""
    peak_value: float
    """0..1."""
    localized: bool
    """Whether the peak reaches the preset's threshold."""
    segmented: bool
    """Whether it is localized and SOS-Net's mask is not empty."""


class Prediction(NamedTuple):
    """FocusNet's prediction for a volume, on the networks' grid."""

    probabilities: torch.Tensor
    """(num_classes, D, H, W) float32 in 0..1, sums to 1; small organs are merged in."""
    backbone_label: torch.Tensor
    """(D, H, W) uint8: of S-Net alone."""
    heatmaps: torch.Tensor
    """(K, D, H, W) float32 in 0..1; K = 0 without SOL-Net."""
    small_organs: list[SmallOrganResult]
    """One per small organ; empty without SOS-Net."""

    @property
    def label(self) -> torch.Tensor:
        """(D, H, W) uint8: the merged segmentation."""
        return argmax_label(self.probabilities)


class Predictor:
    """Runs S-Net and SOL-Net in sliding windows, then SOS-Net in one ROI per small organ around its heatmap's peak.

    The host waits for a GPU four times per CT, however many windows and organs there are: for the peaks, for the ROIs
    in which SOS-Net found its organ, and twice for the components, which are found on the CPU.

    Args:
        network: FocusNet with at least S-Net; windows are computed on its device.
        autocast: context in which the networks run, for mixed precision.
        overlap: fraction of a window that its neighbor covers too.
        limit_bytes: blended probabilities larger than this are kept in a temporary file.
    """

    def __init__(
        self,
        network: FocusNet,
        *,
        autocast: AbstractContextManager,
        overlap: float = OVERLAP,
        limit_bytes: float = math.inf,
    ) -> None:
        self.network = network
        self.preset = network.preset
        self.autocast = autocast
        self.overlap = overlap
        self.limit_bytes = limit_bytes

    @torch.no_grad()
    def predict(self, image_hu: torch.Tensor, inside_fov: torch.Tensor | None = None) -> Prediction:
        """Segment one CT.

        Args:
            image_hu: (D, H, W) at the preset's spacing, of any size; padded with air if it is smaller than a window. On
                the CPU, where windows without tissue are found.
            inside_fov: (D, H, W) bool, whether the scanner measured the voxel; no small organ is localized elsewhere.

        Raises:
            RuntimeError: a network is in training mode, in which batch statistics would leak between windows.
        """
        if any(module.training for module in self.network.modules()):
            raise RuntimeError("call eval() on the network before predicting")
        device = next(self.network.parameters()).device
        padded_hu = pad_at_end(image_hu, self.preset.grid.crop_size_vox, AIR_HU)
        image = normalize(copy_to(padded_hu, device).float(), self.preset.intensity)[None]  # (1, D, H, W)
        probabilities, heatmaps = self._predict_windows(padded_hu, image)
        unpadded = box_at((0, 0, 0), image_hu.shape)
        remove_small_components(probabilities)
        backbone_label = argmax_label(probabilities)[unpadded]
        heatmaps = heatmaps[:, *unpadded]  # no peak lies in the padding
        if inside_fov is not None:
            heatmaps = heatmaps * copy_to(inside_fov, heatmaps.device)
        small_organs = []
        if self.network.sos_net is not None:
            small_organs = self._segment_small_organs(image, probabilities, heatmaps)
            remove_small_components(probabilities)  # voxels that S-Net gave to small organs may be large organs now
        return Prediction(probabilities[:, *unpadded], backbone_label, heatmaps, small_organs)

    def _localize(self, image: torch.Tensor) -> LocalizationOutput:
        with self.autocast:
            return self.network.localize(image.contiguous(memory_format=torch.channels_last_3d))

    def _predict_windows(self, image_hu: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Run S-Net and SOL-Net in all windows with tissue and blend the results.

        Args:
            image_hu: (D, H, W), on the CPU.
            image: (1, D, H, W), normalized, on the device.

        Returns:
            (num_classes, D, H, W) probabilities and (K, D, H, W) heatmaps.
        """

        def predict(window: torch.Tensor) -> torch.Tensor:
            output = self._localize(window)
            return torch.cat([output.logits.float().softmax(dim=1), output.heatmaps.float()], dim=1)

        window_size, num_classes = self.preset.grid.crop_size_vox, self.preset.num_classes
        boxes = window_boxes(image_hu.shape, window_size, self.overlap)
        boxes = [box for box in boxes if image_hu[box].max() >= MIN_TISSUE_HU]  # others show air, clothes or couch
        num_channels = num_classes + (len(self.preset.small_organs) if self.network.sol_net is not None else 0)
        blended, covered = blend_windows(
            image, window_size, boxes, predict, num_channels=num_channels, limit_bytes=self.limit_bytes
        )
        blended[0].masked_fill_(~covered, 1)  # voxels that no window covers are background
        return blended[:num_classes], blended[num_classes:]

    def _segment_small_organs(
        self, image: torch.Tensor, probabilities: torch.Tensor, heatmaps: torch.Tensor
    ) -> list[SmallOrganResult]:
        """Merge each small organ's ROI into `probabilities`, in place."""
        peaks = read_peaks(heatmaps[None])
        localized = peaks.value >= self.preset.heatmap.peak_threshold  # (1, K)
        rois = self._segment_rois(image, peaks, localized)
        segmented, weight = _not_empty(rois), self.preset.roi.sos_blend_weight
        results = []
        for k, organ in enumerate(self.preset.small_organs):
            if k in segmented:
                roi_probability, box = rois[k]
                s_net_probability = probabilities[organ + 1][box]
                merged = torch.lerp(s_net_probability, roi_probability.to(probabilities.device), weight)
                merge_small_organ(probabilities, organ + 1, merged, box)
            position, value = tuple(peaks.position[0, k].tolist()), float(peaks.value[0, k])
            results.append(SmallOrganResult(organ, position, value, bool(localized[0, k]), k in segmented))
        return results

    def _segment_rois(
        self, image: torch.Tensor, peaks: Peaks, localized: torch.Tensor
    ) -> dict[int, tuple[torch.Tensor, Box]]:
        """Run all networks again in windows around the peaks of the organs that are localized.

        Args:
            image: (1, D, H, W), normalized.
            peaks: on the CPU.
            localized: (1, K) bool, on the CPU.

        Returns:
            (d, h, w) probability and its box in the volume, by index among the small organs.
        """
        window_size, volume_size = self.preset.grid.crop_size_vox, image.shape[1:]
        rois = self.network.select_rois(peaks.position, localized, volume_size)
        corners, organs = rois.corners.tolist(), rois.organ_index.tolist()
        results = {}
        for corner, rows in group_rois_into_windows(corners, rois.size, window_size, volume_size):
            crop = image[None, :, *box_at(corner, window_size)]
            in_crop = Rois(
                sample_index=rois.sample_index[rows],
                organ_index=rois.organ_index[rows],
                corners=rois.corners[rows] - rois.corners.new_tensor(corner),
                size=rois.size,
            )
            localization = self._localize(crop)
            with self.autocast:
                logits = self.network.segment_rois(crop, localization, in_crop)
            for row, logit in zip(rows, logits[:, 0], strict=True):
                results[organs[row]] = logit.float().sigmoid(), box_at(corners[row], rois.size)
        return results


def _not_empty(rois: dict[int, tuple[torch.Tensor, Box]]) -> set[int]:
    """The keys of ROIs with a probability above 0.5; on a GPU the host waits once."""
    if not rois:
        return set()
    highest = torch.stack([probability.max() for probability, _ in rois.values()]).tolist()
    return {k for k, value in zip(rois, highest, strict=True) if value > 0.5}


def merge_small_organ(probabilities: torch.Tensor, label: int, roi_probability: torch.Tensor, box: Box) -> None:
    """Replace one organ's probability and scale the others so that the sum stays 1, in place.

    Outside of the ROI the organ's probability becomes 0.

    Args:
        probabilities: (num_classes, D, H, W).
        label: the organ's class.
        roi_probability: (d, h, w) in 0..1.
        box: position of the ROI.
    """
    probabilities[label] = 0
    others = probabilities.sum(dim=0)
    nothing_else = others < 1e-6
    probabilities[0] += nothing_else  # where S-Net gave all to this organ, the rest becomes background
    scale = 1 / torch.where(nothing_else, 1.0, others)
    scale[box] *= 1 - roi_probability
    probabilities *= scale
    probabilities[label][box] = roi_probability

"""Brings a CT of any orientation and spacing onto the networks' grid, and their results back onto the CT."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from data_preprocess.field_of_view import Box, Region, Triple
from data_preprocess.network_grid import NetworkGrid, find_field_of_view
from data_preprocess.resample import resample_axis_aligned, resample_to
from utils.config.preset import TTA_MOVE_VOX, GridSettings
from utils.imaging.geometry import Geometry
from utils.imaging.interpolation import resize_linear
from utils.imaging.masks import bounding_box
from utils.imaging.resampling import extent_on, resample_box
from utils.io.dicom.series import CtSeries
from utils.io.volumes import Volume, match_orientation, to_lps

OBLIQUE_DEG = 0.5
"""Smaller rotations are left in the image: training augments with larger ones."""
ROUNDING = 0.99
"""The largest of n probabilities is at least 1 / n, or a little less, since they sum to 1 up to rounding only."""


class TransformedImage(NamedTuple):
    """A CT as the networks see it."""

    image: np.ndarray
    """(d, h, w) int16 HU at the networks' spacing."""
    region_hu: np.ndarray
    """(d', h', w') int16 HU, the same region at the CT's spacing."""
    transform: "InferenceTransform"
    notes: list[str]
    """Changes to the CT that the report mentions."""
    moved_image: Callable[[], np.ndarray]
    """Computes `image` on a grid that is moved by `TTA_MOVE_VOX` along each axis."""
    doubts: list[str]
    """Why every segmentation of the CT is doubtful, for the report's `case_flags`."""
    series: CtSeries | None = None
    """Slices and UIDs if the CT came from DICOM."""


@dataclass(frozen=True, kw_only=True)
class InferenceTransform:
    """The way from a CT to the networks' grid and back: orientation, crop, spacing."""

    ct: Geometry
    """Grid of the CT as read."""
    axis_aligned: Geometry
    """Grid of the CT after its axes were aligned with the patient's."""
    grid: NetworkGrid
    """The voxels of `axis_aligned` and of the networks that they see."""

    @classmethod
    def apply(cls, ct: Volume, grid: GridSettings) -> TransformedImage:
        """Align a CT in HU with the patient's axes, crop it to head and neck and resample it to the networks' grid.

        Raises:
            UserError: the CT shows no head and neck.
        """
        aligned = to_lps(ct)
        notes = []
        if _is_oblique(aligned.geometry):
            notes.append(f"rotated by {aligned.geometry.obliqueness_deg():.1f} degrees to the patient's axes")
            aligned = resample_axis_aligned(aligned, grid.spacing_zyx_mm)
        body, network_grid = find_field_of_view(aligned.array, aligned.geometry.spacing_zyx_mm, grid)
        region = network_grid.region
        if region.cut_mm:
            notes.append(f"the lowest {region.cut_mm:.0f} mm were cropped: the networks segment head and neck only")
        return TransformedImage(
            image=network_grid.resample_image(aligned.array, body),
            region_hu=np.ascontiguousarray(region.crop(aligned.array)),
            transform=cls(ct=ct.geometry, axis_aligned=aligned.geometry, grid=network_grid),
            notes=notes,
            moved_image=functools.partial(network_grid.moved(TTA_MOVE_VOX).resample_image, aligned.array, body),
            doubts=body.doubts(),
        )

    @property
    def region(self) -> Region:
        """The part of `axis_aligned` that the networks see."""
        return self.grid.region

    @property
    def network_geometry(self) -> Geometry:
        """The networks' grid in the patient."""
        axes = zip(self.axis_aligned.spacing_zyx_mm, self.grid.spacing_ratio, strict=True)
        return Geometry(
            size_zyx=self.grid.size_zyx,
            spacing_zyx_mm=tuple(spacing / ratio for spacing, ratio in axes),
            origin_xyz_mm=self.world_mm((0, 0, 0)),
            direction=self.axis_aligned.direction,
        )

    def invert(self, probabilities: torch.Tensor) -> Volume:
        """The label map (uint8) on the grid of the CT as read; 0 outside of the region.

        Probabilities are interpolated once, also onto an oblique CT: labels that are resampled again lose their edges.

        Args:
            probabilities: (num_classes, d, h, w) on the networks' grid.
        """
        if _is_oblique(self.ct):
            label = rotate_to_label_map(probabilities, self.network_geometry, self.ct)
            return Volume(array=label.numpy(), geometry=self.ct)
        ratio, offset = self.grid.spacing_ratio, self.grid.offset_vox
        label = resample_to_label_map(probabilities, self.region.size_zyx, ratio, offset)
        return Volume(array=self.to_ct(label.cpu().numpy()), geometry=self.ct)

    def invert_probability(self, probability: torch.Tensor) -> np.ndarray:
        """One organ's probability (d, h, w) as float32 on the grid of the CT as read; 0 outside of the region."""
        if _is_oblique(self.ct):
            whole = tuple(slice(0, n) for n in self.ct.size_zyx)
            return _rotate(probability, self.network_geometry, self.ct, whole)
        return self.to_ct(self.to_region(probability))

    def to_region(self, values: torch.Tensor) -> np.ndarray:
        """Interpolate values (d, h, w) on the networks' grid onto the voxels of `region_hu`: float32 (d', h', w')."""
        whole = tuple(slice(0, n) for n in self.region.size_zyx)
        return resize_linear(values, whole, self.grid.spacing_ratio, self.grid.offset_vox).cpu().numpy()

    def invert_margin(self, probabilities: torch.Tensor, value: int) -> np.ndarray:
        """By how much the probability of the class `value` exceeds that of every other class, -1..1.

        Args:
            probabilities: (num_classes, d, h, w) on the networks' grid.
            value: of the class in the label map.

        Returns:
            float32 on the grid of the CT as read; 0 outside of the region.
        """
        others = [probability for index, probability in enumerate(probabilities) if index != value]
        return self.invert_probability(probabilities[value] - functools.reduce(torch.maximum, others))

    def to_ct(self, values: np.ndarray) -> np.ndarray:
        """Bring values of the region, at the CT's spacing, onto the CT as read, which is not oblique."""
        whole = Volume(array=self.region.paste(values, self.axis_aligned.size_zyx), geometry=self.axis_aligned)
        return match_orientation(whole, self.ct).array

    def crop_label(self, label: Volume) -> np.ndarray:
        """The region's part of a label map on the CT's grid: what `region_hu` is of the CT."""
        aligned = resample_to(label, self.axis_aligned) if _is_oblique(self.ct) else to_lps(label).array
        return self.region.crop(aligned, fill=0)

    def world_mm(self, index_vox: Triple) -> Triple:
        """Patient coordinates (x, y, z) in mm of a voxel (z, y, x) of the networks' grid."""
        axes = zip(index_vox, self.grid.spacing_ratio, self.grid.start_vox, strict=True)
        return self.axis_aligned.world_mm(tuple((i + 0.5) / ratio - 0.5 + start for i, ratio, start in axes))

    def inside_fov(self) -> np.ndarray:
        """Which voxels of the networks' image lie in the CT and not in air that was added around it: bool (d, h, w)."""
        centers = np.meshgrid(*self.grid.centers_vox(), indexing="ij", sparse=True)
        return _lies_in(self.ct, self.ct.index_from(self.axis_aligned), centers)


def resample_to_label_map(
    probabilities: torch.Tensor,
    size_zyx: tuple[int, int, int],
    spacing_ratio_zyx: Triple,
    offset_zyx: Triple = (0.0, 0.0, 0.0),
) -> torch.Tensor:
    """Interpolate every class's probability onto another grid and take the argmax.

    Each class is interpolated only where it can be the largest. Probabilities sum to 1, so that the largest one is at
    least 1 / num_classes, and interpolation between smaller values cannot reach that.

    Args:
        probabilities: (num_classes, D, H, W).
        size_zyx: of the result, uint8.
        spacing_ratio_zyx: its spacing / the probabilities' spacing.
        offset_zyx: where the probabilities begin, in its voxels from its outer edge.
    """
    to_output = (spacing_ratio_zyx, offset_zyx)
    return _interpolated_argmax(
        probabilities,
        size_zyx,
        lambda masks: _resampled_boxes(masks, size_zyx, *to_output),
        lambda values, box: resize_linear(values, box, *to_output),
    )


def rotate_to_label_map(probabilities: torch.Tensor, geometry: Geometry, oblique: Geometry) -> torch.Tensor:
    """Interpolate every class's probability onto an oblique grid and take the argmax, as `resample_to_label_map`.

    Args:
        probabilities: (num_classes, D, H, W), on any device.
        geometry: their grid.
        oblique: grid of the result, uint8, in main memory.
    """
    return _interpolated_argmax(
        probabilities.cpu(),
        oblique.size_zyx,
        lambda masks: [_rotated_box(mask.numpy(), geometry, oblique) for mask in masks],
        lambda values, box: torch.from_numpy(_rotate(values, geometry, oblique, box)),
    )


def _interpolated_argmax(
    probabilities: torch.Tensor,
    size_zyx: tuple[int, int, int],
    find_boxes: Callable[[Iterable[torch.Tensor]], list[Box | None]],
    interpolate: Callable[[torch.Tensor, Box], torch.Tensor],
) -> torch.Tensor:
    """The class with the highest interpolated probability, uint8 of a size.

    Args:
        probabilities: (num_classes, D, H, W).
        size_zyx: of the result.
        find_boxes: the voxels of the result whose interpolation reads from each of the masks (D, H, W), or None.
        interpolate: a class's probability (D, H, W) in a box of the result.
    """
    label = probabilities.new_zeros(size_zyx, dtype=torch.uint8)
    highest = probabilities.new_zeros(size_zyx, dtype=torch.float32)
    masks = (probability >= ROUNDING / len(probabilities) for probability in probabilities[1:])
    for value, box in enumerate(find_boxes(masks), 1):
        if box is None:
            continue
        background, probability = (interpolate(probabilities[i], box) for i in (0, value))
        rival = torch.maximum(highest[box], background)
        higher = probability > rival
        label[box].masked_fill_(higher, value)
        highest[box] = torch.where(higher, probability, rival)
    return label


def _resampled_boxes(
    masks: Iterable[torch.Tensor], size_zyx: tuple[int, int, int], spacing_ratio_zyx: Triple, offset_zyx: Triple
) -> list[Box | None]:
    """The voxels of another grid whose interpolation reads from each mask (D, H, W); None if the mask is empty.

    On a GPU the host waits once for all masks.
    """
    profiles = [[mask.amax(dim=axes) for axes in ((1, 2), (0, 2), (0, 1))] for mask in masks]  # (D,), (H,), (W,)
    lengths = [len(profile) for profile in profiles[0]]
    rows = torch.stack([torch.cat(own) for own in profiles]).cpu()
    return [_resampled_box(row.split(lengths), size_zyx, spacing_ratio_zyx, offset_zyx) for row in rows]


def _resampled_box(
    profiles: Sequence[torch.Tensor], size_zyx: tuple[int, int, int], spacing_ratio_zyx: Triple, offset_zyx: Triple
) -> Box | None:
    """The box of one mask, from its bool profile along each axis."""
    box = []
    for profile, size, ratio, offset in zip(profiles, size_zyx, spacing_ratio_zyx, offset_zyx, strict=True):
        inside = profile.nonzero()
        if len(inside) == 0:
            return None
        last = len(profile) - 1
        low, high = int(inside[0]) - 1, int(inside[-1]) + 1  # interpolation reaches one voxel further
        start = 0 if low < 0 else math.floor((low + 0.5) / ratio + offset - 0.5)
        stop = size if high > last else math.ceil((high + 0.5) / ratio + offset - 0.5) + 1
        box.append(slice(max(0, start), min(size, stop)))
    return tuple(box)


def _rotated_box(mask: np.ndarray, geometry: Geometry, other: Geometry) -> Box | None:
    """The voxels of another grid whose interpolation reads from a mask (D, H, W) on a grid; None if there are none."""
    own = bounding_box(mask)
    if own is None:
        return None
    reach = tuple(slice(axis.start - 1, axis.stop + 1) for axis in own)  # interpolation reaches one voxel further
    low, high = extent_on(other, geometry, reach)
    start = np.clip(np.ceil(low).astype(int), 0, other.size_zyx)
    stop = np.clip(np.floor(high).astype(int) + 1, 0, other.size_zyx)
    return None if np.any(stop <= start) else tuple(map(slice, start.tolist(), stop.tolist()))


def _rotate(values: torch.Tensor, geometry: Geometry, other: Geometry, box: Box) -> np.ndarray:
    """Values (D, H, W) of a grid, interpolated in a box of another grid: float32; 0 beyond the outer voxels' edges.

    Up to these edges, which lie half a voxel beyond the centers, the border is repeated.
    """
    padded = np.pad(values.float().cpu().numpy(), 1, mode="edge")
    around = replace(geometry, size_zyx=padded.shape, origin_xyz_mm=geometry.world_mm((-1, -1, -1)))
    rotated = resample_box(padded, around, other, box, 0.0)
    centers = np.meshgrid(*(np.arange(axis.start, axis.stop) for axis in box), indexing="ij", sparse=True)
    rotated[~_lies_in(geometry, geometry.index_from(other), centers)] = 0
    return rotated


def _lies_in(geometry: Geometry, to_index: np.ndarray, centers: list[np.ndarray]) -> np.ndarray:
    """Which positions lie in the voxels of a grid: bool (d, h, w).

    Args:
        geometry: the grid.
        to_index: (3, 4), from a position (z, y, x, 1) to an index on the grid.
        centers: sparse coordinates z, y and x of (d, h, w) positions.
    """
    z, y, x = centers
    inside = np.ones(np.broadcast_shapes(z.shape, y.shape, x.shape), dtype=bool)
    for (a, b, c, offset), n in zip(to_index, geometry.size_zyx, strict=True):
        index = a * z + b * y + c * x + offset
        inside &= (index >= -0.5) & (index <= n - 0.5)
    return inside


def _is_oblique(geometry: Geometry) -> bool:
    return geometry.obliqueness_deg() > OBLIQUE_DEG

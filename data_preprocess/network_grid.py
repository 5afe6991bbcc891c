"""The networks' voxels in a CT: a lattice through the patient's anchor, and the box of it that the networks see.

S-Net pools, and a trained one answers differently if the patient moves by a fraction of a pooled voxel. The lattice is
therefore fixed to the patient, and the box begins and ends at multiples of the pooled voxels.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from data_preprocess.anchor import find_anchor
from data_preprocess.field_of_view import Body, CoarseGrid, Region, Triple, region_around, segment_body
from data_preprocess.resample import SAME_SPACING_TOLERANCE, Target, resample_image, resample_labels
from utils.config.preset import POOLING_VOX, GridSettings
from utils.imaging.intensity import AIR_HU

TRIM_VOX = 1
"""In plane the box may be smaller than the field of view by this much on either side, so that it fits into fewer
windows."""
TOLERANCE_VOX = 0.05
"""The box leaves out this much of a voxel at its ends rather than to grow by a pooled one."""


@dataclass(frozen=True, kw_only=True)
class NetworkGrid:
    """A box of the networks' voxels."""

    start_vox: Triple
    """Outer edge (z, y, x) of its first voxel in voxels of the CT, whose voxel i extends from i to i + 1."""
    size_zyx: tuple[int, int, int]
    """Number of the networks' voxels."""
    spacing_zyx_mm: Triple
    """Of the CT."""
    network_spacing_zyx_mm: Triple
    cut_mm: float = 0.0
    """Height of the lower part of a long scan that is left out."""

    @classmethod
    def around(cls, field: Region, anchor_vox: Triple, spacing_zyx_mm: Triple, grid: GridSettings) -> "NetworkGrid":
        """The box of the lattice through an anchor that shows a field of view.

        In plane it is as large as a window at least and centered on the field of view, up to half a pooled voxel. It
        may leave out some of the margin around the body, but nothing that shows the patient.
        """
        starts, sizes = [], []
        samples = CoarseGrid.through(anchor_vox, spacing_zyx_mm)
        for axis, pooling in enumerate(POOLING_VOX):
            ratio = _ratio(spacing_zyx_mm[axis], grid.spacing_zyx_mm[axis])
            anchor = round(anchor_vox[axis]) if ratio == 1 else anchor_vox[axis]  # equal voxels are not interpolated
            low, high = ((end - anchor) * ratio for end in (field.start_zyx[axis], field.stop_zyx[axis]))
            if axis == 0:
                first = pooling * math.floor((low + TOLERANCE_VOX) / pooling)
                size = pooling * math.ceil((high - TOLERANCE_VOX - first) / pooling)
            else:
                size = max(
                    grid.crop_size_vox[axis], 2 * pooling * math.ceil((high - low - 2 * TRIM_VOX) / (2 * pooling))
                )
                first = _centered(low, high, size, pooling)
                while max(first - low, high - first - size) > samples.spare_vox(axis) * ratio:
                    size += 2 * pooling
                    first = _centered(low, high, size, pooling)
            starts.append(anchor + first / ratio)
            sizes.append(size)
        return cls(
            start_vox=tuple(starts),
            size_zyx=tuple(sizes),
            spacing_zyx_mm=spacing_zyx_mm,
            network_spacing_zyx_mm=grid.spacing_zyx_mm,
            cut_mm=field.cut_mm,
        )

    def moved(self, fraction: float) -> "NetworkGrid":
        """The same box, moved by a fraction of the networks' voxels toward the end of each axis."""
        axes = zip(self.start_vox, self.spacing_ratio, strict=True)
        return replace(self, start_vox=tuple(start + fraction / ratio for start, ratio in axes))

    @property
    def spacing_ratio(self) -> Triple:
        """The CT's spacing / the networks'."""
        return tuple(map(_ratio, self.spacing_zyx_mm, self.network_spacing_zyx_mm))

    @property
    def stop_vox(self) -> Triple:
        """Outer edge of its last voxel, as `start_vox`."""
        return tuple(a + n / r for a, n, r in zip(self.start_vox, self.size_zyx, self.spacing_ratio, strict=True))

    @property
    def region(self) -> Region:
        """The voxels of the CT in which the box lies."""
        start = tuple(math.floor(a + TOLERANCE_VOX) for a in self.start_vox)
        return Region(start, tuple(math.ceil(b - TOLERANCE_VOX) for b in self.stop_vox), self.cut_mm)

    @property
    def offset_vox(self) -> Triple:
        """Where the box begins, in voxels of the CT from the outer edge of its region."""
        return tuple(a - b for a, b in zip(self.start_vox, self.region.start_zyx, strict=True))

    @property
    def target(self) -> Target:
        """The box as a target of resampling from its region."""
        return Target(self.size_zyx, tuple(o * s for o, s in zip(self.offset_vox, self.spacing_zyx_mm, strict=True)))

    def centers_vox(self) -> list[np.ndarray]:
        """The positions of the networks' voxels along each axis, as fractional indices into the CT."""
        axes = zip(self.start_vox, self.size_zyx, self.spacing_ratio, strict=True)
        return [start + (np.arange(n) + 0.5) / ratio - 0.5 for start, n, ratio in axes]

    def resample_image(self, image: np.ndarray, body: Body) -> np.ndarray:
        """The CT (D, H, W) int16 on the networks' voxels; what does not show the patient becomes air."""
        region_hu = self.region.crop(image)
        region_hu = np.where(body.shows_patient(region_hu, self.region.start_zyx), region_hu, image.dtype.type(AIR_HU))
        return resample_image(region_hu, self.spacing_zyx_mm, self.network_spacing_zyx_mm, self.target)

    def resample_labels(self, labels: np.ndarray) -> np.ndarray:
        """A label map (D, H, W) uint8 of the CT on the networks' voxels."""
        cropped = self.region.crop(labels, fill=0)
        return resample_labels(cropped, self.spacing_zyx_mm, self.network_spacing_zyx_mm, self.target)


class FieldOfView(NamedTuple):
    """What the networks see of a CT."""

    body: Body
    grid: NetworkGrid


def find_field_of_view(image: np.ndarray, spacing_zyx_mm: Triple, grid: GridSettings) -> FieldOfView:
    """Find head and neck in a CT and the networks' voxels on them.

    Args:
        image: (D, H, W), HU, axes in LPS order.
        spacing_zyx_mm: its spacing.
        grid: the networks' spacing and window, and how far down they see.

    Raises:
        UserError: nothing is denser than air, or the scan begins at the lungs.
    """
    anchor = find_anchor(image, spacing_zyx_mm)
    body = segment_body(image, CoarseGrid.through(anchor, spacing_zyx_mm), grid.below_lung_apex_mm)
    return FieldOfView(body, NetworkGrid.around(region_around(body, image), anchor, spacing_zyx_mm, grid))


def _centered(low: float, high: float, size: int, pooling: int) -> int:
    """The first voxel of a box at multiples of the pooled voxels, whose center is nearest to that of an interval."""
    return pooling * round(((low + high) / 2 - size / 2) / pooling)


def _ratio(spacing_mm: float, network_mm: float) -> float:
    ratio = spacing_mm / network_mm
    return 1.0 if abs(ratio - 1) < SAME_SPACING_TOLERANCE else ratio

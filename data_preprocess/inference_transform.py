"""A CT of any orientation and spacing to the grid of the networks, and the way back."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_preprocess.field_of_view import Region, find_region
from data_preprocess.resample import resample_axis_aligned, resample_image, resample_to
from utils.config.preset import GridSettings
from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume, match_orientation, to_lps

OBLIQUE_DEG = 0.5
"""A smaller rotation is left to the networks, which were trained on larger ones."""


@dataclass(frozen=True, kw_only=True)
class InferenceTransform:
    """How the networks' grid lies in a CT.

    Attributes:
        ct: grid of the CT as read.
        straight: grid of the CT with its axes along the patient's, from which the region was cut.
        region: the part of `straight` that the networks see.
        step: spacing of `straight` / spacing of the networks, per axis (z, y, x).
    """

    ct: Geometry
    straight: Geometry
    region: Region
    step: tuple[float, float, float]

    def world_mm(self, index_vox: tuple[float, float, float]) -> tuple[float, float, float]:
        """Patient coordinates (x, y, z) in mm of a voxel (z, y, x) of the networks' grid."""
        moved = zip(index_vox, self.step, self.region.start_zyx, strict=True)
        return self.straight.world_mm(tuple((i + 0.5) / step - 0.5 + start for i, step, start in moved))

    def inside_fov(self, size_zyx: tuple[int, int, int]) -> np.ndarray:
        """Which voxels of the networks' grid lie in the CT, bool; around it there may be air that was added.

        Args:
            size_zyx: of the networks' grid.
        """
        to_ct = np.linalg.solve(self.ct.index_to_world()[:, :3], self.straight.index_to_world()[:, :3])
        shift = np.linalg.solve(
            self.ct.index_to_world()[:, :3], np.subtract(self.straight.origin_xyz_mm, self.ct.origin_xyz_mm)
        )
        axes = [
            (np.arange(n, dtype=np.float32) + 0.5) / step - 0.5 + start
            for n, step, start in zip(size_zyx, self.step, self.region.start_zyx, strict=True)
        ]
        z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
        inside = np.ones(size_zyx, dtype=bool)
        for row, offset, n in zip(to_ct, shift, self.ct.size_zyx, strict=True):
            index = row[0] * z + row[1] * y + row[2] * x + offset
            inside &= (index >= -0.5) & (index <= n - 0.5)
        return inside

    def to_ct(self, part: np.ndarray) -> np.ndarray:
        """Bring labels or probabilities of the region back onto the CT.

        Args:
            part: (d, h, w) uint8 or float32, of the region's size.

        Returns:
            (D, H, W) of the same dtype on the grid of the CT as read; 0 outside of the region.
        """
        whole = Volume(array=self.region.paste(part, self.straight.size_zyx), geometry=self.straight)
        if _is_oblique(self.ct):
            return resample_to(whole, self.ct)
        return match_orientation(whole, self.ct).array


class TransformedImage(NamedTuple):
    """What the networks see of a CT."""

    image: np.ndarray
    """(d, h, w) HU at the networks' spacing."""
    region_hu: np.ndarray
    """(d', h', w') int16: the same part of the patient at the CT's spacing."""
    placement: InferenceTransform
    notes: list[str]
    """What was done to the CT that a reader of the report should know."""


def to_network_grid(ct: Volume, grid: GridSettings) -> TransformedImage:
    """Turn, cut and resample a CT for the networks.

    Args:
        ct: HU, any orientation and spacing.
        grid: of the preset.

    Raises:
        ValueError: no head and neck is found in the CT.
    """
    straight = to_lps(ct)
    notes = []
    if _is_oblique(straight.geometry):
        notes.append(f"turned by {straight.geometry.obliqueness_deg():.1f} degrees to the patient's axes")
        straight = resample_axis_aligned(straight)
    spacing = straight.geometry.spacing_zyx_mm
    region = find_region(straight.array, straight.geometry, grid.below_lung_apex_mm)
    if region.cut_mm:
        notes.append(f"the lowest {region.cut_mm:.0f} mm were cut off: the networks know head and neck only")
    region_hu = np.ascontiguousarray(region.crop(straight.array))
    image = resample_image(region_hu, spacing, grid.spacing_zyx_mm)
    step = tuple(own / network for own, network in zip(spacing, grid.spacing_zyx_mm, strict=True))
    placement = InferenceTransform(ct=ct.geometry, straight=straight.geometry, region=region, step=step)
    return TransformedImage(image, region_hu, placement, notes)


def _is_oblique(geometry: Geometry) -> bool:
    return geometry.obliqueness_deg() > OBLIQUE_DEG

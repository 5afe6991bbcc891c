"""The networks' field of view: head and neck, found in the CT alone, so that it does not depend on contours."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from data_preprocess.patient_components import patient_components
from utils.errors import UserError
from utils.imaging.intensity import AIR_HU, MIN_TISSUE_HU
from utils.imaging.masks import Mask, bounding_box, connected_components, crop_mask, empty_mask

COARSE_MM = 4.0
"""Body and lungs are segmented on a grid of about this spacing; boxes need no finer one."""
OPENING_RADIUS_MM = 6.0
"""The opening removes narrower objects: the table's shell, an immobilization mask, tubes."""
MARGIN_MM = 10.0
LUNG_OPENING_RADIUS_MM = 10.0
"""Airways, sinuses, the table's core and gaps under a mask are narrower."""
MIN_LUNG_ML = 30.0
MIN_LUNGS_ML = 100.0
"""Volume of all lungs; a scan that shows less of them hardly reaches below the neck."""
MIN_APEX_AREA_MM2 = 500.0
"""Area of a slice of lung that counts as the apex."""
MIN_ABOVE_LUNGS_MM = 40.0
PAD_VOX = 2
"""Voxels of the coarse grid around the body: it is dilated by one, and the outermost lies outside."""
FLAT_END_MM2 = 2500.0
"""A body whose last slice has a larger area continues beyond the scan."""
MIN_WHOLE_SECTION_MM2 = 14_000.0
"""A head or neck with its skin has a larger cross-section in some slice. In the training and validation CTs of OpenKBP
the largest one has less than 12,000 mm2 in the three that show only pieces of the patient, else at least 16,000."""
MAX_TIP = 0.1
"""Slices beyond a cut end have at most this share of the area of the last one; the vertex tapers more slowly."""

Box = tuple[slice, slice, slice]
Triple = tuple[float, float, float]


class CoarseGrid(NamedTuple):
    """Every n-th voxel of a CT, about 4 mm apart."""

    first_vox: tuple[int, int, int]
    stride_vox: tuple[int, int, int]
    ct_spacing_zyx_mm: Triple

    @classmethod
    def through(cls, anchor_vox: Triple, ct_spacing_zyx_mm: Triple) -> "CoarseGrid":
        """The coarse grid through a position in the patient, so that the ends of the CT do not move it."""
        stride = tuple(max(1, int(COARSE_MM / spacing)) for spacing in ct_spacing_zyx_mm)
        first = tuple(int(anchor) % n for anchor, n in zip(anchor_vox, stride, strict=True))
        return cls(first, stride, ct_spacing_zyx_mm)

    @property
    def spacing_zyx_mm(self) -> Triple:
        return tuple(np.multiply(self.stride_vox, self.ct_spacing_zyx_mm).tolist())

    def sample(self, image: np.ndarray) -> np.ndarray:
        """The voxels of `image` (D, H, W) that lie on the grid, a view."""
        return image[tuple(slice(a, None, n) for a, n in zip(self.first_vox, self.stride_vox, strict=True))]

    def to_voxel(self, index: int, axis: int) -> int:
        """The CT's voxel index of a sample."""
        return int(self.first_vox[axis] + index * self.stride_vox[axis])

    def margin_vox(self, axis: int) -> int:
        """The CT's voxels between the body's outermost samples and the end of the field of view.

        They are half the way to the next sample and the margin, on either side: a mirrored patient gets the mirrored
        field of view.
        """
        return math.ceil(MARGIN_MM / self.ct_spacing_zyx_mm[axis]) + self.stride_vox[axis] // 2

    def spare_vox(self, axis: int) -> int:
        """The CT's outermost voxels of this margin in which `Body.shows_patient` is never true."""
        stride = self.stride_vox[axis]
        return max(0, self.margin_vox(axis) - stride - (stride - 1) // 2)


@dataclass(frozen=True)
class Body:
    """The patient's body on the coarse grid."""

    inside: np.ndarray
    """bool (d, h, w), from the lowest slice of the field of view."""
    grid: CoarseGrid
    is_cut: bool
    """Whether the scan shows more of the patient below."""

    def median_hu(self, image: np.ndarray) -> float:
        """Median of the body's voxels in its CT (D, H, W)."""
        return float(np.median(self.grid.sample(image)[: len(self.inside)][self.inside]))

    def doubts(self) -> list[str]:
        """Why every segmentation of the CT is doubtful: it shows only pieces of the patient, all else was erased."""
        areas_mm2 = self.inside.sum(axis=(1, 2)) * (self.grid.spacing_zyx_mm[1] * self.grid.spacing_zyx_mm[2])
        if (largest := areas_mm2.max()) >= MIN_WHOLE_SECTION_MM2:
            return []
        return [
            f"no slice shows a whole head or neck: the largest cross-section has {largest / 100:.0f} cm2, expected at "
            f"least {MIN_WHOLE_SECTION_MM2 / 100:.0f}; check that nothing was erased from the CT"
        ]

    def fraction_outside(self, mask: Mask) -> float:
        """Fraction of a mask's voxels outside of the body; cavities and a border of one coarse voxel belong to it."""
        index = (np.argwhere(mask.voxels) + mask.corner_zyx - self.grid.first_vox) // self.grid.stride_vox + PAD_VOX
        return float(1 - self._filled[tuple(np.clip(index, 0, np.subtract(self._filled.shape, 1)).T)].mean())

    def shows_patient(self, image: np.ndarray, start_zyx: tuple[int, int, int]) -> np.ndarray:
        """Which voxels show the patient: the body with its cavities, and tissue within one coarse voxel (4 mm) of it.

        Foam, clothes and a holder farther from the skin do not. Slices that show little of the body (the vertex,
        blanked slices, those beyond its ends) are as wide as the nearest other one.

        Args:
            image: (d, h, w) HU, a part of the CT.
            start_zyx: its first voxel as an index into the CT; may be negative.

        Returns:
            bool (d, h, w).
        """
        near = ndimage.binary_dilation(self._with_cavities)
        areas_mm2 = self.inside.sum(axis=(1, 2)) * (self.grid.spacing_zyx_mm[1] * self.grid.spacing_zyx_mm[2])
        whole = np.flatnonzero(areas_mm2 >= min(FLAT_END_MM2, areas_mm2.max())) + PAD_VOX
        near = near[whole[np.abs(whole[:, None] - np.arange(len(near))).argmin(axis=0)]]
        inside, near = (self._at_voxels(mask, start_zyx, image.shape) for mask in (self._with_cavities, near))
        return inside | (near & (image > MIN_TISSUE_HU))

    def _at_voxels(
        self, mask: np.ndarray, start_zyx: tuple[int, int, int], size_zyx: tuple[int, int, int]
    ) -> np.ndarray:
        """A padded coarse mask at voxels of the CT: that of the nearest sample, of both of two at one distance."""
        for axis, (start, size) in enumerate(zip(start_zyx, size_zyx, strict=True)):
            position = (start + np.arange(size) - self.grid.first_vox[axis]) / self.grid.stride_vox[axis] + PAD_VOX
            nearest = (np.ceil(position - 0.5), np.floor(position + 0.5))
            low, high = (index.clip(0, mask.shape[axis] - 1).astype(int) for index in nearest)
            mask = mask.take(low, axis) & mask.take(high, axis)
        return mask

    @cached_property
    def _with_cavities(self) -> np.ndarray:
        """The body with its cavities, padded."""
        return np.pad([ndimage.binary_fill_holes(plane) for plane in self.inside], PAD_VOX)

    @cached_property
    def _filled(self) -> np.ndarray:
        """The body with its cavities and a border, padded; the outermost voxels lie outside."""
        return ndimage.binary_dilation(self._with_cavities, np.ones((3, 3, 3)))


class Region(NamedTuple):
    """A box around the patient's head and neck that may reach beyond the CT."""

    start_zyx: tuple[int, int, int]
    """First voxel, as an index into the CT; may be negative."""
    stop_zyx: tuple[int, int, int]
    """One past the last voxel; may lie beyond the CT."""
    cut_mm: float = 0.0
    """Height of the lower part of a long scan that is left out."""

    @property
    def size_zyx(self) -> tuple[int, int, int]:
        return tuple(b - a for a, b in zip(self.start_zyx, self.stop_zyx, strict=True))

    def crop(self, image: np.ndarray, fill: int = AIR_HU) -> np.ndarray:
        """The region's voxels; beyond the CT they are `fill`."""
        bounds = zip(self.start_zyx, self.stop_zyx, image.shape, strict=True)
        padding = [(max(0, -a), max(0, b - n)) for a, b, n in bounds]
        inside = image[self._inside(image.shape)]
        return np.pad(inside, padding, constant_values=fill) if np.any(padding) else inside

    def paste(self, part: np.ndarray, size_zyx: tuple[int, int, int]) -> np.ndarray:
        """A volume of the CT's size with the region's voxels in their place and 0 elsewhere."""
        whole = np.zeros(size_zyx, dtype=part.dtype)
        inside = self._inside(size_zyx)
        own = tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, self.start_zyx, strict=True))
        whole[inside] = part[own]
        return whole

    def fraction_outside(self, mask: Mask) -> float:
        """Fraction of a mask's voxels that the region leaves out."""
        low = np.maximum(np.subtract(self.start_zyx, mask.corner_zyx), 0)
        high = np.maximum(np.subtract(self.stop_zyx, mask.corner_zyx), 0)
        inside = mask.voxels[tuple(map(slice, low, high))]
        return 1 - np.count_nonzero(inside) / np.count_nonzero(mask.voxels)

    def cut(self, mask: Mask) -> Mask:
        """The mask without its voxels in the lower part of a long scan that is left out."""
        z, y, x = mask.corner_zyx
        low = max(0, self.start_zyx[0] - z) if self.cut_mm else 0
        if low >= len(mask.voxels):
            return empty_mask(mask.geometry)
        return crop_mask(mask.voxels[low:], (z + low, y, x), mask.geometry)

    def _inside(self, size_zyx: tuple[int, int, int]) -> Box:
        bounds = zip(self.start_zyx, self.stop_zyx, size_zyx, strict=True)
        return tuple(slice(max(0, a), min(n, b)) for a, b, n in bounds)


def segment_body(image: np.ndarray, grid: CoarseGrid, below_lung_apex_mm: float) -> Body:
    """Segment the patient (`patient_components`), down to a fixed distance below the lung apex.

    Args:
        image: (D, H, W), HU, axes in LPS order.
        grid: of samples of it.
        below_lung_apex_mm: how far the networks' field of view reaches below the lung apex; negative ends it above.

    Raises:
        UserError: nothing is denser than air, or the scan begins at the lungs.
    """
    sample = grid.sample(image)
    dense = sample > MIN_TISSUE_HU
    box = bounding_box(dense)
    if box is None:
        raise UserError(
            f"expected a patient with voxels above {MIN_TISSUE_HU} HU, got at most {sample.max():.0f}; export the CT "
            "in Hounsfield units"
        )
    occupied = box[0]  # without empty slices, which say nothing about the patient
    first = _first_slice(dense[occupied], sample[occupied], grid.spacing_zyx_mm, below_lung_apex_mm)
    lowest = occupied.start + first
    inside = _open_patient(dense[lowest : occupied.stop], grid.spacing_zyx_mm)
    first_vox = (grid.to_voxel(lowest, 0), *grid.first_vox[1:])
    return Body(inside, grid._replace(first_vox=first_vox), is_cut=first > 0)


def region_around(body: Body, image: np.ndarray) -> Region:
    """The body's bounding box in its CT (D, H, W) with a margin; where the body continues beyond the CT, its end."""
    grid, spacing = body.grid, body.grid.ct_spacing_zyx_mm
    box = bounding_box(body.inside)
    margins = [grid.margin_vox(axis) for axis in range(3)]
    start = [grid.to_voxel(occupied.start, axis) - margins[axis] for axis, occupied in enumerate(box)]
    stop = [grid.to_voxel(occupied.stop - 1, axis) + 1 + margins[axis] for axis, occupied in enumerate(box)]
    lowest, highest = body.inside[box[0].start], body.inside[box[0].stop - 1]
    pixel_mm2 = grid.spacing_zyx_mm[1] * grid.spacing_zyx_mm[2]
    if body.is_cut:
        start[0] = max(0, grid.to_voxel(box[0].start, 0))
    elif lowest.sum() * pixel_mm2 > FLAT_END_MM2:
        start[0] = _flat_end(image, lowest, grid, grid.to_voxel(box[0].start, 0), -1)
    if highest.sum() * pixel_mm2 > FLAT_END_MM2:
        stop[0] = _flat_end(image, highest, grid, grid.to_voxel(box[0].stop - 1, 0), 1) + 1
    return Region(tuple(start), tuple(stop), start[0] * spacing[0] if body.is_cut else 0.0)


def morphological_opening(mask: np.ndarray, spacing_zyx_mm: Triple, radius_mm: float) -> np.ndarray:
    """Opening with a ball; a mask that is narrower than the ball everywhere is returned unchanged."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    padded = np.pad(padded, ((1, 1), (0, 0), (0, 0)), mode="edge")  # the neck continues beyond the last slice
    ball = _ball(spacing_zyx_mm, radius_mm)
    core = ndimage.binary_erosion(padded, ball, border_value=True)
    if not core.any():
        return mask
    return ndimage.binary_dilation(core, ball)[1:-1, 1:-1, 1:-1]


def find_lung_apex(dense: np.ndarray, spacing_zyx_mm: Triple, image: np.ndarray | None = None) -> int | None:
    """The topmost slice with lung, or None if the scan shows no lung.

    Args:
        dense: (d, h, w) bool on the coarse grid, denser than air.
        spacing_zyx_mm: its spacing.
        image: HU on the same grid; if given, cavities of pure air are not lungs.
    """
    air = np.stack([ndimage.binary_fill_holes(plane) for plane in dense]) & ~dense
    if not air.any():
        return None
    opened = morphological_opening(air, spacing_zyx_mm, LUNG_OPENING_RADIUS_MM)
    components = connected_components(opened, connectivity=1)
    volumes_ml = components.sizes * (np.prod(spacing_zyx_mm) / 1000)
    is_lung = volumes_ml >= MIN_LUNG_ML
    if image is not None:
        is_lung &= ndimage.median(image, components.labels, np.arange(1, len(is_lung) + 1)) > AIR_HU
    if volumes_ml[is_lung].sum() < MIN_LUNGS_ML:
        return None
    lungs = components.select(is_lung)
    areas_mm2 = lungs.sum(axis=(1, 2)) * (spacing_zyx_mm[1] * spacing_zyx_mm[2])
    return int(np.flatnonzero(areas_mm2 >= MIN_APEX_AREA_MM2)[-1])


def _open_patient(dense: np.ndarray, spacing_zyx_mm: Triple) -> np.ndarray:
    """What the opening leaves of the patient in a mask of everything dense, (d, h, w) bool.

    Where the patient ends and a couch or holder goes on, the ball of the opening reaches beyond the end with its tip.
    These slices, which hold next to nothing of the body and more of other objects, are left out.
    """
    inside = patient_components(morphological_opening(dense, spacing_zyx_mm, OPENING_RADIUS_MM))
    areas = inside.sum(axis=(1, 2))
    large = np.flatnonzero(areas * (spacing_zyx_mm[1] * spacing_zyx_mm[2]) > FLAT_END_MM2)
    if len(large):
        reach = int(OPENING_RADIUS_MM // spacing_zyx_mm[0])
        for end, tail in ((large[0], slice(0, large[0])), (large[-1], slice(large[-1] + 1, None))):
            is_short = np.count_nonzero(areas[tail]) <= reach
            is_thin = areas[tail].max(initial=0) <= MAX_TIP * areas[end]
            if is_short and is_thin and areas[tail].sum() < 0.5 * dense[tail][areas[tail] > 0].sum():
                inside[tail] = False
    return inside


def _ball(spacing_zyx_mm: Triple, radius_mm: float) -> np.ndarray:
    """The voxels within a radius of the central one, bool."""
    reach = [int(radius_mm // spacing) for spacing in spacing_zyx_mm]
    axes = [np.arange(-n, n + 1) * spacing for n, spacing in zip(reach, spacing_zyx_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return z**2 + y**2 + x**2 <= radius_mm**2


def _first_slice(dense: np.ndarray, image: np.ndarray, spacing_zyx_mm: Triple, below_lung_apex_mm: float) -> int:
    """The lowest coarse slice of the field of view, 0 if all slices belong to it."""
    slice_mm = spacing_zyx_mm[0]

    def above_mm(apex: int) -> float:
        return (len(dense) - 1 - apex) * slice_mm

    apex = find_lung_apex(dense, spacing_zyx_mm)
    if apex is not None and above_mm(apex) < MIN_ABOVE_LUNGS_MM:  # perhaps slices that were blanked within the skin
        apex = find_lung_apex(dense, spacing_zyx_mm, image)
    if apex is None:
        return 0
    if above_mm(apex) < MIN_ABOVE_LUNGS_MM:
        raise UserError(
            f"expected head and neck, but the lungs begin {above_mm(apex):.0f} mm below the top of the patient in this "
            "scan: give a scan that shows the neck"
        )
    return max(0, apex - round(below_lung_apex_mm / slice_mm))


def _flat_end(image: np.ndarray, section: np.ndarray, grid: CoarseGrid, z: int, direction: int) -> int:
    """The last slice, from z in a direction, that still shows most of a cross-section (h, w) of the body."""
    while 0 <= z + direction < len(image):
        plane = image[z + direction][grid.first_vox[1] :: grid.stride_vox[1], grid.first_vox[2] :: grid.stride_vox[2]]
        if (plane[section] > AIR_HU / 2).mean() < 0.5:
            break
        z += direction
    return z

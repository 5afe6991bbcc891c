"""Whether DICOM slices form one voxel grid, and which."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from utils.errors import UserError
from utils.imaging.geometry import Geometry

NEEDED = (
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "PixelData",
)
SAME_PLACE_MM = 1e-3
OFF_GRID_MM = 0.1
"""Positions are often rounded to a tenth of a millimetre."""
MISSING_SLICE = 1.5
"""A distance of so many usual ones is a gap, not a coarse step."""
ORIENTATION_TOLERANCE = 1e-3
TILT_TOLERANCE_DEG = 0.1
SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class SliceGeometry:
    """Where one slice lies in the patient.

    Attributes:
        name: of the file, for messages.
        size_yx: rows and columns.
        spacing_yx_mm: between rows and between columns.
        position_mm: (x, y, z) of the first pixel's center, LPS.
        axes: (2, 3) unit vectors (x, y, z) along which columns and rows are counted.
    """

    name: str
    size_yx: tuple[int, int]
    spacing_yx_mm: tuple[float, float]
    position_mm: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> "SliceGeometry":
        """The place that a file's header says."""
        return cls(
            name=Path(dataset.filename).name,
            size_yx=(int(dataset.Rows), int(dataset.Columns)),
            spacing_yx_mm=tuple(float(value) for value in dataset.PixelSpacing),
            position_mm=np.array(dataset.ImagePositionPatient, dtype=float),
            axes=np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3),
        )


class Stack(NamedTuple):
    """Slices that form a grid."""

    order: tuple[int, ...]
    """Indices of the slices, ascending along their normal."""
    geometry: Geometry


def check_images(datasets: Sequence[Dataset]) -> None:
    """Refuse files that are not the single-frame gray CT slices of one series.

    Raises:
        UserError: what is wrong, everything at once.
    """
    problems = []
    modalities = sorted({str(dataset.get("Modality")) for dataset in datasets} - {"CT"})
    if modalities:
        problems.append(f"expected modality CT, got {', '.join(modalities)}")
    problems += _list("are color images", (d for d in datasets if d.get("SamplesPerPixel", 1) != 1))
    many = [d for d in datasets if int(d.get("NumberOfFrames") or 1) > 1]
    problems += _list("hold several images each: convert them to one image per file", many)
    for tag in NEEDED:
        problems += _list(f"lack {tag}", (d for d in datasets if d.get(tag) is None and d not in many))
    for tag in ("SeriesInstanceUID", "FrameOfReferenceUID"):
        values = {str(dataset.get(tag)) for dataset in datasets}
        if len(values) > 1:
            problems.append(f"mixes slices of {len(values)} values of {tag}: separate them")
    if problems:
        raise UserError("; ".join(problems))


def stack_slices(places: Sequence[SliceGeometry]) -> Stack:
    """Put slices in order and say which grid they form.

    Raises:
        UserError: they form none: sizes, spacings or orientations differ, slices are missing or repeated, distances
            vary, or the gantry was tilted.
    """
    if len(places) < 2:
        raise UserError("holds a single slice; expected at least two, to know their distance")
    _check_alike(places)
    axes = _perpendicular(np.mean([place.axes for place in places], axis=0))
    normal = np.cross(*axes)
    positions = np.stack([place.position_mm for place in places])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    _check_steps(heights[order], [places[i].name for i in order])
    first, last = positions[order[0]], positions[order[-1]]
    _check_tilt((last - first) / np.linalg.norm(last - first), normal, axes)
    shares = (heights[order] - heights[order[0]]) / (heights[order[-1]] - heights[order[0]])
    off_line = positions[order] - (first + shares[:, None] * (last - first))
    worst = int(np.abs(off_line).max(axis=1).argmax())
    if np.abs(off_line[worst]).max() > OFF_GRID_MM:
        shift = np.linalg.norm(off_line[worst])
        raise UserError(f"slices are shifted against each other: {places[order[worst]].name} by {shift:.2f} mm")
    geometry = Geometry(
        size_zyx=(len(places), *places[0].size_yx),
        spacing_zyx_mm=(float(np.ptp(heights)) / (len(places) - 1), *places[0].spacing_yx_mm),
        origin_xyz_mm=tuple(first.tolist()),
        direction=tuple(np.column_stack([*axes, normal]).ravel().tolist()),
    )
    return Stack(tuple(order.tolist()), geometry)


def _check_alike(places: Sequence[SliceGeometry]) -> None:
    problems = []
    sizes = {place.size_yx for place in places}
    if len(sizes) > 1:
        problems.append(f"mixes slices of different sizes: {', '.join(f'{y} x {x}' for y, x in sorted(sizes))}")
    spacings = np.array([place.spacing_yx_mm for place in places])
    if np.ptp(spacings, axis=0).max() > SAME_PLACE_MM:
        problems.append(f"mixes pixel spacings from {spacings.min():g} to {spacings.max():g} mm")
    if not (spacings > 0).all():
        problems.append("has a pixel spacing that is not positive")
    axes = np.stack([place.axes for place in places])
    if np.ptp(axes, axis=0).max() > ORIENTATION_TOLERANCE:
        problems.append("mixes slices of different orientations")
    gram = np.einsum("nij,nkj->nik", axes, axes)
    if np.abs(gram - np.eye(2)).max() > ORIENTATION_TOLERANCE:
        problems.append("has an image orientation that is no pair of perpendicular unit vectors")
    if problems:
        raise UserError("; ".join(problems))


def _check_steps(heights: np.ndarray, names: Sequence[str]) -> None:
    """Refuse repeated, missing and unequally spaced slices; `heights` (N,) in mm ascend."""
    steps = np.diff(heights)
    repeated = [f"{names[i]} and {names[i + 1]}" for i in np.flatnonzero(steps < SAME_PLACE_MM)]
    if repeated:
        raise UserError(f"{len(repeated)} slice(s) repeat a position: {_shorten(repeated)}; keep one of each")
    usual = float(np.median(steps))
    gaps = [f"after {names[i]} ({steps[i]:.2f} mm)" for i in np.flatnonzero(steps > MISSING_SLICE * usual)]
    if gaps:
        raise UserError(f"slices are missing, {usual:.2f} mm apart otherwise: {_shorten(gaps)}")
    off_grid = heights - np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(off_grid).max() > OFF_GRID_MM:
        raise UserError(
            f"slice distances vary from {steps.min():.2f} to {steps.max():.2f} mm, most at {names[np.argmax(steps)]}; "
            "a volume has one: export one reconstruction, or resample the series"
        )


def _check_tilt(line: np.ndarray, normal: np.ndarray, axes: np.ndarray) -> None:
    """Refuse a stack that leans: `line` is the unit vector from the first slice to the last."""
    tilt_deg = float(np.degrees(np.arcsin(np.clip(np.linalg.norm(axes @ line), 0, 1))))
    if tilt_deg > TILT_TOLERANCE_DEG:
        raise UserError(
            f"the gantry was tilted by {tilt_deg:.1f} degrees: slices lean against their stack, which no voxel grid "
            "holds; have the scanner or planning system straighten the series"
        )


def _perpendicular(axes: np.ndarray) -> np.ndarray:
    """The perpendicular unit vectors that are closest to two rounded ones."""
    left, _, right = np.linalg.svd(axes, full_matrices=False)
    return left @ right


def _list(what: str, datasets: Sequence[Dataset]) -> list[str]:
    names = [Path(dataset.filename).name for dataset in datasets]
    return [f"{len(names)} file(s) {what}: {_shorten(names)}"] if names else []


def _shorten(items: Sequence[str]) -> str:
    return ", ".join(items[:SHOWN]) + (", ..." if len(items) > SHOWN else "")

"""The voxel grid that DICOM slices form, or why they do not form one."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from utils.errors import UserError, shorten
from utils.imaging.geometry import Geometry

SINGLE_VALUES = dict.fromkeys(("Rows", "Columns", "BitsAllocated", "RescaleSlope", "RescaleIntercept"), 1)
NUM_VALUES = SINGLE_VALUES | {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}
"""Attributes that every slice needs, and their numbers of values."""
SAME_POSITION_MM = 1e-3
OFF_GRID_MM = 0.1
"""Positions are often rounded to 0.1 mm."""
MISSING_SLICE_RATIO = 1.5
"""A distance is a gap if its ratio to the median distance is larger."""
ORIENTATION_TOLERANCE = 1e-3
TILT_TOLERANCE_DEG = 0.1


class SliceGeometry(NamedTuple):
    """Position, orientation and size of one slice."""

    name: str
    """Of the file, for messages."""
    size_yx: tuple[int, int]
    spacing_yx_mm: tuple[float, float]
    position_mm: np.ndarray
    """(x, y, z) of the first pixel's center, LPS."""
    axes: np.ndarray
    """(2, 3) unit vectors (x, y, z): along a row, and along a column."""

    @classmethod
    def of(cls, dataset: Dataset) -> "SliceGeometry":
        """Read it from a file that `check_images` accepts."""
        return cls(
            name=Path(dataset.filename).name,
            size_yx=(int(dataset.Rows), int(dataset.Columns)),
            spacing_yx_mm=tuple(float(value) for value in dataset.PixelSpacing),
            position_mm=np.array(dataset.ImagePositionPatient, dtype=float),
            axes=np.array(dataset.ImageOrientationPatient, dtype=float).reshape(2, 3),
        )


class Stack(NamedTuple):
    """Slices in order, and their grid."""

    order: tuple[int, ...]
    """Indices of the slices, ascending along their normal."""
    geometry: Geometry


def check_images(datasets: Sequence[Dataset]) -> None:
    """Check that files are single-frame gray CT slices of one series.

    Raises:
        UserError: they are not; the message lists all problems.
    """
    problems = []
    modalities = sorted({str(dataset.get("Modality")) for dataset in datasets} - {"CT"})
    if modalities:
        problems.append(f"expected modality CT, got {', '.join(modalities)}")
    problems += _list("are color images", (d for d in datasets if d.get("SamplesPerPixel", 1) != 1))
    many = [d for d in datasets if int(d.get("NumberOfFrames") or 1) > 1]
    problems += _list("hold several images each: convert them to one image per file", many)
    single = [d for d in datasets if int(d.get("NumberOfFrames") or 1) == 1]
    for tag in (*NUM_VALUES, "PixelData"):
        problems += _list(f"lack {tag}", (d for d in single if d.get(tag) is None))
    for tag, count in NUM_VALUES.items():
        wrong = [d for d in single if d.get(tag) is not None and np.size(d.get(tag)) != count]
        problems += _list(f"have another number of values of {tag} than {count}", wrong)
    for tag in ("SeriesInstanceUID", "FrameOfReferenceUID"):
        values = {str(dataset.get(tag)) for dataset in datasets}
        if len(values) > 1:
            problems.append(f"mixes slices of {len(values)} values of {tag}: separate them")
    if problems:
        raise UserError("; ".join(problems))


def stack_slices(slices: Sequence[SliceGeometry]) -> Stack:
    """Sort slices and find the grid that they form.

    Raises:
        UserError: they do not form a grid: sizes, spacings or orientations differ, slices are missing or repeated,
            distances vary, or the gantry was tilted.
    """
    if len(slices) < 2:
        raise UserError("it has one slice, but the slice spacing needs two; add the missing slices")
    _check_alike(slices)
    left, _, right = np.linalg.svd(np.mean([slice_.axes for slice_ in slices], axis=0), full_matrices=False)
    axes = left @ right  # the perpendicular unit vectors that are closest to the rounded ones
    normal = np.cross(*axes)
    positions = np.stack([slice_.position_mm for slice_ in slices])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    _check_steps(heights[order], [slices[i].name for i in order])
    first, last = positions[order[0]], positions[order[-1]]
    _check_tilt((last - first) / np.linalg.norm(last - first), normal, axes)
    fractions = (heights[order] - heights[order[0]]) / (heights[order[-1]] - heights[order[0]])
    off_line = positions[order] - (first + fractions[:, None] * (last - first))
    worst = int(np.abs(off_line).max(axis=1).argmax())
    if np.abs(off_line[worst]).max() > OFF_GRID_MM:
        shift = np.linalg.norm(off_line[worst])
        raise UserError(
            f"slices are shifted against each other: {slices[order[worst]].name} by {shift:.2f} mm; resample it"
        )
    geometry = Geometry(
        size_zyx=(len(slices), *slices[0].size_yx),
        spacing_zyx_mm=(float(np.ptp(heights)) / (len(slices) - 1), *slices[0].spacing_yx_mm),
        origin_xyz_mm=tuple(first.tolist()),
        direction=tuple(np.column_stack([*axes, normal]).ravel().tolist()),
    )
    return Stack(tuple(order.tolist()), geometry)


def _check_alike(slices: Sequence[SliceGeometry]) -> None:
    problems = []
    sizes = {slice_.size_yx for slice_ in slices}
    if len(sizes) > 1:
        problems.append(f"mixes slices of different sizes: {', '.join(f'{y} x {x}' for y, x in sorted(sizes))}")
    spacings = np.array([slice_.spacing_yx_mm for slice_ in slices])
    if np.ptp(spacings, axis=0).max() > SAME_POSITION_MM:
        problems.append(f"mixes pixel spacings from {spacings.min():g} to {spacings.max():g} mm")
    if not (spacings > 0).all():
        problems.append("has a pixel spacing that is not positive")
    axes = np.stack([slice_.axes for slice_ in slices])
    if np.ptp(axes, axis=0).max() > ORIENTATION_TOLERANCE:
        problems.append("mixes slices of different orientations")
    gram = np.einsum("nij,nkj->nik", axes, axes)
    if np.abs(gram - np.eye(2)).max() > ORIENTATION_TOLERANCE:
        problems.append("has an image orientation that is not a pair of perpendicular unit vectors")
    if problems:
        raise UserError("; ".join(problems))


def _check_steps(heights: np.ndarray, names: Sequence[str]) -> None:
    """Refuse repeated, missing and unequally spaced slices; `heights` (N,) in mm ascend."""
    steps = np.diff(heights)
    repeated = [f"{names[i]} and {names[i + 1]}" for i in np.flatnonzero(steps < SAME_POSITION_MM)]
    if repeated:
        raise UserError(f"{len(repeated)} slice(s) repeat a position: {shorten(repeated)}; keep one of each")
    usual = float(np.median(steps))
    gaps = [f"after {names[i]} ({steps[i]:.2f} mm)" for i in np.flatnonzero(steps > MISSING_SLICE_RATIO * usual)]
    if gaps:
        raise UserError(f"slices are missing: {shorten(gaps)}; the others are {usual:.2f} mm apart; add them")
    off_grid = heights - np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(off_grid).max() > OFF_GRID_MM:
        raise UserError(
            f"slice distances vary from {steps.min():.2f} to {steps.max():.2f} mm, most at {names[np.argmax(steps)]}; "
            "export one reconstruction, or resample the series"
        )


def _check_tilt(line: np.ndarray, normal: np.ndarray, axes: np.ndarray) -> None:
    """Refuse an oblique stack: `line` is the unit vector from the first slice to the last."""
    tilt_deg = float(np.degrees(np.arcsin(np.clip(np.linalg.norm(axes @ line), 0, 1))))
    if tilt_deg > TILT_TOLERANCE_DEG:
        raise UserError(
            f"the gantry was tilted by {tilt_deg:.1f} degrees, so the slices do not form a regular grid; resample the "
            "series in the scanner or planning system"
        )


def _list(problem: str, datasets: Iterable[Dataset]) -> list[str]:
    names = [Path(dataset.filename).name for dataset in datasets]
    return [f"{len(names)} file(s) {problem}: {shorten(names)}"] if names else []

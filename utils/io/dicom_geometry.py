"""The voxel grid that DICOM slices form, or why they do not form one."""

import contextlib
from collections import Counter
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
OFF_LINE_MM = 0.2
"""How far rounding moves an oblique slice in its plane, and with it the line that the slices form."""
MISSING_SLICE_RATIO = 1.5
"""A distance is a gap if its ratio to the median distance is larger."""
MIN_RUN = 3
"""Distances that repeat this often, one after the other, are a block of a scan and no missing slice."""
ORIENTATION_TOLERANCE = 1e-3
TILT_TOLERANCE_DEG = 0.1
MAX_LOCALIZERS = 3
MIN_SLICES_PER_LOCALIZER = 5
COS_LOCALIZER = np.cos(np.radians(30.0))
RESAMPLE = "export one reconstruction at equal distances, or resample the series to them"
MOVE_OUT = "move files that are no slices of this CT out of the folder, or export the series again"


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


class Problem(NamedTuple):
    """Why slices do not form a grid, and what to do."""

    text: str
    remedy: str


def find_localizers(datasets: Sequence[Dataset]) -> list[int]:
    """Indices of images that are no slices but localizers (scouts) though their ImageType does not say so.

    Their plane is turned by more than 30 degrees against that of the others. They are few: at most three, and at most
    one for every five others. An image of another size or spacing alone may be a slice, so it is no localizer.
    """
    axes = [_numbers(dataset, "ImageOrientationPatient") for dataset in datasets]
    known = [i for i, values in enumerate(axes) if len(values) == 6 and any(values)]
    if not known:
        return []
    normals = np.array([np.cross(axes[i][:3], axes[i][3:]) for i in known])
    usual = normals[_most_common(normals, ORIENTATION_TOLERANCE)]
    turned = [i for i, normal in zip(known, normals, strict=True) if abs(normal @ usual) < COS_LOCALIZER]
    limit = min(MAX_LOCALIZERS, (len(datasets) - len(turned)) // MIN_SLICES_PER_LOCALIZER)
    return turned if len(turned) <= limit else []


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
    num_frames = [max(_numbers(dataset, "NumberOfFrames"), default=1) for dataset in datasets]
    many = [d for d, count in zip(datasets, num_frames, strict=True) if count > 1]
    problems += _list("hold several images each: convert them to one image per file", many)
    single = [d for d, count in zip(datasets, num_frames, strict=True) if count <= 1]
    for tag in (*NUM_VALUES, "PixelData"):
        problems += _list(f"lack {tag}", (d for d in single if d.get(tag) is None))
    for tag, count in NUM_VALUES.items():
        given = [d for d in single if d.get(tag) is not None]
        wrong = [d for d in given if np.size(d.get(tag)) != count]
        problems += _list(f"have another number of values of {tag} than {count}", wrong)
        garbled = [d for d in given if np.size(d.get(tag)) == count != len(_numbers(d, tag))]
        problems += _list(f"have a {tag} that is no number", garbled)
    problems += _list("have a RescaleSlope of 0", (d for d in single if 0 in _numbers(d, "RescaleSlope")))
    frames = Counter(str(dataset.get("FrameOfReferenceUID")) for dataset in datasets)
    usual = frames.most_common(1)[0][0]
    odd = [d for d in datasets if str(d.get("FrameOfReferenceUID")) != usual]
    problems += _list(f"of {len(datasets)} have another FrameOfReferenceUID than the others", odd)
    if problems:
        raise UserError(f"{'; '.join(problems)}; {MOVE_OUT}")


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
    names = [slices[i].name for i in order]
    _check_repeated(heights[order], names)
    problems = [
        *_sideways_problem(heights[order], (positions @ axes.T)[order], names),
        *_distance_problem(heights[order], names),
    ]
    if problems:
        raise UserError("; ".join([", and ".join(p.text for p in problems), *(p.remedy for p in problems)]))
    geometry = Geometry(
        size_zyx=(len(slices), *slices[0].size_yx),
        spacing_zyx_mm=(float(np.ptp(heights)) / (len(slices) - 1), *slices[0].spacing_yx_mm),
        origin_xyz_mm=tuple(positions[order[0]].tolist()),
        direction=tuple(np.column_stack([*axes, normal]).ravel().tolist()),
    )
    return Stack(tuple(order.tolist()), geometry)


def _numbers(dataset: Dataset, tag: str) -> list[float]:
    """The values of an attribute that are finite numbers; pydicom leaves garbled ones as text."""
    numbers = []
    for value in np.ravel(dataset.get(tag, ())):
        with contextlib.suppress(TypeError, ValueError):
            numbers.append(float(value))
    return [number for number in numbers if np.isfinite(number)]


def _check_alike(slices: Sequence[SliceGeometry]) -> None:
    """Refuse slices that differ in size, spacing or orientation, and name those that differ from most."""
    sizes = np.array([slice_.size_yx for slice_ in slices])
    spacings = np.array([slice_.spacing_yx_mm for slice_ in slices])
    axes = np.array([slice_.axes.ravel() for slice_ in slices])
    gram = np.einsum("nij,nkj->nik", axes.reshape(-1, 2, 3), axes.reshape(-1, 2, 3))
    skew = [
        s.name
        for s, error in zip(slices, np.abs(gram - np.eye(2)).max(axis=(1, 2)), strict=True)
        if error > ORIENTATION_TOLERANCE
    ]
    flat = [s.name for s in slices if min(s.spacing_yx_mm) <= 0]
    problems = [
        _odd_ones("size", sizes, 0, "{:.0f} x {:.0f}", slices),
        _odd_ones("pixel spacing", spacings, SAME_POSITION_MM, "{:g} x {:g} mm", slices),
        _odd_ones("orientation", axes, ORIENTATION_TOLERANCE, "{:.3g} {:.3g} {:.3g}, {:.3g} {:.3g} {:.3g}", slices),
        flat and f"has a pixel spacing that is not positive: {shorten(flat)}",
        skew and f"has an image orientation that is not a pair of perpendicular unit vectors: {shorten(skew)}",
    ]
    if any(problems):
        raise UserError(f"{'; '.join(filter(None, problems))}; {MOVE_OUT}")


def _most_common(values: np.ndarray, tolerance: float) -> int:
    """The first row of (N, k) that the most rows equal, each number to within `tolerance`."""
    return int(np.argmax([(np.abs(values - row).max(axis=1) <= tolerance).sum() for row in values]))


def _odd_ones(
    what: str, values: np.ndarray, tolerance: float, form: str, slices: Sequence[SliceGeometry]
) -> str | None:
    """Which slices differ from most in `values` (N, k), printed by `form`; None if none does."""
    if np.ptp(values, axis=0).max() <= tolerance:
        return None
    usual = values[_most_common(values, tolerance)]
    odd = np.flatnonzero(np.abs(values - usual).max(axis=1) > tolerance)
    listed = shorten((f"{slices[i].name} ({form.format(*values[i])})" for i in odd), "; ")
    return f"{len(odd)} of {len(slices)} slices have another {what} than {form.format(*usual)}: {listed}"


def _check_repeated(heights: np.ndarray, names: Sequence[str]) -> None:
    """Refuse slices at one position; `heights` (N,) in mm ascend."""
    repeated = [f"{names[i]} and {names[i + 1]}" for i in np.flatnonzero(np.diff(heights) < SAME_POSITION_MM)]
    if repeated:
        raise UserError(
            f"{len(repeated)} slice(s) repeat a position: {shorten(repeated)}; keep one of each, or separate the two "
            "reconstructions"
        )


def _distance_problem(heights: np.ndarray, names: Sequence[str]) -> list[Problem]:
    """How slices fail to lie at equal distances: blocks of different distances, missing slices, or neither."""
    steps = np.diff(heights)
    off_grid = heights - np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(off_grid).max() <= OFF_GRID_MM:
        return []
    ends = np.append(np.flatnonzero(np.abs(np.diff(steps)) > OFF_GRID_MM) + 1, len(steps))
    runs = [(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True) if end - start >= MIN_RUN]
    if len(runs) > 1 and np.ptp([steps[start] for start, _ in runs]) > OFF_GRID_MM:
        listed = shorten(f"{steps[a:b].mean():.2f} mm from {names[a]} to {names[b]}" for a, b in runs)
        return [Problem(f"slice distances vary: {listed}", RESAMPLE)]
    usual = float(np.median(steps))
    gaps = [f"after {names[i]} ({steps[i]:.2f} mm)" for i in np.flatnonzero(steps > MISSING_SLICE_RATIO * usual)]
    if gaps:
        missing = f"slices are missing: {shorten(gaps)}; the others are {usual:.2f} mm apart"
        return [Problem(missing, "add their files, or export the series again")]
    widest = names[np.argmax(steps)]
    varying = f"slice distances vary from {steps.min():.2f} to {steps.max():.2f} mm, most after {widest}"
    return [Problem(varying, RESAMPLE)]


def _sideways_problem(heights: np.ndarray, sideways: np.ndarray, names: Sequence[str]) -> list[Problem]:
    """How slices at `heights` (N,) do not lie straight above each other, by their places (N, 2) in their plane, mm.

    The median over all pairs of slices gives the tilt, so that a few shifted slices do not pass for a tilt.
    """
    low, high = np.triu_indices(len(heights), 1)
    lean = np.median((sideways[high] - sideways[low]) / (heights[high] - heights[low])[:, None], axis=0)
    off_line = sideways - np.outer(heights, lean)
    shifts = np.linalg.norm(off_line - np.median(off_line, axis=0), axis=1)
    worst = int(shifts.argmax())
    if shifts[worst] > OFF_LINE_MM:
        shifted = f"slices are shifted against each other: {names[worst]} by {shifts[worst]:.2f} mm"
        return [Problem(shifted, "export the series again, or resample it")]
    tilt_deg = float(np.degrees(np.arctan(np.linalg.norm(lean))))
    if tilt_deg <= TILT_TOLERANCE_DEG or np.linalg.norm(lean) * np.ptp(heights) <= OFF_LINE_MM:
        return []
    return [Problem(f"the gantry was tilted by {tilt_deg:.1f} degrees", "resample the series without tilt")]


def _list(problem: str, datasets: Iterable[Dataset]) -> list[str]:
    names = [Path(dataset.filename).name for dataset in datasets]
    return [f"{len(names)} file(s) {problem}: {shorten(names)}"] if names else []

"""How the slices of a CT lie to each other as they are stored, or why they are not slices of one CT."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import UserError, shorten
from utils.imaging.geometry import MAX_VOXEL_MM, MIN_VOXEL_MM, Geometry

SAME_POSITION_MM = 1e-3
OFF_GRID_MM = 0.1
"""Positions are often rounded to 0.1 mm."""
OFF_LINE_MM = 0.2
"""How far rounding moves an oblique slice in its plane, and with it the line that the slices form."""
MISSING_SLICE_RATIO = 1.5
"""A distance is a gap if its ratio to the distances beside it is larger."""
MIN_RUN = 3
"""Distances that repeat this often, one after the other, are a block of a scan and no missing slice."""
MAX_FILLED_MM = 12.0
"""The widest gap that is filled on request: about the height of the smallest organs."""
MAX_GAP_SHARE = 0.25
"""Of the distances: slices are rarely lost so often, and filling would mix two scans."""
MAX_BLOCKS = 4
ORIENTATION_TOLERANCE = 1e-3
TILT_TOLERANCE_DEG = 0.1
MOVE_OUT = "move files that are no slices of this CT out of the folder, or export the series again"
SEPARATE = "export each scan as a series of its own, with all of its slices"
ADD_FILES = "add their files, export the series again, or interpolate with --fill-gaps of inference.py"


class SliceGeometry(NamedTuple):
    """Position, orientation and size of one slice."""

    name: str
    """For messages."""
    size_yx: tuple[int, int]
    spacing_yx_mm: tuple[float, float]
    position_mm: np.ndarray
    """(x, y, z) of the first pixel's center, LPS."""
    axes: np.ndarray
    """(2, 3) unit vectors (x, y, z): along a row, and along a column."""
    number: tuple[float, float] | None = None
    """Numbers of acquisition and image, which give the order in which slices were reconstructed."""


class Stack(NamedTuple):
    """Parallel slices as they are stored, ascending along their normal."""

    order: tuple[int, ...]
    """Indices of the slices; those that overlap others are left out."""
    size_yx: tuple[int, int]
    spacing_yx_mm: tuple[float, float]
    axes: np.ndarray
    """(2, 3) perpendicular unit vectors (x, y, z): along a row, and along a column."""
    positions_mm: np.ndarray
    """(N, 3) first pixels' centers (x, y, z), LPS."""
    tilt_deg: float
    """Angle between the normal and the line that the slices form; 0 if they lie straight above each other."""
    is_even: bool
    """Whether their distances are equal."""
    notes: tuple[str, ...]
    """What is unusual about them."""

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector (x, y, z)."""
        return np.cross(*self.axes)

    @property
    def heights_mm(self) -> np.ndarray:
        """(N,) along the normal, ascending."""
        return self.positions_mm @ self.normal

    @property
    def places_mm(self) -> np.ndarray:
        """(N, 2) of the first pixels in the plane of the slices: along a row, and along a column."""
        return self.positions_mm @ self.axes.T

    def slice_geometry(self, index: int) -> Geometry:
        """The one plane of pixels of a stored slice."""
        return Geometry(
            size_zyx=(1, *self.size_yx),
            spacing_zyx_mm=(1.0, *self.spacing_yx_mm),
            origin_xyz_mm=tuple(self.positions_mm[index].tolist()),
            direction=self.direction,
        )

    @property
    def direction(self) -> tuple[float, ...]:
        """Of a grid whose slices are parallel to these."""
        return tuple(np.column_stack([*self.axes, self.normal]).ravel().tolist())

    @property
    def is_regular(self) -> bool:
        """Whether the slices are those of a voxel grid."""
        return self.is_even and not self.tilt_deg


class Problem(NamedTuple):
    """Why slices are not those of one CT, and what to do."""

    text: str
    remedy: str


def stack_slices(slices: Sequence[SliceGeometry], *, fill_gaps: bool = False) -> Stack:
    """Sort slices and find how they lie to each other.

    Args:
        slices: in any order.
        fill_gaps: accept missing slices, up to `MAX_FILLED_MM`.

    Raises:
        UserError: sizes, spacings or orientations differ, slices are missing, repeated, or shifted against each other.
    """
    if len(slices) < 2:
        raise UserError("it has one slice, but the slice spacing needs two; add the missing slices")
    _check_alike(slices)
    left, _, right = np.linalg.svd(np.mean([slice_.axes for slice_ in slices], axis=0), full_matrices=False)
    axes = left @ right  # the perpendicular unit vectors that are closest to the rounded ones
    normal = np.cross(*axes)
    positions = np.stack([slice_.position_mm for slice_ in slices])
    order = np.argsort(positions @ normal, kind="stable")
    notes = []
    if not _are_even(positions[order] @ normal) and (overlapping := _overlap(slices, positions @ normal)):
        names = shorten(slices[i].name for i in sorted(overlapping))
        notes.append(f"{len(overlapping)} slice(s) that overlap another block of the scan were left out: {names}")
        order = np.array([i for i in order if i not in overlapping])
    notes += _alternating([slices[i].number for i in order])
    positions, names = positions[order], [slices[i].name for i in order]
    heights = positions @ normal
    _check_repeated(heights, names)
    tilt_deg, shifted = _sideways(heights, positions @ axes.T, names)
    missing = None if _are_even(heights) else _missing(heights, names)
    if problems := [p for p in (shifted, missing and missing.problem(fill_gaps=fill_gaps)) if p]:
        raise UserError("; ".join([", and ".join(p.text for p in problems), *notes, *(p.remedy for p in problems)]))
    if tilt_deg:
        notes.append(f"the gantry was tilted by {tilt_deg:.1f} degrees")
    if missing:
        notes.append(f"{missing.text}; they were interpolated: look at the organs there")
    elif not _are_even(heights):
        notes.append(_distances(heights, names))
    return Stack(
        order=tuple(order.tolist()),
        size_yx=slices[0].size_yx,
        spacing_yx_mm=slices[0].spacing_yx_mm,
        axes=axes,
        positions_mm=positions,
        tilt_deg=tilt_deg,
        is_even=_are_even(heights),
        notes=tuple(notes),
    )


def finest_distance_mm(heights_mm: np.ndarray) -> float:
    """The smallest distance that slices have over several of them; `heights_mm` (N,) ascend."""
    steps = np.diff(heights_mm)
    if len(steps) < MIN_RUN:
        return float(steps.min())
    return float(np.median(np.lib.stride_tricks.sliding_window_view(steps, MIN_RUN), axis=1).min())


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
    odd = [s.name for s in slices if not MIN_VOXEL_MM <= min(s.spacing_yx_mm) <= max(s.spacing_yx_mm) <= MAX_VOXEL_MM]
    problems = [
        _odd_ones("size", sizes, 0, "{:.0f} x {:.0f}", slices),
        _odd_ones("pixel spacing", spacings, SAME_POSITION_MM, "{:g} x {:g} mm", slices),
        _odd_ones("orientation", axes, ORIENTATION_TOLERANCE, "{:.3g} {:.3g} {:.3g}, {:.3g} {:.3g} {:.3g}", slices),
        odd and f"has a pixel spacing beyond {MIN_VOXEL_MM:g} to {MAX_VOXEL_MM:g} mm: {shorten(odd)}",
        skew and f"has an image orientation that is not a pair of perpendicular unit vectors: {shorten(skew)}",
    ]
    if any(problems):
        raise UserError(f"{'; '.join(filter(None, problems))}; {MOVE_OUT}")


def most_common(values: np.ndarray, tolerance: float) -> int:
    """The first row of (N, k) that the most rows equal, each number to within `tolerance`."""
    return int(np.argmax([(np.abs(values - row).max(axis=1) <= tolerance).sum() for row in values]))


def _odd_ones(
    what: str, values: np.ndarray, tolerance: float, form: str, slices: Sequence[SliceGeometry]
) -> str | None:
    """Which slices differ from most in `values` (N, k), printed by `form`; None if none does."""
    if np.ptp(values, axis=0).max() <= tolerance:
        return None
    usual = values[most_common(values, tolerance)]
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


def _are_even(heights: np.ndarray) -> bool:
    """Whether heights (N,), which ascend, have equal distances but for rounding."""
    return bool(np.abs(heights - np.linspace(heights[0], heights[-1], len(heights))).max() <= OFF_GRID_MM)


def _overlap(slices: Sequence[SliceGeometry], heights: np.ndarray) -> set[int]:
    """Indices of slices that lie within a block of the scan that was reconstructed before theirs.

    In the order of their numbers, slices go one way along the patient; a new block begins where they step back. If two
    blocks overlap by half or more, they are two reconstructions of the same part, and none of their slices is left out.
    """
    known = {slice_.number for slice_ in slices}
    if None in known or len(known) < len(slices):
        return set()
    order = np.array(sorted(range(len(slices)), key=lambda i: slices[i].number))
    steps = np.diff(heights[order])
    steps = steps * (1 if np.median(steps) > 0 else -1)
    blocks = np.split(order, np.flatnonzero(steps < SAME_POSITION_MM) + 1)
    if not 1 < len(blocks) <= MAX_BLOCKS:
        return set()
    overlapping: set[int] = set()
    for number, block in enumerate(blocks):
        for other in blocks[:number]:
            low, high = heights[other].min() - SAME_POSITION_MM, heights[other].max() + SAME_POSITION_MM
            within = [int(i) for i in block if low <= heights[i] <= high]
            if len(within) < min(len(block), len(other)) / 2:
                overlapping |= set(within)
    return overlapping


def _alternating(order: Sequence[tuple[float, float] | None]) -> list[str]:
    """A note if the slices of several acquisitions lie between each other; `order` is that along the patient.

    So do two scans under one UID, and slices of one scan that was acquired in two rounds.
    """
    acquisitions = [number[0] for number in order if number]
    counts = Counter(acquisitions)
    changes = sum(one != other for one, other in itertools.pairwise(acquisitions))
    if not 1 < len(counts) <= MAX_BLOCKS or min(counts.values()) < MIN_RUN or changes < len(acquisitions) / 2:
        return []
    listed = ", ".join(f"{number:g} ({count} slices)" for number, count in sorted(counts.items()))
    return [f"slices of acquisitions {listed} alternate; check that they are one scan and not two"]


class _Missing(NamedTuple):
    """Slices that are missing between others."""

    text: str
    widest_mm: float
    share: float
    """Of the distances; 0 if there is one alone."""

    def problem(self, *, fill_gaps: bool) -> Problem | None:
        if self.share > MAX_GAP_SHARE:
            return Problem(f"{self.text}. So many gaps may be those of two interleaved scans", SEPARATE)
        if not fill_gaps:
            return Problem(self.text, ADD_FILES)
        if self.widest_mm > MAX_FILLED_MM:
            return Problem(self.text, f"only gaps of up to {MAX_FILLED_MM:.0f} mm are filled; add their files")
        return None


def _missing(heights: np.ndarray, names: Sequence[str]) -> _Missing | None:
    """Steps that are much longer than those on both of their sides."""
    steps = np.diff(heights)
    usual = [
        max(np.median(side) for side in (steps[max(0, i - MIN_RUN) : i], steps[i + 1 : i + 1 + MIN_RUN]) if len(side))
        for i in range(len(steps))
        if len(steps) > 1
    ]
    gaps = [i for i, other in enumerate(usual) if steps[i] > MISSING_SLICE_RATIO * other]
    if not gaps:
        return None
    listed = shorten(f"after {names[i]} ({steps[i]:.2f} mm)" for i in gaps)
    text = f"slices are missing: {listed}; the others are {usual[gaps[0]]:.2f} mm apart"
    return _Missing(text, float(steps[gaps].max()), len(gaps) / len(steps) if len(gaps) > 1 else 0.0)


def _distances(heights: np.ndarray, names: Sequence[str]) -> str:
    """How the distances vary: in blocks, or from slice to slice."""
    steps = np.diff(heights)
    ends = np.append(np.flatnonzero(np.abs(np.diff(steps)) > OFF_GRID_MM) + 1, len(steps))
    runs = [(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True) if end - start >= MIN_RUN]
    if len(runs) > 1 and np.ptp([steps[start] for start, _ in runs]) > OFF_GRID_MM:
        listed = shorten(f"{steps[a:b].mean():.2f} mm from {names[a]} to {names[b]}" for a, b in runs)
        return f"slice distances vary: {listed}"
    widest = names[np.argmax(steps)]
    return f"slice distances vary from {steps.min():.2f} to {steps.max():.2f} mm, most after {widest}"


def _sideways(heights: np.ndarray, sideways: np.ndarray, names: Sequence[str]) -> tuple[float, Problem | None]:
    """The tilt in degrees, or how slices at `heights` (N,) are shifted, by their places (N, 2) in their plane, in mm.

    The median over all pairs of slices gives the tilt, so that a few shifted slices do not pass for a tilt.
    """
    low, high = np.triu_indices(len(heights), 1)
    lean = np.median((sideways[high] - sideways[low]) / (heights[high] - heights[low])[:, None], axis=0)
    off_line = sideways - np.outer(heights, lean)
    shifts = np.linalg.norm(off_line - np.median(off_line, axis=0), axis=1)
    worst = int(shifts.argmax())
    if shifts[worst] > OFF_LINE_MM:
        shifted = f"slices are shifted against each other: {names[worst]} by {shifts[worst]:.2f} mm"
        return 0.0, Problem(shifted, "export the series again, or resample it")
    tilt_deg = float(np.degrees(np.arctan(np.linalg.norm(lean))))
    is_straight = tilt_deg <= TILT_TOLERANCE_DEG or np.linalg.norm(lean) * np.ptp(heights) <= OFF_LINE_MM
    return (0.0 if is_straight else tilt_deg), None

"""Shapes that a phantom is built from, as signed distances in mm; axes (z up, y posterior, x left)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise

import numpy as np

Point = tuple[float, float, float]
Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Shape:
    """A solid in the template's coordinates; `a & b` is the intersection of two, `a - b` the first without the second.

    Attributes:
        distance: from arrays of z, y and x in mm to the approximate distance to the surface in mm, negative inside.
        bounds: (2, 3), lowest and highest (z, y, x) of the solid in mm.
    """

    distance: Callable[[Array, Array, Array], Array]
    bounds: Array

    def __and__(self, other: "Shape") -> "Shape":
        bounds = np.array([np.maximum(self.bounds[0], other.bounds[0]), np.minimum(self.bounds[1], other.bounds[1])])
        return Shape(lambda *zyx: np.maximum(self.distance(*zyx), other.distance(*zyx)), bounds)

    def __sub__(self, hole: "Shape") -> "Shape":
        return Shape(lambda *zyx: np.maximum(self.distance(*zyx), -hole.distance(*zyx)), self.bounds)

    def mirrored(self) -> "Shape":
        """The same shape on the other side of the midline."""
        return Shape(lambda z, y, x: self.distance(z, y, -x), np.sort(self.bounds * (1, 1, -1), axis=0))

    def moved(self, pivot: Point = (0, 0, 0), scale: Point = (1, 1, 1), shift: Point = (0, 0, 0)) -> "Shape":
        """The same shape, scaled about a pivot and then shifted."""

        def distance(*zyx: Array) -> Array:
            axes = zip(zyx, pivot, scale, shift, strict=True)
            return self.distance(*((p - offset - center) / size + center for p, center, size, offset in axes))

        return Shape(distance, (self.bounds - pivot) * scale + pivot + shift)


def ellipsoid(center: Point, radii: Point) -> Shape:
    """An ellipsoid with axes along z, y and x."""

    def distance(*zyx: Array) -> Array:
        scaled = [(p - c) / r for p, c, r in zip(zyx, center, radii, strict=True)]
        level = np.sqrt(sum(s * s for s in scaled)) + 1e-6
        slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True))) + 1e-6 / min(radii)
        return level * (level - 1) / slope

    return Shape(distance, np.array(center) + np.outer((-1, 1), radii))


def box(low: Point, high: Point) -> Shape:
    """A box between two corners, which cuts other shapes."""

    def distance(*zyx: Array) -> Array:
        return reduce(np.maximum, (np.maximum(a - p, p - b) for p, a, b in zip(zyx, low, high, strict=True)))

    return Shape(distance, np.array([low, high]))


def tube(points: Sequence[Point], radii: Sequence[float], stretch: Point = (1.0, 1.0, 1.0)) -> Shape:
    """Cones between points, with a radius per point; `stretch` widens the cross-section along each axis."""
    ends = list(zip((np.asarray(points) / stretch).tolist(), radii, strict=True))

    def distance(*zyx: Array) -> Array:
        coordinates = [p / s for p, s in zip(zyx, stretch, strict=True)]
        distances = []
        for (start, radius), (end, end_radius) in pairwise(ends):
            along, squared = _project(coordinates, start, end)
            distances.append(np.sqrt(squared) - (radius + along * (end_radius - radius)))
        return reduce(np.minimum, distances) * min(stretch)

    reach = np.multiply(max(radii), stretch)
    return Shape(distance, np.array([np.min(points, axis=0) - reach, np.max(points, axis=0) + reach]))


def column(sections: Sequence[tuple[float, float, float, float]], x: float = 0.0, power: float = 2.0) -> Shape:
    """An upright column whose cross-section is a superellipse that changes with z.

    Args:
        sections: (z, center y, radius y, radius x) from top to bottom.
        x: center.
        power: exponent of the superellipse; 2 is an ellipse, a larger one approaches a rectangle.
    """
    heights, *profiles = np.transpose(sections)[:, ::-1]
    bottom, top, center_x = float(heights[0]), float(heights[-1]), x

    def distance(z: Array, y: Array, x: Array) -> Array:
        center_y, radius_y, radius_x = (np.interp(z, heights, profile).astype(z.dtype) for profile in profiles)
        dy, dx = np.abs(y - center_y) + 1e-3, np.abs(x - center_x) + 1e-3
        if power == 2.0:
            level = np.sqrt((dy / radius_y) ** 2 + (dx / radius_x) ** 2)
        else:
            level = ((dy / radius_y) ** power + (dx / radius_x) ** power) ** (1 / power)
        radial = np.hypot(dy, dx)
        return np.maximum(radial - radial / level, np.maximum(z - top, bottom - z))

    center_y, radius_y, radius_x = profiles
    low = bottom, (center_y - radius_y).min(), center_x - radius_x.max()
    return Shape(distance, np.array([low, (top, (center_y + radius_y).max(), center_x + radius_x.max())]))


def ribbon(posts: Sequence[tuple[float, float, float, float, float]]) -> Shape:
    """A wall on a curve in the axial plane, through posts of (y, x, lower z, upper z, half thickness)."""

    def distance(z: Array, y: Array, x: Array) -> Array:
        distances = []
        for start, end in pairwise(posts):
            along, squared = _project((y, x), start[:2], end[:2])
            bottom, top, half = (a + along * (b - a) for a, b in zip(start[2:], end[2:], strict=True))
            beside = np.sqrt(squared) - half
            above = np.abs(z - (bottom + top) / 2) - (top - bottom) / 2
            distances.append(_rounded_corner(beside, above))
        return reduce(np.minimum, distances)

    y, x, bottom, top, half = np.transpose(posts)
    low = bottom.min(), (y - half).min(), (x - half).min()
    return Shape(distance, np.array([low, (top.max(), (y + half).max(), (x + half).max())]))


def arch(posts: Sequence[tuple[float, float, float, float, float]]) -> Shape:
    """A ribbon that is symmetric about the midline; the last of the left half's posts lies in the midline."""
    return ribbon((*posts, *((y, -x, *rest) for y, x, *rest in posts[-2::-1])))


def plate(outline_zy: Sequence[tuple[float, float]], x: float, lean: float, half_thickness: float) -> Shape:
    """A sagittal polygon with a thickness along x; its center is `x` at z = 0 and shifts by `lean` per mm of z."""
    center_x = x

    def distance(z: Array, y: Array, x: Array) -> Array:
        squared = np.full(z.shape, np.inf, z.dtype)
        inside = np.zeros(z.shape, bool)
        for start, end in pairwise((*outline_zy, outline_zy[0])):
            squared = np.minimum(squared, _project((z, y), start, end)[1])
            if start[0] != end[0]:
                crossing = start[1] + (z - start[0]) * ((end[1] - start[1]) / (end[0] - start[0]))
                inside ^= ((start[0] > z) != (end[0] > z)) & (y < crossing)
        within = np.where(inside, -np.sqrt(squared), np.sqrt(squared))
        return _rounded_corner(within, np.abs(x - (center_x + lean * z)) - half_thickness)

    z, y = np.transpose(outline_zy)
    centers = center_x + lean * z
    low = z.min(), y.min(), centers.min() - half_thickness
    return Shape(distance, np.array([low, (z.max(), y.max(), centers.max() + half_thickness)]))


def union(*shapes: Shape, blend_mm: float = 0.0) -> Shape:
    """Several shapes; their seams are rounded over `blend_mm`."""
    minimum = partial(smooth_min, blend=blend_mm)
    lows, highs = np.stack([shape.bounds for shape in shapes], axis=1)
    bounds = np.array([lows.min(axis=0), highs.max(axis=0)])
    return Shape(lambda *zyx: reduce(minimum, (shape.distance(*zyx) for shape in shapes)), bounds)


def folds(shape: Shape, period_zyx_mm: Point, half_thickness: float, depth_mm: float = np.inf) -> Shape:
    """Folded sheets within a shape's outer `depth_mm`: sulci of the brain, walls of air cells."""
    waves = [2 * np.pi / period for period in period_zyx_mm]

    def distance(*zyx: Array) -> Array:
        phases = [wave * p for wave, p in zip(waves, zyx, strict=True)]
        # A second, incommensurate wave breaks the gyroid's periodicity.
        u, v, w = (phase + 0.7 * np.sin(0.37 * other) for phase, other in pairwise((*phases, phases[0])))
        gyroid = np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)
        sheet = np.abs(gyroid) / (1.5 * max(waves)) - half_thickness
        solid = shape.distance(*zyx)
        return np.maximum(np.maximum(sheet, solid), -solid - depth_mm)

    return Shape(distance, shape.bounds)


def smooth_min(first: Array, second: Array, blend: float) -> Array:
    """Minimum with a rounding of width `blend` where the arguments are equal."""
    if blend == 0:
        return np.minimum(first, second)
    overlap = np.maximum(blend - np.abs(first - second), 0)
    return np.minimum(first, second) - overlap * overlap / (4 * blend)


def _rounded_corner(first: Array, second: Array) -> Array:
    """Distance to the intersection of two slabs, exact outside of its edge."""
    return np.minimum(np.maximum(first, second), 0) + np.hypot(np.maximum(first, 0), np.maximum(second, 0))


def _project(coordinates: Sequence[Array], start: Sequence[float], end: Sequence[float]) -> tuple[Array, Array]:
    """Position along a segment (0 to 1) of the point nearest to each coordinate, and the squared distance to it."""
    direction = [b - a for a, b in zip(start, end, strict=True)]
    offsets = [p - a for p, a in zip(coordinates, start, strict=True)]
    length = max(sum(d * d for d in direction), 1e-6)
    along = np.clip(sum(o * d for o, d in zip(offsets, direction, strict=True)) / length, 0, 1)
    return along, sum((o - along * d) ** 2 for o, d in zip(offsets, direction, strict=True))

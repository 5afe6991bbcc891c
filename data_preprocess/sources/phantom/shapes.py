"""Shapes that a phantom is built from, as signed distances in mm; axes (z up, y posterior, x left)."""

from dataclasses import dataclass
from functools import partial, reduce
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

Point = tuple[float, float, float]
Array = np.ndarray


class Bounds(NamedTuple):
    """Opposite corners of a box."""

    low: Point
    high: Point

    @classmethod
    def of(cls, low: ArrayLike, high: ArrayLike) -> "Bounds":
        """Corners given as arrays."""
        return cls(tuple(low), tuple(high))


class Shape(Protocol):
    """A solid in the template's coordinates."""

    @property
    def bounds(self) -> Bounds:
        """A box that holds the solid."""

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        """Approximate distance to the surface in mm, negative inside, for coordinates in mm."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with axes along z, y and x."""

    center: Point
    radii: Point

    @property
    def bounds(self) -> Bounds:
        return Bounds.of(np.subtract(self.center, self.radii), np.add(self.center, self.radii))

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        scaled = [(p - c) / r for p, c, r in zip((z, y, x), self.center, self.radii, strict=True)]
        level = np.sqrt(sum(s * s for s in scaled)) + 1e-6
        slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, self.radii, strict=True))) + 1e-6 / min(self.radii)
        return level * (level - 1) / slope


@dataclass(frozen=True)
class Tube:
    """Cones between points, with a radius per point; `stretch` widens the cross-section along each axis."""

    points: tuple[Point, ...]
    radii: tuple[float, ...]
    stretch: Point = (1.0, 1.0, 1.0)

    @property
    def bounds(self) -> Bounds:
        reach = max(self.radii) * np.array(self.stretch)
        return Bounds.of(np.min(self.points, axis=0) - reach, np.max(self.points, axis=0) + reach)

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        coordinates = [p / s for p, s in zip((z, y, x), self.stretch, strict=True)]
        points = np.asarray(self.points) / self.stretch
        distances = []
        for start, end, radius, end_radius in zip(points, points[1:], self.radii, self.radii[1:], strict=False):
            along, squared = _project(coordinates, start.tolist(), end.tolist())
            distances.append(np.sqrt(squared) - (radius + along * (end_radius - radius)))
        return reduce(np.minimum, distances) * min(self.stretch)


@dataclass(frozen=True)
class Column:
    """An upright column whose cross-section is a superellipse that changes with z.

    Attributes:
        sections: (z, center y, radius y, radius x) from top to bottom.
        x: center.
        power: exponent of the superellipse; 2 is an ellipse, a larger one approaches a rectangle.
    """

    sections: tuple[tuple[float, float, float, float], ...]
    x: float = 0.0
    power: float = 2.0

    @property
    def bounds(self) -> Bounds:
        z, y, radius_y, radius_x = np.transpose(self.sections)
        return Bounds(
            (z.min(), (y - radius_y).min(), self.x - radius_x.max()),
            (z.max(), (y + radius_y).max(), self.x + radius_x.max()),
        )

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        heights, *profiles = np.transpose(self.sections)[:, ::-1]
        center, radius_y, radius_x = (np.interp(z, heights, profile).astype(z.dtype) for profile in profiles)
        dy, dx = np.abs(y - center) + 1e-3, np.abs(x - self.x) + 1e-3
        if self.power == 2.0:
            level = np.sqrt((dy / radius_y) ** 2 + (dx / radius_x) ** 2)
        else:
            level = ((dy / radius_y) ** self.power + (dx / radius_x) ** self.power) ** (1 / self.power)
        radial = np.hypot(dy, dx)
        bottom, top = float(heights[0]), float(heights[-1])
        return np.maximum(radial - radial / level, np.maximum(z - top, bottom - z))


@dataclass(frozen=True)
class Ribbon:
    """A wall on a curve in the axial plane, such as a jaw.

    Attributes:
        posts: (y, x, lower z, upper z, half thickness) along the curve.
    """

    posts: tuple[tuple[float, float, float, float, float], ...]

    @property
    def bounds(self) -> Bounds:
        y, x, bottom, top, half = np.transpose(self.posts)
        return Bounds(
            (bottom.min(), (y - half).min(), (x - half).min()), (top.max(), (y + half).max(), (x + half).max())
        )

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        distances = []
        for start, end in zip(self.posts, self.posts[1:], strict=False):
            along, squared = _project((y, x), start[:2], end[:2])
            bottom, top, half = (a + along * (b - a) for a, b in zip(start[2:], end[2:], strict=True))
            beside = np.sqrt(squared) - half
            above = np.abs(z - (bottom + top) / 2) - (top - bottom) / 2
            distances.append(_rounded_corner(beside, above))
        return reduce(np.minimum, distances)


@dataclass(frozen=True)
class Plate:
    """A sagittal polygon with a thickness along x; its center is `x` at z = 0 and shifts by `lean` per mm of z."""

    outline_zy: tuple[tuple[float, float], ...]
    x: float
    lean: float
    half_thickness: float

    @property
    def bounds(self) -> Bounds:
        z, y = np.transpose(self.outline_zy)
        x = self._center(z)
        return Bounds(
            (z.min(), y.min(), x.min() - self.half_thickness), (z.max(), y.max(), x.max() + self.half_thickness)
        )

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        squared = np.full(z.shape, np.inf, z.dtype)
        inside = np.zeros(z.shape, bool)
        for start, end in zip(self.outline_zy, self.outline_zy[1:] + self.outline_zy[:1], strict=True):
            squared = np.minimum(squared, _project((z, y), start, end)[1])
            if start[0] != end[0]:
                crossing = start[1] + (z - start[0]) * ((end[1] - start[1]) / (end[0] - start[0]))
                inside ^= ((start[0] > z) != (end[0] > z)) & (y < crossing)
        within = np.where(inside, -np.sqrt(squared), np.sqrt(squared))
        return _rounded_corner(within, np.abs(x - self._center(z)) - self.half_thickness)

    def _center(self, z: Array) -> Array:
        return self.x + self.lean * z


@dataclass(frozen=True)
class Union:
    """Several shapes; their seams are rounded over `blend_mm`."""

    shapes: tuple[Shape, ...]
    blend_mm: float = 0.0

    @property
    def bounds(self) -> Bounds:
        lows, highs = zip(*(shape.bounds for shape in self.shapes), strict=True)
        return Bounds.of(np.min(lows, axis=0), np.max(highs, axis=0))

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        distances = (shape.distance(z, y, x) for shape in self.shapes)
        return reduce(partial(smooth_min, blend=self.blend_mm), distances)


@dataclass(frozen=True)
class Difference:
    """`shape` without `hole`."""

    shape: Shape
    hole: Shape

    @property
    def bounds(self) -> Bounds:
        return self.shape.bounds

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        return np.maximum(self.shape.distance(z, y, x), -self.hole.distance(z, y, x))


@dataclass(frozen=True)
class Overlap:
    """The intersection of two shapes."""

    shape: Shape
    other: Shape

    @property
    def bounds(self) -> Bounds:
        own, other = self.shape.bounds, self.other.bounds
        return Bounds.of(np.maximum(own.low, other.low), np.minimum(own.high, other.high))

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        return np.maximum(self.shape.distance(z, y, x), self.other.distance(z, y, x))


@dataclass(frozen=True)
class Box:
    """A box between two corners, which cuts other shapes."""

    low: Point
    high: Point

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.low, self.high)

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        sides = [np.maximum(a - p, p - b) for p, a, b in zip((z, y, x), self.low, self.high, strict=True)]
        return np.maximum(np.maximum(sides[0], sides[1]), sides[2])


@dataclass(frozen=True)
class Folds:
    """Folded sheets within a shape's outer `depth_mm`: sulci of the brain, walls of air cells."""

    shape: Shape
    period_zyx_mm: Point
    half_thickness: float
    depth_mm: float = np.inf

    @property
    def bounds(self) -> Bounds:
        return self.shape.bounds

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        waves = [2 * np.pi / period for period in self.period_zyx_mm]
        phases = [wave * p for wave, p in zip(waves, (z, y, x), strict=True)]
        # A second, incommensurate wave breaks the gyroid's periodicity.
        u, v, w = (
            phase + 0.7 * np.sin(0.37 * other) for phase, other in zip(phases, phases[1:] + phases[:1], strict=True)
        )
        gyroid = np.sin(u) * np.cos(v) + np.sin(v) * np.cos(w) + np.sin(w) * np.cos(u)
        sheet = np.abs(gyroid) / (1.5 * max(waves)) - self.half_thickness
        solid = self.shape.distance(z, y, x)
        return np.maximum(np.maximum(sheet, solid), -solid - self.depth_mm)


@dataclass(frozen=True)
class BrainCase:
    """The inside of the skull, enlarged by a margin: an egg-shaped vault on a floor that steps down to the back.

    Attributes:
        vault_mm: margin of the vault.
        floor_mm: margin of the floor.
    """

    vault_mm: float = 0.0
    floor_mm: float = 0.0

    vault = Ellipsoid((24.0, 18.0, 0.0), (67.0, 85.0, 70.0))
    width_profile = ((-70, -20, 25), (0.80, 0.90, 1.0))
    midline_floor = ((-70, -40, -14, -6, 3, 9, 14, 25, 32, 60, 100), (9, 4, 3, 4, 3, 0, -14, -38, -46, -48, -22))
    lateral_floor = (
        (-70, -50, -30, -22, -14, 10, 20, 27, 34, 45, 70, 100),
        (20, 18, 14, 10, -16, -20, -16, -8, -20, -42, -46, -22),
    )
    slant_profile = ((-20, 15), (0.35, -0.35))
    lateral_from_to_mm = (12.0, 26.0)

    @property
    def bounds(self) -> Bounds:
        low, high = self.vault.bounds
        return Bounds.of((-50.0 - self.floor_mm, *np.subtract(low[1:], self.vault_mm)), np.add(high, self.vault_mm))

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        start, end = self.lateral_from_to_mm
        beside = np.maximum(np.abs(x) - start, 0)
        sideways = np.minimum(beside / (end - start), 1)
        slant = np.interp(y, *self.slant_profile).astype(y.dtype)
        narrowing = np.interp(y, *self.width_profile).astype(y.dtype)
        midline = np.interp(y, *self.midline_floor).astype(y.dtype)
        lateral = np.interp(y + slant * beside, *self.lateral_floor).astype(y.dtype)
        floor = midline + sideways * sideways * (3 - 2 * sideways) * (lateral - midline)
        above_vault = self.vault.distance(z, y, x / narrowing) - self.vault_mm
        below_floor = 0.7 * (floor - z) - self.floor_mm
        return -smooth_min(-above_vault, -below_floor, 4.0)


@dataclass(frozen=True)
class Transformed:
    """A shape that is scaled about a pivot, shifted, and mirrored for the right side."""

    shape: Shape
    pivot: Point
    scale: Point
    shift: Point
    mirrored: bool

    @property
    def bounds(self) -> Bounds:
        corners = (np.array(self.shape.bounds) - self.pivot) * self.scale + self.pivot + self.shift
        corners *= (1, 1, -1) if self.mirrored else 1
        return Bounds.of(corners.min(axis=0), corners.max(axis=0))

    def distance(self, z: Array, y: Array, x: Array) -> Array:
        moved = zip((z, y, -x if self.mirrored else x), self.pivot, self.scale, self.shift, strict=True)
        return self.shape.distance(*((p - shift - pivot) / scale + pivot for p, pivot, scale, shift in moved))


def arch(posts: tuple[tuple[float, float, float, float, float], ...]) -> Ribbon:
    """A ribbon that is symmetric about the midline; the last of the left half's posts lies in the midline."""
    return Ribbon(posts + tuple((y, -x, *rest) for y, x, *rest in posts[-2::-1]))


def smooth_min(first: Array, second: Array, blend: float) -> Array:
    """Minimum with a rounding of width `blend` where the arguments are equal."""
    if blend == 0:
        return np.minimum(first, second)
    overlap = np.maximum(blend - np.abs(first - second), 0)
    return np.minimum(first, second) - overlap * overlap / (4 * blend)


def _rounded_corner(first: Array, second: Array) -> Array:
    """Distance to the intersection of two slabs, exact outside of its edge."""
    return np.minimum(np.maximum(first, second), 0) + np.hypot(np.maximum(first, 0), np.maximum(second, 0))


def _project(coordinates: tuple[Array, ...], start: tuple[float, ...], end: tuple[float, ...]) -> tuple[Array, Array]:
    """Position along a segment (0 to 1) of the point nearest to each coordinate, and the squared distance to it."""
    direction = [b - a for a, b in zip(start, end, strict=True)]
    offsets = [p - a for p, a in zip(coordinates, start, strict=True)]
    length = max(sum(d * d for d in direction), 1e-6)
    along = np.clip(sum(o * d for o, d in zip(offsets, direction, strict=True)) / length, 0, 1)
    return along, sum((o - along * d) ** 2 for o, d in zip(offsets, direction, strict=True))

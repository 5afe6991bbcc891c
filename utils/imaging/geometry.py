"""The position of a voxel grid in the patient."""

import itertools
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
MIN_VOXEL_MM, MAX_VOXEL_MM = 0.01, 100.0
"""Beyond them, a header is wrong: no CT has such voxels, and a grid of the usual ones would exhaust the memory."""
SAME_GRID_VOX = 0.1
"""Programs round the numbers of a grid differently; voxels that lie this close to each other are the same."""
ROUNDING_VOX = 0.01
"""A grid is sheared if its axes are less perpendicular than rounding explains."""
EXACT = 1e-9
ROUNDED_LENGTH = 1e-4
"""A unit vector in a file is that much longer or shorter, by rounding; a larger difference is meant."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Size, spacing, origin and direction of a voxel grid.

    Sizes and spacings are in array order (z, y, x). Origin and direction keep ITK's order (x, y, z). The columns of
    `direction` are unit vectors. They are perpendicular, except on a sheared grid.
    """

    size_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    origin_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY_DIRECTION

    def world_mm(self, index_zyx: tuple[float, float, float]) -> tuple[float, float, float]:
        """Patient coordinates of a voxel, whose index may be fractional.

        Returns:
            (x, y, z) in mm, LPS: they increase to the patient's left, back and head.
        """
        offset_xyz = np.multiply(index_zyx, self.spacing_zyx_mm)[::-1]
        point = np.asarray(self.origin_xyz_mm) + np.reshape(self.direction, (3, 3)) @ offset_xyz
        return tuple(float(value) for value in point)

    def corners_mm(self) -> list[tuple[float, float, float]]:
        """Patient coordinates (x, y, z) of the centers of the eight corner voxels."""
        return [self.world_mm(corner) for corner in itertools.product(*((0, n - 1) for n in self.size_zyx))]

    def index_to_world(self) -> np.ndarray:
        """(3, 4) matrix from a voxel index (z, y, x, 1) to patient coordinates (x, y, z) in mm."""
        columns = np.reshape(self.direction, (3, 3))[:, ::-1] * np.asarray(self.spacing_zyx_mm)
        return np.column_stack([columns, self.origin_xyz_mm])

    def index_from(self, other: "Geometry") -> np.ndarray:
        """(3, 4) matrix from a voxel index (z, y, x, 1) of another grid to the index (z, y, x) on this one."""
        own, others = self.index_to_world(), other.index_to_world()
        return np.linalg.solve(own[:, :3], np.column_stack([others[:, :3], others[:, 3] - own[:, 3]]))

    def obliqueness_deg(self) -> float:
        """Largest angle between an axis of the grid and the closest axis of the patient."""
        cosines = np.abs(np.reshape(self.direction, (3, 3))).max(axis=0)
        return float(np.rad2deg(np.arccos(np.clip(cosines, 0, 1))).max())

    def index_zyx(self, points_mm: np.ndarray) -> np.ndarray:
        """Fractional voxel indices (N, 3) of points (N, 3) in mm; the inverse of `world_mm`."""
        offsets = np.asarray(points_mm) - self.origin_xyz_mm
        return np.linalg.solve(np.reshape(self.direction, (3, 3)), offsets.T).T[:, ::-1] / self.spacing_zyx_mm

    def offset_on(self, other: "Geometry", tolerance_vox: float = SAME_GRID_VOX) -> tuple[int, int, int] | None:
        """Where this grid begins on another one, of whose voxels it may be a part.

        Returns:
            The index (z, y, x) of the other grid's voxel at which this grid's first voxel lies. None if a corner lies
            further than `tolerance_vox` from the voxel where it should be, along an axis of the other grid.
        """
        corners = np.array(list(itertools.product(*((0, n - 1) for n in self.size_zyx))))
        shifts = other.index_zyx(np.array(self.corners_mm())) - corners
        offset = np.rint(shifts[0])
        return None if np.abs(shifts - offset).max() > tolerance_vox else tuple(offset.astype(int).tolist())

    def matches(self, other: "Geometry", tolerance_vox: float = SAME_GRID_VOX) -> bool:
        """Whether two grids have the same size and each corner within `tolerance_vox` of the other's."""
        return self.size_zyx == other.size_zyx and self.offset_on(other, tolerance_vox) == (0, 0, 0)

    def __str__(self) -> str:
        size = " x ".join(map(str, self.size_zyx))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_zyx_mm)
        origin = ", ".join(f"{o:.2f}" for o in self.origin_xyz_mm)
        direction = ", ".join(f"{d:.4g}" for d in self.direction)
        return f"size {size} (z, y, x), spacing {spacing} mm, origin ({origin}) mm (x, y, z), direction ({direction})"


Grid = TypeVar("Grid", bound=Geometry)


def settle_axes(grid: Grid) -> tuple[Grid, tuple[str, ...]]:
    """Make unit vectors of a direction as files give it, and perpendicular ones if rounding explains the difference.

    Voxels keep their places: the lengths of the vectors become a part of the spacing.

    Returns:
        The grid, and a note if its axes are not perpendicular.
    """
    axes = np.reshape(grid.direction, (3, 3))
    if np.abs(axes.T @ axes - np.eye(3)).max() < EXACT:
        return grid, ()
    lengths = np.linalg.norm(axes, axis=0)
    axes = axes / lengths
    left, _, right = np.linalg.svd(axes)
    spacing = np.multiply(grid.spacing_zyx_mm, np.where(np.abs(lengths - 1) < ROUNDED_LENGTH, 1.0, lengths)[::-1])
    exact, perpendicular = (
        replace(grid, spacing_zyx_mm=tuple(spacing.tolist()), direction=tuple(direction.ravel().tolist()))
        for direction in (axes, left @ right)
    )
    if perpendicular.matches(exact, ROUNDING_VOX):
        return perpendicular, ()
    shear_deg = np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(3)).max()))
    return exact, (f"its axes are not perpendicular, by {shear_deg:.2g} degrees; every voxel keeps its place",)

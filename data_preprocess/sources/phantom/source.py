"""Phantoms: synthetic head-and-neck CTs with the nine organs of PDDCA, to try everything without data.

`sample_patient` draws the differences between one patient and the template in `anatomy` from a random generator;
`render_patient` renders that patient on a voxel grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_preprocess.sources.base import RawCase, RawCaseHandle, read_structures
from data_preprocess.sources.phantom.anatomy import BODY, STRUCTURES
from data_preprocess.sources.phantom.chest import CHEST, CHEST_TOP_Z_MM
from data_preprocess.sources.phantom.shapes import Point, Shape
from data_preprocess.sources.phantom.tissues import GROUPS, SIDES, TISSUES, Structure
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.imaging.masks import bounding_box, crop_mask
from utils.io.volumes import Volume

Box = tuple[slice, slice, slice]

NUM_PHANTOMS = 30
PAIRED_ORGANS = ("optic_nerve", "parotid", "submandibular")
ORGANS = ("brainstem", "chiasm", "mandible", *(f"{name}_{side}" for name in PAIRED_ORGANS for side in SIDES))
NOT_CONTOURED_PROBABILITY = 0.1
EXTENT_ZYX_MM = (260.0, 256.0, 240.0)
FRONT_MM = -113.0
"""Position of the field of view's anterior border, relative to the template's sella."""
VERTEX_Z_MM = 103.0
"""Of the template."""
TABLE_TO_HEAD_MM = 5.0
SKIN_MM = 2.5
TEXTURE_MM = 2.5
WHOLE = (slice(None),) * 3
SEARCH_STRIDE = 4
"""The box of a structure is searched on every fourth voxel."""


class Wave(NamedTuple):
    """A smooth displacement along one axis: a product of sines along all three."""

    axis: int
    amplitude_mm: float
    wavelengths_mm: Point
    phases: Point


@dataclass(frozen=True)
class Patient:
    """The differences between one patient and the template, and properties of the scan.

    Attributes:
        scale_zyx: size relative to the template.
        rotation_deg: about the z, y and x axes.
        shift_mm: of the sella in the field of view, (z, y, x).
        neck_bend_mm: backward shift of the neck 100 mm below the skull.
        waves: smooth deformation.
        structures: in the order of rendering, none of them paired, each with its shape in this patient.
        tissue_hu: CT number per tissue.
        contoured: names of the contoured organs.
        has_mask: whether an immobilization mask is worn.
        noise_hu: standard deviation.
        origin_xyz_mm: of the scanner's frame.
    """

    scale_zyx: Point
    rotation_deg: Point
    shift_mm: Point
    neck_bend_mm: float
    waves: tuple[Wave, ...]
    structures: tuple[Structure, ...]
    tissue_hu: Mapping[str, float]
    contoured: frozenset[str]
    has_mask: bool
    noise_hu: float
    origin_xyz_mm: Point


@dataclass(frozen=True)
class Canvas:
    """A scan that is being rendered; all arrays are (D, H, W).

    Attributes:
        image: CT, float32, HU.
        label: organ labels.
        coordinates: z, y and x of each voxel in the template, in mm.
        skin_distance: to the body's surface in mm, negative inside.
        texture: smooth noise of unit variance.
        tissue_hu: CT number per tissue.
        edge_mm: width of the transition at a border, about a voxel.
    """

    image: np.ndarray
    label: np.ndarray
    coordinates: tuple[np.ndarray, np.ndarray, np.ndarray]
    skin_distance: np.ndarray
    texture: np.ndarray
    tissue_hu: Mapping[str, float]
    edge_mm: float

    def inside(self, distance: np.ndarray) -> np.ndarray:
        """The fraction of each voxel that lies inside a surface at this distance (mm) from its center."""
        return np.clip(0.5 - distance / self.edge_mm, 0, 1)

    def tissue(self, name: str, box: Box = WHOLE) -> np.ndarray:
        """HU of a box full of one tissue."""
        return self.tissue_hu[name] + TISSUES[name].texture_hu * self.texture[box]

    def paint(self, inside: np.ndarray, hu: np.ndarray | float, box: Box = WHOLE) -> None:
        """Render a solid that takes these fractions of the voxels of a box over the earlier solids."""
        image = self.image[box]
        image += inside * (hu - image)


class RenderedPatient(NamedTuple):
    """CT and organ labels of a patient."""

    image: np.ndarray
    """(D, H, W) int16, HU."""
    label: np.ndarray
    """(D, H, W) uint8: 0 = background, else 1 + index into `ORGANS`."""


def list_cases(folder: Path | None = None) -> list[RawCaseHandle]:
    """The phantoms of the demonstration, every fifth of them for testing.

    Raises:
        UserError: a folder is given, which the user expects to be read.
    """
    if folder is not None:
        raise UserError(
            f"--input {folder}: source phantom draws its cases; leave out --input or choose another --source"
        )
    return [
        RawCaseHandle(case_id=f"phantom_{seed:03d}", location=seed, split="test" if seed % 5 == 4 else "train")
        for seed in range(NUM_PHANTOMS)
    ]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Generate the phantom whose seed is the handle's location: see `Source.read_case`."""
    raw = generate_phantom(handle.location)
    return RawCase.of(handle, raw.volume, read_structures(raw.masks, raw.masks.get, preset), raw.source)


def generate_phantom(
    seed: int, *, spacing_zyx_mm: Point = (2.5, 2.0, 2.0), extent_zyx_mm: Point = EXTENT_ZYX_MM
) -> RawCase:
    """Generate a head-and-neck CT from the vertex to the lower neck, with organ masks.

    Args:
        seed: determines the patient and the image.
        spacing_zyx_mm: of the voxel grid.
        extent_zyx_mm: of the voxel grid. The default covers head and neck. From about 300 mm along z there is a chest,
            which needs 400 mm along x.

    Returns:
        The case. Masks are disjoint. About a tenth of the organs has no mask, although the image shows them.
    """
    patient = sample_patient(np.random.default_rng([seed, 0]))
    image, label = render_patient(patient, spacing_zyx_mm, np.random.default_rng([seed, 1]), extent_zyx_mm)
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=tuple(spacing_zyx_mm), origin_xyz_mm=patient.origin_xyz_mm)
    return RawCase(
        case_id=f"phantom_{seed:03d}",
        volume=Volume(array=image, geometry=geometry),
        masks={
            name: crop_mask(label == value, (0, 0, 0), geometry)
            for value, name in enumerate(ORGANS, 1)
            if name in patient.contoured
        },
        source=f"phantom of seed {seed}",
    )


def sample_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient's size, pose, proportions, tissues and contoured organs."""
    scale = rng.uniform(0.94, 1.05) * rng.uniform(0.97, 1.03, 3)
    has_contrast = rng.random() < 0.4
    tissue_hu = {name: tissue.hu + tissue.spread_hu * _bounded_normal(rng) for name, tissue in TISSUES.items()}
    if has_contrast:
        tissue_hu["vessel"] += rng.uniform(80, 200)
    return Patient(
        scale_zyx=_triple(scale),
        rotation_deg=_triple(rng.uniform(-1, 1, 3) * (4, 3, 5)),
        shift_mm=(rng.uniform(-4, 4), rng.uniform(-4, 4), rng.uniform(-6, 6)),
        neck_bend_mm=rng.uniform(-10, 12),
        waves=tuple(
            Wave(axis, rng.uniform(0, 2.0), _triple(rng.uniform(120, 300, 3)), _triple(rng.uniform(0, 2 * np.pi, 3)))
            for axis in (0, 1, 2, 0, 1, 2)
        ),
        structures=_sample_structures(rng),
        tissue_hu=tissue_hu,
        contoured=frozenset(name for name in ORGANS if rng.random() >= NOT_CONTOURED_PROBABILITY),
        has_mask=bool(rng.random() < 0.6),
        noise_hu=rng.uniform(6, 14),
        origin_xyz_mm=_triple(rng.uniform(-150, 150, 3).round(2)),
    )


def render_patient(
    patient: Patient, spacing_zyx_mm: Point, rng: np.random.Generator, extent_zyx_mm: Point = EXTENT_ZYX_MM
) -> RenderedPatient:
    """Render a patient as a CT.

    Args:
        patient: from `sample_patient`.
        spacing_zyx_mm: of the voxel grid.
        rng: for texture and noise.
        extent_zyx_mm: of the field of view, as for `generate_phantom`.

    Returns:
        CT, and labels of all nine organs, contoured or not.
    """
    size = tuple(max(1, round(extent / spacing)) for extent, spacing in zip(extent_zyx_mm, spacing_zyx_mm, strict=True))
    coordinates = _template_coordinates(patient, size, spacing_zyx_mm, extent_zyx_mm)
    canvas = Canvas(
        image=np.full(size, AIR_HU, np.float32),
        label=np.zeros(size, np.uint8),
        coordinates=coordinates,
        skin_distance=BODY.distance(*coordinates),
        texture=_smooth_noise(rng, size, np.divide(TEXTURE_MM, spacing_zyx_mm)),
        tissue_hu=patient.tissue_hu,
        edge_mm=float(np.cbrt(np.prod(spacing_zyx_mm))),
    )
    _render_surroundings(canvas, patient.has_mask, spacing_zyx_mm)
    for tissue, depth_mm in (("skin", 0.0), ("fat", SKIN_MM)):
        canvas.paint(canvas.inside(canvas.skin_distance + depth_mm), canvas.tissue(tissue))
    coarse = tuple(axis[(slice(None, None, SEARCH_STRIDE),) * 3].copy() for axis in coordinates)
    margin_mm = canvas.edge_mm + SEARCH_STRIDE * max(spacing_zyx_mm)
    chest = CHEST if coordinates[0].min() < CHEST_TOP_Z_MM else ()
    for structure in (*chest, *patient.structures):
        box = _find_box(structure.shape, coarse, margin_mm)
        if box is not None:
            _render_structure(canvas, box, structure)
    image = canvas.image + patient.noise_hu * _smooth_noise(rng, size, (0.3, 0.6, 0.6))
    return RenderedPatient(np.clip(image.round(), -1024, 3071).astype(np.int16), canvas.label)


def _bounded_normal(rng: np.random.Generator, size: int | None = None) -> np.ndarray:
    return np.clip(rng.standard_normal(size), -2, 2)


def _triple(values: np.ndarray) -> Point:
    return tuple(values.tolist())


def _sample_structures(rng: np.random.Generator) -> tuple[Structure, ...]:
    """Scale and shift every structure with its group; a third of the variation differs between the sides."""
    movements = {}
    for name, group in GROUPS.items():
        shared_scale, shared_shift = _bounded_normal(rng, 3), _bounded_normal(rng, 3)
        for side in SIDES:
            scale = 1 + group.scale * (shared_scale + _bounded_normal(rng, 3) / 3)
            shift = group.shift_mm * (shared_shift + _bounded_normal(rng, 3) / 3)
            movements[name, side] = {"pivot": group.pivot, "scale": _triple(scale), "shift": _triple(shift)}
    return tuple(
        structure.on_side(side, **movements[structure.group, side])
        for structure in STRUCTURES
        for side in structure.sides
        if rng.random() < structure.probability
    )


def _template_coordinates(
    patient: Patient, size: tuple[int, int, int], spacing_zyx_mm: Point, extent_zyx_mm: Point
) -> tuple[np.ndarray, ...]:
    """Template coordinates of every voxel's center in mm, one (D, H, W) array per axis."""
    top_mm = VERTEX_Z_MM * patient.scale_zyx[0] + 10 + patient.shift_mm[0]
    start = (top_mm - extent_zyx_mm[0], FRONT_MM + patient.shift_mm[1], -extent_zyx_mm[2] / 2 + patient.shift_mm[2])
    axes = [a + spacing * (np.arange(n) + 0.5) for a, spacing, n in zip(start, spacing_zyx_mm, size, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    rotation = Rotation.from_euler("ZYX", patient.rotation_deg, degrees=True).as_matrix()[::-1, ::-1]
    matrix = rotation / np.reshape(patient.scale_zyx, (3, 1))
    coordinates = [(row[0] * z + row[1] * y + row[2] * x).astype(np.float32) for row in matrix]
    for wave in patient.waves:
        terms = zip((z, y, x), wave.wavelengths_mm, wave.phases, strict=True)
        sines = [np.sin(2 * np.pi * axis / length + phase).astype(np.float32) for axis, length, phase in terms]
        coordinates[wave.axis] += wave.amplitude_mm * (sines[0] * sines[1] * sines[2])
    below_skull = np.maximum(-40 - coordinates[0], 0) / 100
    coordinates[1] -= patient.neck_bend_mm * below_skull * np.minimum(below_skull, 1)
    return tuple(coordinates)


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int, int], sigma_vox: Point) -> np.ndarray:
    """(D, H, W) float32 of unit variance."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size, dtype=np.float32), sigma_vox, truncate=3)
    return noise / noise.std()


def _find_box(shape: Shape, coarse: tuple[np.ndarray, ...], margin_mm: float) -> Box | None:
    """Slices of the full grid that hold a shape, or None if it lies outside, from the coordinates of a coarse grid."""
    axes = zip(coarse, *shape.bounds, strict=True)
    near = [(axis > low - margin_mm) & (axis < high + margin_mm) for axis, low, high in axes]
    box = bounding_box(np.logical_and.reduce(near))
    return box and tuple(slice(max(0, (s.start - 1) * SEARCH_STRIDE + 1), s.stop * SEARCH_STRIDE) for s in box)


def _render_structure(canvas: Canvas, box: Box, structure: Structure) -> None:
    """Render one structure and its organ label."""
    distance = structure.shape.distance(*(axis[box] for axis in canvas.coordinates))
    if not structure.outside:
        distance = np.maximum(distance, canvas.skin_distance[box] + SKIN_MM)
    inside, hu = canvas.inside(distance), canvas.tissue(structure.tissue, box)
    if structure.core is not None:
        tissue, depth_mm = structure.core
        hu += canvas.inside(distance + depth_mm) * (canvas.tissue(tissue, box) - hu)
    canvas.paint(inside, hu, box)
    if not structure.keeps_organs:
        canvas.label[box][inside >= 0.5] = ORGANS.index(structure.organ) + 1 if structure.organ else 0


def _render_surroundings(canvas: Canvas, has_mask: bool, spacing_zyx_mm: Point) -> None:
    """Render table, head rest and immobilization mask."""
    depth, height, width = canvas.image.shape
    back = np.flatnonzero((canvas.skin_distance < 0).any(axis=(0, 2)))[-1] * spacing_zyx_mm[1] + TABLE_TO_HEAD_MM
    y = (spacing_zyx_mm[1] * np.arange(height, dtype=np.float32))[:, None]
    x = (spacing_zyx_mm[2] * (np.arange(width, dtype=np.float32) - width / 2))[None, :]
    shell = np.maximum(np.abs(y - back - 8) - 8, np.abs(x) - 200)
    foam = np.maximum(np.abs(y - back + 20) - 20, np.abs(x) - 85)
    for solid, hu in ((foam, -935), (shell, -180), (shell + 2.5, -930)):
        canvas.paint(canvas.inside(solid), hu)
    if has_mask:
        sheet = np.maximum(np.abs(canvas.skin_distance - 3.0) - 1.0, (y - back + 60)[None])
        canvas.paint(canvas.inside(sheet), -150)

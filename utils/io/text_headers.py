"""What the text headers of NRRD and MHA say about sizes: ITK takes 1 mm in silence for what it does not find there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.geometry import Geometry

UNIT_MM = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???"), 1.0),
    **dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometers"), 0.001),
}
"""Names of units; without one, lengths are in mm."""
ANATOMICAL_SPACE = re.compile(
    r"(?:[rl][ap][si]t?|(?:right|left)-(?:anterior|posterior)-(?:superior|inferior)(?:-time)?)"
)
"""NRRD's spaces whose axes are those of the patient, in lower case."""
MIN_MM, MAX_MM = 1e-6, 1e7
NRRD_MAGIC = "NRRD"
WITHOUT_SPACE = (
    "its header names no space of the patient, so its axes were taken to point to the left, back and head; check that "
    "left and right are correct"
)
NO_SIZES = "its header does not say how large the voxels are: expected {}; export it again with its voxel sizes"


class Lengths(NamedTuple):
    """How to read the lengths in a header."""

    unit_mm: float
    """Millimeters per unit of spacing and origin."""
    spacing_xyz: tuple[float, ...] | None = None
    """Of MHA: ITK stops at a line that it does not understand, and takes 1 for what stands behind it."""
    notes: tuple[str, ...] = ()

    def apply(self, grid: Geometry, read_spacing_xyz: Sequence[float]) -> Geometry:
        """The grid in mm.

        Args:
            grid: as ITK read it.
            read_spacing_xyz: the spacing that ITK read.

        Raises:
            UserError: ITK read another spacing than the header gives, or no patient has such lengths.
        """
        if self.spacing_xyz and not np.allclose(np.abs(self.spacing_xyz), read_spacing_xyz, rtol=1e-6, atol=0):
            raise UserError("its header is damaged: a line before `ElementSpacing` cannot be read; export it again")
        spacing = np.multiply(grid.spacing_zyx_mm, self.unit_mm)
        origin = np.multiply(grid.origin_xyz_mm, self.unit_mm)
        if spacing.min() < MIN_MM or max(spacing.max(), np.abs(origin).max()) > MAX_MM:
            raise UserError(
                f"its voxels measure {' x '.join(f'{size:.3g}' for size in spacing)} mm (z, y, x) and its origin is "
                f"{', '.join(f'{place:.3g}' for place in origin)} mm: no patient has such lengths; export it again"
            )
        return replace(grid, spacing_zyx_mm=tuple(spacing.tolist()), origin_xyz_mm=tuple(origin.tolist()))


def read_lengths(start: bytes) -> Lengths:
    """Check that a header gives the sizes of the voxels of a 3-D volume, and find their unit.

    Args:
        start: of an NRRD or MHA file, with the whole header.

    Raises:
        UserError: it does not give them, or in a unit that is no length; the origin is not a number; or it asks to
            scale the voxels.
    """
    text = start.decode("utf-8", "replace")
    return _nrrd_lengths(text) if text.startswith(NRRD_MAGIC) else _mha_lengths(text)


def num_raw_bytes(start: bytes, file_bytes: int) -> int | None:
    """How many bytes follow the header of an NRRD or MHA file, or None if they are not voxels as they are in memory.

    Args:
        start: of the file, with the whole header.
        file_bytes: size of the file.
    """
    if start.startswith(NRRD_MAGIC.encode()):
        header = re.match(rb".*?\n\r?\n", start, re.DOTALL)
        is_raw = header and re.search(rb"\nencoding: *raw", header[0]) and not re.search(rb"skip:|file:", header[0])
    else:
        header = re.match(rb".*?^ElementDataFile *= *LOCAL[ \r]*\n", start, re.DOTALL | re.MULTILINE)
        is_raw = header and not re.search(rb"BinaryData *= *[Ff0]|CompressedData *= *[Tt1]|HeaderSize", header[0])
    return file_bytes - header.end() if is_raw else None


def _nrrd_lengths(text: str) -> Lengths:
    lines = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0].splitlines()
    pairs = [line.split(":", 1) for line in lines if ":" in line and ":=" not in line and line[0] != "#"]
    fields = {key.replace(" ", "").lower(): value.strip() for key, value in pairs}
    vectors, spacings = fields.get("spacedirections"), fields.get("spacings")
    if vectors is None and spacings is None:
        raise UserError(NO_SIZES.format("`space directions`, found none"))
    if vectors is not None and "none" in vectors.lower():
        raise UserError(NO_SIZES.format(f"three vectors as `space directions`, got {vectors}"))
    if vectors is None and len(_numbers(spacings)) != 3:
        raise UserError(NO_SIZES.format(f"three numbers as `spacings`, got {spacings}"))
    names = re.findall(r'"([^"]*)"', fields.get("spaceunits" if vectors is not None else "units", ""))
    is_placed = vectors is not None and ANATOMICAL_SPACE.fullmatch(fields.get("space", "").lower())
    return Lengths(_unit_mm(names), notes=() if is_placed else (WITHOUT_SPACE,))


def _mha_lengths(text: str) -> Lengths:
    fields = _mha_fields(text)
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", ""))
    if len(_numbers(spacing)) != 3:
        raise UserError(NO_SIZES.format(f"three numbers as `ElementSpacing`, got {spacing or 'none'}"))
    if any(len(_numbers(fields.get(name, "0 0 0"))) != 3 for name in ("Offset", "Position", "Origin")):
        raise UserError("its origin is not three numbers; export it again")
    slope, offset = (fields.get(f"ElementToIntensityFunction{name}") for name in ("Slope", "Offset"))
    if _numbers(slope or "1") != [1.0] or _numbers(offset or "0") != [0.0]:
        raise UserError(
            "its header asks to scale the voxels (ElementToIntensityFunction), which programs do not agree on; save "
            "the scaled voxels without these fields"
        )
    return Lengths(_unit_mm([fields.get("DistanceUnits", "")]), tuple(_numbers(spacing)))


def _mha_fields(text: str) -> Mapping[str, str]:
    """As MetaIO reads them: capitals count."""
    header = text.partition("ElementDataFile")[0]
    pairs = (line.partition("=") for line in header.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _numbers(text: str) -> list[float]:
    """The finite numbers in a text; none if a part of it is no finite number."""
    try:
        numbers = [float(part) for part in text.split()]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _unit_mm(names: list[str]) -> float:
    found = {name.strip().lower() for name in names}
    sizes = {UNIT_MM.get(name) for name in found} or {1.0}
    if len(sizes) > 1 or None in sizes:
        raise UserError(
            f"its lengths are in {', '.join(sorted(found))}; expected mm, cm, m or um; export it again in mm"
        )
    return sizes.pop()

"""What NRRD and MetaImage files have in common: a text header, and behind it voxels as they are in memory, or packed.

No part of a header is passed over: a program that ignores a line which it does not understand places the voxels
elsewhere, in silence.
"""

import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.imaging.geometry import MAX_VOXEL_MM, MIN_VOXEL_MM, Geometry, settle_axes
from utils.io.nifti import EXTRA_VOXELS, MAX_GZIP_RATIO, TRUNCATED

UNIT_MM = {
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???"), 1.0),
    **dict.fromkeys(("um", "µm", "micron", "microns", "micrometer", "micrometers"), 0.001),
}
"""Names of units; without one, lengths are in mm."""
MAX_ORIGIN_MM = 1e7
MAX_HEADER_BYTES = 1 << 20
NO_SIZES = "its header does not say how large the voxels are: expected {}; export it again with its voxel sizes"
NOT_ONE_FILE = "its voxels do not follow its header in the same file; save it as one file"


class TextVolume(NamedTuple):
    """The content of a file with a text header."""

    array: np.ndarray
    """(D, H, W) as stored, in the byte order of the computer."""
    geometry: Geometry
    metadata: Mapping[str, str]
    """Fields of the header that the format does not define."""
    notes: tuple[str, ...]
    """What is unusual about the geometry."""


def damaged(reason: object) -> UserError:
    """The error for a file that does not follow its format."""
    return UserError(f"cannot be read as a volume: damaged, or of another format ({reason}); copy or export it again")


def not_scalar(dimensions: int, values_per_voxel: int) -> UserError:
    """The error for an image that is not a 3-D volume with one value per voxel."""
    return UserError(
        f"expected a 3-D volume with one value per voxel, got {dimensions} dimensions and {values_per_voxel} values "
        "per voxel; export the volume alone"
    )


def header_lines(header: bytes) -> list[str]:
    """The lines of a header, which end at a line feed, with or without a carriage return before it.

    Raises:
        UserError: a line holds a control character, which may or may not end it, depending on the program.
    """
    lines = [line.removesuffix("\r") for line in header.decode("utf-8", "replace").split("\n")]
    for line in lines:
        if any(ord(character) < ord(" ") and character != "\t" for character in line):
            raise damaged(f"a line of its header has a control character: {line[:40]!r}")
    return lines


def unique_fields(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The fields of a header by name.

    Raises:
        UserError: two of them have the same name but other values.
    """
    fields: dict[str, str] = {}
    for name, value in pairs:
        if fields.setdefault(name, value) != value:
            raise damaged(f"its header gives `{name}` twice: {fields[name][:40]} and {value[:40]}")
    return fields


def finite_numbers(text: str) -> list[float]:
    """The numbers in a text; none if a part of it is no finite number."""
    try:
        numbers = [float(part) for part in text.split()]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def positive_integers(name: str, text: str) -> list[int]:
    """The numbers that a field gives for voxels, or the like.

    Args:
        name: of the field, for messages.
        text: its value.

    Raises:
        UserError: a part of it is no positive whole number.
    """
    parts = text.split()
    if not parts or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise damaged(f"{name} is {text[:40]}")
    return [int(part) for part in parts]


def read_voxels(content: bytes, dtype: np.dtype, size_zyx: tuple[int, int, int], *, is_packed: bool) -> np.ndarray:
    """Read what follows a header.

    Args:
        content: from the first byte behind the header to the end of the file.
        dtype: as stored, with its byte order.
        size_zyx: the numbers of voxels (D, H, W).
        is_packed: by zlib or gzip.

    Raises:
        UserError: there are fewer voxels, or more by a slice or more, or the packed ones are damaged.
    """
    num_bytes = math.prod(size_zyx) * dtype.itemsize
    slice_bytes = num_bytes // size_zyx[0]
    if num_bytes > len(content) * (MAX_GZIP_RATIO if is_packed else 1):  # before memory is reserved for them
        raise UserError(TRUNCATED)
    if is_packed:
        content = _unpack(content, num_bytes + slice_bytes)
    if len(content) < num_bytes:
        raise UserError(TRUNCATED)
    if len(content) >= num_bytes + slice_bytes:
        raise UserError(EXTRA_VOXELS)
    stored = np.frombuffer(content, dtype, math.prod(size_zyx)).reshape(size_zyx)
    return stored.astype(dtype.newbyteorder("="))


def _unpack(content: bytes, limit: int) -> bytes:
    """Unpack by zlib or gzip, not more than `limit` bytes."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        unpacked = unpacker.decompress(content, limit)
    except zlib.error as error:
        raise damaged(error) from error
    if not unpacker.eof and len(unpacked) < limit:
        raise UserError(TRUNCATED)
    return unpacked


def unit_mm(names: Iterable[str]) -> float:
    """Millimeters per unit, of the units that a header gives for its axes.

    Raises:
        UserError: they differ, or one is no length.
    """
    found = {name.strip().lower() for name in names}
    sizes = {UNIT_MM.get(name) for name in found} or {1.0}
    if len(sizes) > 1 or None in sizes:
        raise UserError(
            f"its lengths are in {', '.join(sorted(found))}; expected mm, cm, m or um; export it again in mm"
        )
    return sizes.pop()


def grid_in_mm(grid: Geometry, unit: float) -> tuple[Geometry, tuple[str, ...]]:
    """The grid whose lengths a header gives in another unit, with unit vectors as axes, and notes.

    Args:
        grid: as stored.
        unit: in mm.

    Raises:
        UserError: no patient has such lengths.
    """
    grid, notes = settle_axes(grid)
    spacing = np.multiply(grid.spacing_zyx_mm, unit)
    origin = np.multiply(grid.origin_xyz_mm, unit)
    is_possible = spacing.min() >= MIN_VOXEL_MM and spacing.max() <= MAX_VOXEL_MM
    if not (is_possible and np.abs(origin).max() <= MAX_ORIGIN_MM):
        raise UserError(
            f"its voxels measure {' x '.join(f'{size:.3g}' for size in spacing)} mm (z, y, x) and its origin is "
            f"{', '.join(f'{place:.3g}' for place in origin)} mm: no patient has such lengths; export it again"
        )
    return replace(grid, spacing_zyx_mm=tuple(spacing.tolist()), origin_xyz_mm=tuple(origin.tolist())), notes

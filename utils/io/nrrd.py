"""Read NRRD files, whose fields https://teem.sourceforge.net/nrrd/format.html defines.

ITK does not read them here: it ends the program at some damaged headers. Nor does pynrrd, which drops letters other
than ASCII from the names of segments, and takes the fields' names in lower case only.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.text_headers import (
    MAX_HEADER_BYTES,
    NO_SIZES,
    NOT_ONE_FILE,
    TextVolume,
    damaged,
    finite_numbers,
    grid_in_mm,
    header_lines,
    not_scalar,
    positive_integers,
    read_voxels,
    unique_fields,
    unit_mm,
)

TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), "i8"),
    **dict.fromkeys(("int64", "int64_t"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), "u8"),
    "float": "f4",
    "double": "f8",
}
"""Numpy's names."""
ENDIAN = {"little": "<", "big": ">"}
ENCODINGS = {"raw": False, "gzip": True, "gz": True}
"""Whether voxels are packed."""
KNOWN = (
    *("content", "number", "type", "block size", "dimension", "space", "space dimension", "sizes", "spacings"),
    *("thicknesses", "axis mins", "axis maxs", "centers", "centerings", "labels", "units", "min", "max", "old min"),
    *("old max", "data file", "endian", "encoding", "line skip", "byte skip", "kinds", "sample units", "space units"),
    *("space origin", "space directions", "measurement frame"),
)
PATIENT_SPACES = {
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
"""Spaces whose axes are those of the patient, and the signs of x, y and z in LPS."""
OTHER_SPACES = ("", "scanner-xyz", "3d-right-handed", "3d-left-handed")
SPATIAL_KINDS = ("domain", "space", "none", "???")
WITHOUT_SPACE = (
    "its header names no space of the patient, so its axes were taken to point to the left, back and head; check that "
    "left and right are correct"
)
NUMBER = r"\s*([^\s(),]+)\s*"
VECTOR = re.compile(rf"\({NUMBER},{NUMBER},{NUMBER}\)")
HEADER = re.compile(rb"(NRRD000[1-5]\r?\n.*?)\n\r?\n", re.DOTALL)


def read_nrrd(content: bytes) -> TextVolume:
    """Read a three-dimensional scalar volume.

    Args:
        content: of the whole file.

    Raises:
        UserError: it is damaged or truncated, its voxels lie elsewhere or have no size, or it is no such volume.
    """
    header = HEADER.match(content[:MAX_HEADER_BYTES])
    if header is None:
        raise damaged("it has no header of NRRD")
    lines = header_lines(header[1])[1:]
    fields = _fields(line for line in lines if ":=" not in line)
    if "data file" in fields or any(fields.get(name, "0") != "0" for name in ("line skip", "byte skip")):
        raise UserError(NOT_ONE_FILE)
    size_xyz = _size_xyz(fields)
    kind, encoding = (fields.get(name, "missing").lower() for name in ("type", "encoding"))
    if kind not in TYPES:
        raise damaged(f"its type is {kind}")
    if encoding not in ENCODINGS:
        raise UserError(f"its encoding is {encoding}; expected raw or gzip; export it again")
    dtype = np.dtype(TYPES[kind])
    if dtype.itemsize > 1 and fields.get("endian", "").lower() not in ENDIAN:
        raise damaged(f"its endian is {fields.get('endian', 'missing')}")
    dtype = dtype.newbyteorder(ENDIAN.get(fields.get("endian", "").lower(), "="))
    names = re.findall(r'"([^"]*)"', fields.get("space units" if "space directions" in fields else "units", ""))
    grid, is_placed = _grid(fields, size_xyz)
    geometry, notes = grid_in_mm(grid, unit_mm(names))
    array = read_voxels(content[header.end() :], dtype, geometry.size_zyx, is_packed=ENCODINGS[encoding])
    metadata = unique_fields(tuple(line.split(":=", 1)) for line in lines if ":=" in line and line[0] != "#")
    return TextVolume(array, geometry, metadata, notes if is_placed else (*notes, WITHOUT_SPACE))


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """The fields of the format by name: capitals, and spaces within names, do not count."""
    known = {name.replace(" ", ""): name for name in KNOWN}
    pairs = []
    for line in lines:
        if not line.strip() or line[0] == "#":
            continue
        name, separator, value = line.partition(":")
        if not separator or (found := known.get(name.replace(" ", "").lower())) is None:
            raise damaged(f"a line of its header is no field of NRRD: {line[:40]}")
        pairs.append((found, value.strip()))
    return unique_fields(pairs)


def _size_xyz(fields: Mapping[str, str]) -> list[int]:
    """The numbers of voxels along the three axes."""
    sizes = positive_integers("sizes", fields.get("sizes", ""))
    if positive_integers("dimension", fields.get("dimension", "")) != [len(sizes)]:
        raise damaged(f"its dimension is {fields['dimension']}, but it has {len(sizes)} sizes")
    kinds = fields.get("kinds", " ".join(["domain"] * len(sizes))).lower().split()
    if len(kinds) != len(sizes):
        raise damaged(f"its kinds are {fields['kinds']}, but it has {len(sizes)} sizes")
    axes = [size for size, kind in zip(sizes, kinds, strict=True) if kind in SPATIAL_KINDS]
    if len(sizes) != 3 or len(axes) != 3:
        raise not_scalar(len(axes), math.prod(sizes) // math.prod(axes))
    return sizes


def _grid(fields: Mapping[str, str], size_xyz: Sequence[int]) -> tuple[Geometry, bool]:
    """The grid in the header's unit, and whether the header says where it lies in the patient."""
    space = re.sub(r"\s+", "-", fields.get("space", "").lower())
    if space not in (*PATIENT_SPACES, *OTHER_SPACES):
        raise UserError(f"its space is {space}; expected LPS, RAS or LAS; export it again")
    to_lps = np.array(PATIENT_SPACES.get(space, (1.0, 1.0, 1.0)))
    if "space directions" in fields:
        axes = _vectors("space directions", fields["space directions"], 3) * to_lps
        lengths = np.linalg.norm(axes, axis=1)
        if not np.linalg.det(axes):
            raise damaged(f"its space directions are {fields['space directions']}")
        (origin,) = _vectors("space origin", fields.get("space origin", "(0,0,0)"), 1) * to_lps
    elif "spacings" in fields:
        lengths = np.array(finite_numbers(fields["spacings"]))
        if len(lengths) != 3 or lengths.min() <= 0:
            raise UserError(NO_SIZES.format(f"three positive numbers as `spacings`, got {fields['spacings']}"))
        axes = np.diag(lengths)
        origin = np.array(finite_numbers(fields.get("axis mins", "0 0 0")))
        if len(origin) != 3:
            raise damaged(f"its axis mins are {fields['axis mins']}")
    else:
        raise UserError(NO_SIZES.format("`space directions`, found none"))
    grid = Geometry(
        size_zyx=tuple(size_xyz[::-1]),
        spacing_zyx_mm=tuple(lengths[::-1].tolist()),
        origin_xyz_mm=tuple(origin.tolist()),
        direction=tuple((axes / lengths[:, None]).T.ravel().tolist()),
    )
    return grid, space in PATIENT_SPACES and "space directions" in fields


def _vectors(name: str, text: str, count: int) -> np.ndarray:
    """(count, 3) the vectors that a field gives."""
    found = [finite_numbers(" ".join(vector.groups())) for vector in VECTOR.finditer(text)]
    if len(found) != count or VECTOR.sub("", text).strip() or not all(found):
        raise UserError(NO_SIZES.format(f"{count} vector(s) as `{name}`, got {text[:60]}"))
    return np.array(found)

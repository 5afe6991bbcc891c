"""Read MetaImage files (.mha), whose fields MetaIO's documentation lists: https://itk.org/Wiki/MetaIO/Documentation.

ITK does not read them here: it ends the program at some damaged headers, and passes over what it does not understand in
others.
"""

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
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
"""Numpy's names; a MET_LONG has four bytes on every computer."""
ORIGIN = ("Offset", "Position", "Origin")
AXES = ("TransformMatrix", "Rotation", "Orientation")
BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
"""Names of one field each."""
DESCRIPTIVE = (
    *("Comment", "ObjectSubType", "TransformType", "Name", "ID", "ParentID", "Color", "Modality", "CenterOfRotation"),
    *("AnatomicalOrientation", "SequenceID", "ElementMin", "ElementMax", "ElementNBits", "CompressedDataSize"),
    *("CompressionLevel", "AcquisitionDate"),
)
"""Fields that say nothing about the voxels or their places, or repeat it."""
KNOWN = (
    *("ObjectType", "NDims", "DimSize", "BinaryData", "CompressedData", "HeaderSize", "DistanceUnits"),
    *("ElementSpacing", "ElementSize", "ElementType", "ElementNumberOfChannels", "ElementDataFile"),
    *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset", *ORIGIN, *AXES, *BYTE_ORDER, *DESCRIPTIVE),
)
HEADER = re.compile(rb"(.*?^ElementDataFile *[=:][^\n]*)\n", re.DOTALL | re.MULTILINE)
YES, NO = ("t", "1"), ("f", "0")
"""MetaIO reads the first letter."""
LINE = re.compile(r"\s*([^=:]*?)\s*[=:]\s*(.*?)\s*")


def read_metaimage(content: bytes) -> TextVolume:
    """Read a three-dimensional scalar volume.

    Args:
        content: of the whole file.

    Raises:
        UserError: it is damaged or truncated, its voxels lie elsewhere or have no size, or it is no such volume.
    """
    header = HEADER.match(content[:MAX_HEADER_BYTES])
    if header is None:
        raise damaged("it has no ElementDataFile")
    fields = _fields(header_lines(header[1]))
    if fields["ElementDataFile"] != "LOCAL" or fields.get("HeaderSize", "0") != "0":
        raise UserError(NOT_ONE_FILE)
    _check_voxels(fields)
    dimensions, channels = (
        positive_integers(name, fields.get(name, "1")) for name in ("NDims", "ElementNumberOfChannels")
    )
    if (dimensions, channels) != ([3], [1]):
        raise not_scalar(dimensions[0], channels[0])
    size_xyz = positive_integers("DimSize", fields.get("DimSize", ""))
    if len(size_xyz) != 3:
        raise damaged(f"DimSize is {fields['DimSize']}")
    geometry, notes = grid_in_mm(_grid(fields, size_xyz), unit_mm([fields.get("DistanceUnits", "")]))
    dtype = np.dtype(TYPES[fields["ElementType"]]).newbyteorder(">" if _is_set(fields, *BYTE_ORDER) else "<")
    is_packed = _is_set(fields, "CompressedData")
    array = read_voxels(content[header.end() :], dtype, geometry.size_zyx, is_packed=is_packed)
    return TextVolume(array, geometry, {name: fields[name] for name in fields if name not in KNOWN}, notes)


def _fields(lines: Iterable[str]) -> dict[str, str]:
    """The fields by name. MetaIO passes over known names in other capitals, so they are refused."""
    known = {name.lower(): name for name in KNOWN}
    pairs = []
    for line in filter(str.strip, lines):
        parsed = LINE.fullmatch(line)
        if parsed is None:
            raise damaged(f"a line of its header has no `=`: {line[:40]}")
        name, value = parsed.groups()
        if known.get(name.lower(), name) != name:
            raise damaged(f"expected `{known[name.lower()]}` in its header, got `{name}`")
        pairs.append((name, value))
    return unique_fields(pairs)


def _check_voxels(fields: Mapping[str, str]) -> None:
    """Refuse voxels that are no binary numbers, or whose numbers the header asks to scale."""
    kind = fields.get("ElementType", "missing")
    if kind not in TYPES:
        raise damaged(f"ElementType is {kind}")
    if not _is_set(fields, "BinaryData", default="True"):
        raise UserError("its voxels are stored as text; save it with BinaryData = True")
    slope, offset = (fields.get(f"ElementToIntensityFunction{name}") for name in ("Slope", "Offset"))
    if finite_numbers(slope or "1") != [1.0] or finite_numbers(offset or "0") != [0.0]:
        raise UserError(
            "its header asks to scale the voxels (ElementToIntensityFunction), which programs do not agree on; save "
            "the scaled voxels without these fields"
        )


def _grid(fields: Mapping[str, str], size_xyz: Sequence[int]) -> Geometry:
    """The grid in the header's unit; its direction as stored."""
    spacing_text = fields.get("ElementSpacing", fields.get("ElementSize", ""))
    spacing_xyz = finite_numbers(spacing_text)
    if len(spacing_xyz) != 3 or min(spacing_xyz) <= 0:
        raise UserError(NO_SIZES.format(f"three positive numbers as `ElementSpacing`, got {spacing_text or 'none'}"))
    origin = finite_numbers(_one_of(fields, ORIGIN, "0 0 0"))
    if len(origin) != 3:
        raise UserError("its origin is not three numbers; export it again")
    axes = finite_numbers(_one_of(fields, AXES, "1 0 0 0 1 0 0 0 1"))  # one after the other
    if len(axes) != 9 or not np.linalg.det(np.reshape(axes, (3, 3))):
        raise damaged(f"its axes are {_one_of(fields, AXES, '')}")
    return Geometry(
        size_zyx=tuple(size_xyz[::-1]),
        spacing_zyx_mm=tuple(spacing_xyz[::-1]),
        origin_xyz_mm=tuple(origin),
        direction=tuple(np.reshape(axes, (3, 3)).T.ravel().tolist()),
    )


def _one_of(fields: Mapping[str, str], names: Sequence[str], default: str) -> str:
    """The value of a field that has several names."""
    given = {fields[name] for name in names if name in fields}
    if len(given) > 1:
        raise damaged(f"{' and '.join(name for name in names if name in fields)} differ")
    return given.pop() if given else default


def _is_set(fields: Mapping[str, str], *names: str, default: str = "False") -> bool:
    value = _one_of(fields, names, default)
    if value[:1].lower() not in YES + NO:
        raise damaged(f"{names[0]} is {value or 'empty'}")
    return value[0].lower() in YES

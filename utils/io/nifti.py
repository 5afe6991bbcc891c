"""Read and write NIfTI, versions 1 and 2, plain or gzip whatever the file is called, with the grid's exact header.

A NIfTI header can hold two transforms to the patient, qform and sform, each with a code that is 0 if it is not set.
"""

import gzip
import itertools
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError, HeaderTypeError

from utils.errors import UserError
from utils.imaging.geometry import MAX_VOXEL_MM, MIN_VOXEL_MM, SAME_GRID_VOX, Geometry, settle_axes

NiftiHeader = Nifti1Header | Nifti2Header

NIFTI_SUFFIXES = (".nii.gz", ".nii")
HEADER_CLASSES = {348: Nifti1Header, 540: Nifti2Header}
"""By the first number of the file, the size of the header."""
GZIP = b"\x1f\x8b"
OTHER_CONTENTS = {
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ": "is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"PK\x03\x04": "is a ZIP archive; unpack it",
    b"NRRD": "is NRRD, not NIfTI; rename it to .nrrd",
    b"ObjectType": "is MetaImage, not NIfTI; rename it to .mha",
}
"""First bytes of files that are met under the name of a NIfTI file."""
MAX_GZIP_RATIO = 1100
"""Deflate packs 1032 bytes into one at best."""
TRUNCATED = "is truncated: it holds fewer voxels than its header says; copy or export it again"
EXTRA_VOXELS = "holds more voxels than its header says; copy or export it again"
PLACEMENT = [f"{name}_{axis}" for name in ("srow", "qoffset") for axis in "xyz"]
PLACEMENT += ["qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "xyzt_units"]
"""The header's fields that place the voxels in the patient, together with the first four of pixdim."""
UNIT_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Codes of meter, millimeter, micrometer; files without a unit are in millimeters."""
UNIT_NAMES = {1: "m", 3: "um"}
RAS_TO_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
"""NIfTI's axes point to the patient's right, front and head."""
ROUNDING = 1e-5
"""Headers hold single precision."""
SMALLEST_EXTENSION = 16
"""Bytes. A byte behind the header says whether extensions lie before the voxels."""
MIN_AXES_VOLUME = 0.1
"""Of the parallelepiped that the unit vectors of the axes span: 1 if they are perpendicular, 0 in a plane."""
QUATERNION_ROUNDING = -1e-4
"""A quaternion whose square is longer than 1 by less than this was rounded; with the sign that nibabel wants."""
SILENT = logging.Logger("nibabel", logging.CRITICAL + 1)
"""nibabel mends small faults of a header, and would log each on stderr."""


@dataclass(frozen=True, kw_only=True)
class NiftiGrid(Geometry):
    """The grid of a NIfTI file. A result on it gets the file's qform and sform, so that every viewer overlays both."""

    header: NiftiHeader = field(compare=False, repr=False)


class NiftiImage(NamedTuple):
    """The content of a NIfTI file."""

    array: np.ndarray
    """(D, H, W), as stored or, with a slope and an intercept, rescaled to float32."""
    grid: NiftiGrid
    notes: tuple[str, ...]
    """How an unusual header was read."""


def read_nifti(path: Path) -> NiftiImage:
    """Read a three-dimensional scalar volume.

    Raises:
        UserError: the file is damaged, truncated, of another format, not a 3-D scalar image, or no CT has such voxels.
    """
    with path.open("rb") as file:
        start = file.read(16)
    other = next((kind for first, kind in OTHER_CONTENTS.items() if start.startswith(first)), None)
    if other:
        raise UserError(other, path)
    is_gzip = start.startswith(GZIP)
    with gzip.open(path) if is_gzip else path.open("rb") as stream, _explain_damage(path):
        header = _read_header(stream, path)
        shape, dtype = header.get_data_shape(), header.get_data_dtype()
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        num_values = len(dtype.names or "x")
        if len(shape) != 3 or num_values != 1 or dtype.kind not in "iuf":
            raise UserError(
                f"expected a 3-D volume with one value per voxel, got {len(shape)} dimensions and {num_values} "
                f"values per voxel ({header.get_value_label('datatype')}); export the volume alone",
                path,
            )
        if min(shape) < 1:
            raise HeaderDataError(f"its size is {shape}")
        num_bytes = header.get_data_offset() + math.prod(shape) * dtype.itemsize
        if num_bytes > path.stat().st_size * (MAX_GZIP_RATIO if is_gzip else 1):
            raise UserError(TRUNCATED, path)
        room = header.get_data_offset() - header.single_vox_offset
        lacks_extension = 0 <= room < SMALLEST_EXTENSION and stream.read(1) not in (b"", b"\0")
        array = _read_voxels(stream, header, shape)
        num_extra = sum(map(len, iter(partial(stream.read, 1 << 20), b"")))  # to the end: the checksum comes last
        if num_extra >= math.prod(shape[:2]) * dtype.itemsize or (num_extra and lacks_extension):
            raise UserError(EXTRA_VOXELS, path)
        grid, notes = _grid(header, array.shape)
        _require_lengths(grid, path)
    return NiftiImage(array, grid, notes)


def write_nifti(stream: BinaryIO, array: np.ndarray, geometry: Geometry, *, compress: bool) -> None:
    """Write a NIfTI-1 file.

    Args:
        stream: a file that is open for writing.
        array: (D, H, W), a numeric dtype.
        geometry: of the array. From a NIfTI file, its qform and sform are copied; otherwise both are written, and the
            qform of a sheared grid is that of the nearest perpendicular one.
        compress: with gzip; the same content always gives the same bytes.
    """
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    header["vox_offset"] = header.single_vox_offset
    if isinstance(geometry, NiftiGrid) and geometry == _grid(geometry.header, geometry.size_zyx)[0]:
        with np.errstate(over="ignore"):  # NIfTI-2 holds larger numbers, in a transform that is invalid
            header["pixdim"][:4] = geometry.header["pixdim"][:4]
            for name in PLACEMENT:
                header[name] = geometry.header[name]
    else:
        affine = np.eye(4)
        affine[:3] = geometry.index_to_world()[:, (2, 1, 0, 3)]
        header.set_xyzt_units("mm")
        header.set_qform(RAS_TO_LPS @ affine, code="scanner")
        header.set_sform(RAS_TO_LPS @ affine, code="scanner")
    parts = (header.binaryblock, bytes(4), np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")))
    if not compress:
        stream.writelines(parts)
        return
    strategy = zlib.Z_RLE if array.dtype == np.uint8 else zlib.Z_DEFAULT_STRATEGY  # label maps are long runs
    packer = zlib.compressobj(level=1, wbits=31, strategy=strategy)
    stream.writelines(map(packer.compress, parts))
    stream.write(packer.flush())


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise UserError(TRUNCATED, path) from error
    except (HeaderDataError, HeaderTypeError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"cannot be read as a volume: damaged, or of another format ({error}); copy or export it again", path
        ) from error


def _read_header(stream: BinaryIO, path: Path) -> NiftiHeader:
    start = stream.read(4)
    for order, endianness in (("little", "<"), ("big", ">")):
        size = int.from_bytes(start, order)
        if size in HEADER_CLASSES:
            block = start + stream.read(size - len(start))
            if len(block) < size:
                raise EOFError
            header = HEADER_CLASSES[size](block, endianness=endianness, check=False)
            spacing = header["pixdim"][1:4].copy()
            if header["magic"] == header.single_magic and 0 <= header["vox_offset"] < header.single_vox_offset:
                header["vox_offset"] = header.single_vox_offset  # as the standard says
            header.check_fix(logger=SILENT)
            header["pixdim"][1:4] = np.abs(spacing)  # nibabel makes 1 of 0
            header.quaternion_threshold = QUATERNION_ROUNDING
            if not header["vox_offset"] >= size:  # also if it is NaN; as in the .hdr of a pair of files
                raise HeaderDataError("no voxels follow its header")
            return header
    raise UserError(
        "cannot be read as a volume: damaged, or of another format (it does not begin with a NIfTI header); "
        "copy or export it again",
        path,
    )


def _read_voxels(stream: BinaryIO, header: NiftiHeader, shape_xyz: tuple[int, ...]) -> np.ndarray:
    """(D, H, W), rescaled, in the byte order of the computer."""
    array = np.empty(shape_xyz[::-1], header.get_data_dtype())
    stream.seek(header.get_data_offset())
    if stream.readinto(array.reshape(-1).view(np.uint8)) < array.nbytes:
        raise EOFError
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):  # infinite voxels are refused later
            return array.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    return array.astype(np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("="), copy=False)


def _grid(header: NiftiHeader, size_zyx: tuple[int, int, int]) -> tuple[NiftiGrid, tuple[str, ...]]:
    """Where a header places voxels, and notes; a sheared grid keeps its shear, beyond what rounding explains."""
    affine, notes = _to_patient(header, size_zyx[::-1])
    unit_mm = UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    lengths, sizes = np.linalg.norm(affine[:3, :3], axis=0), header["pixdim"][1:4].astype(float)
    axes = np.round(RAS_TO_LPS[:3, :3] @ affine[:3, :3] / lengths, 12)  # ITK stumbles over denormal numbers
    spacing_xyz = np.where(np.isclose(lengths, sizes, rtol=ROUNDING), sizes, lengths) * unit_mm
    grid, shear = settle_axes(
        NiftiGrid(
            size_zyx=size_zyx,
            spacing_zyx_mm=tuple(spacing_xyz[::-1].tolist()),
            origin_xyz_mm=tuple((RAS_TO_LPS[:3, :3] @ affine[:3, 3] * unit_mm).tolist()),
            direction=tuple(axes.ravel().tolist()),
            header=header,
        )
    )
    return grid, (*notes, *shear)


def _require_lengths(grid: NiftiGrid, path: Path) -> None:
    if min(grid.spacing_zyx_mm) < MIN_VOXEL_MM or max(grid.spacing_zyx_mm) > MAX_VOXEL_MM:
        unit = UNIT_NAMES.get(int(grid.header["xyzt_units"]) & 7, "mm")
        raise UserError(
            f"its voxels measure {' x '.join(f'{size:.3g}' for size in grid.spacing_zyx_mm)} mm (z, y, x), and no CT "
            f"has such voxels; its header gives lengths in {unit}; correct the unit or the voxel sizes",
            path,
        )


def _to_patient(header: NiftiHeader, shape_xyz: tuple[int, ...]) -> tuple[np.ndarray, list[str]]:
    """The (4, 4) matrix from an index (x, y, z) to the patient, RAS, in the header's unit; and notes.

    The sform counts if its code is not 0, else the qform. So do nibabel, FSLeyes and most programs; ITK, and with it 3D
    Slicer and ITK-SNAP, takes the qform where the sform's code is 2 or more.
    """
    forms, problems = {}, []
    for name in (name for name in ("sform", "qform") if header[f"{name}_code"]):
        try:
            with np.errstate(all="ignore"):
                matrix = header.get_sform() if name == "sform" else header.get_qform()
        except (HeaderDataError, ValueError):  # its quaternion is longer than 1
            matrix = np.zeros((4, 4))
        if _is_valid(matrix):
            forms[f"{name} (code {header[f'{name}_code']})"] = matrix
        else:
            problems.append(f"its {name} is invalid")
    if not forms and problems:
        raise HeaderDataError("; ".join(problems))
    if not forms:
        return _without_forms(header), [
            "its header has neither sform nor qform, so its axes were taken to point to the left, back and head; check "
            "that left and right are correct"
        ]
    first, second = next(iter(forms.values())), list(forms.values())[-1]
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape_xyz), (1,)))).T
    moved_vox = np.abs(np.linalg.solve(first, (second - first) @ corners)).max()
    if moved_vox > SAME_GRID_VOX:
        moved_mm = np.linalg.norm((second - first) @ corners, axis=0).max()
        names = " and ".join(forms)
        problems.append(f"its {names} place voxels up to {moved_mm:.3g} mm apart; the sform was used")
    return first, problems


def _without_forms(header: NiftiHeader) -> np.ndarray:
    """The matrix that ITK, and with it 3D Slicer and ITK-SNAP, takes where both codes are 0."""
    spacing = np.abs(header["pixdim"][1:4].astype(float))
    matrix = RAS_TO_LPS @ np.diag((*spacing, 1.0))
    if not _is_valid(matrix):
        raise HeaderDataError(f"its voxel sizes are {', '.join(f'{size:g}' for size in spacing)}")
    return matrix


def _is_valid(matrix: np.ndarray) -> bool:
    """Whether a (4, 4) matrix can place the voxels of a patient, in any of NIfTI's units."""
    if not np.abs(matrix).max() < 1e7:  # also if it is NaN
        return False
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    return lengths.min() > 1e-6 and bool(abs(np.linalg.det(matrix[:3, :3] / lengths)) > MIN_AXES_VOLUME)

"""Read and write CT volumes and label maps (NIfTI, NRRD, MHA) with their geometry."""

import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.files import atomic_write

NIFTI_SUFFIXES = (".nii.gz", ".nii")
GZIP_CHUNK = 1 << 24
NIFTI_FLOATS = {"16": "f4", "64": "f8"}
"""NIfTI's codes of floating-point voxels."""
NIFTI_HEADER_SIZES = (348, 540)
"""The first number of a file, by which its byte order is known."""
NOT_WRITTEN = "cannot be written completely: is the disk full, or may nobody write there?"
SUFFIXES = (*NIFTI_SUFFIXES, ".seg.nrrd", ".nrrd", ".mha")
"""Not .mhd: its voxels lie in a second file, which may be cut short or left behind without anybody noticing."""

SitkImage = sitk.Image


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A voxel array with its place in the patient.

    Attributes:
        array: (D, H, W), any numeric dtype.
        geometry: its grid; `geometry.size_zyx == array.shape`.
        metadata: the file's header fields as text, for example segment names in NRRD.
    """

    array: np.ndarray
    geometry: Geometry
    metadata: Mapping[str, str] | None = None


def volume_suffix(path: Path) -> str | None:
    """The volume suffix that `path` ends with (".nii.gz", ".nrrd", ...), or None if it is no volume."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def volume_stem(path: Path) -> str:
    """The file name without its volume suffix: the case id of "pt_1.nii.gz" is "pt_1"."""
    suffix = volume_suffix(path)
    return path.name[: -len(suffix)] if suffix else path.name


def read_volume(path: str | Path) -> Volume:
    """Read a three-dimensional scalar volume.

    Returns:
        The volume as stored: axes are not reordered, see `to_lps`.

    Raises:
        UserError: the file is missing, damaged, truncated, or not a 3-D scalar image.
        OSError: nobody may read it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    path.open("rb").close()  # says "permission denied" where ITK says that the file is damaged
    try:
        image = sitk.ReadImage(str(path))
        complete = volume_suffix(path) not in NIFTI_SUFFIXES or _nifti_is_complete(path)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path}: cannot be read as a volume: damaged, or of another format ({reason})") from error
    num_bad = _count_nifti_not_finite(path) if complete and volume_suffix(path) in NIFTI_SUFFIXES else 0
    if num_bad:
        raise UserError(f"{path}: {num_bad} voxel(s) are NaN or infinite: export the volume again")
    if not complete:
        raise UserError(f"{path}: is truncated, it holds fewer voxels than its header says; copy or export it again")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"{path}: expected a 3-D volume with one value per voxel, got {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} values per voxel"
        )
    return from_sitk(image)


def write_volume(path: str | Path, volume: Volume, metadata: Mapping[str, str] | None = None) -> None:
    """Write a volume under a temporary name and rename it, so that a killed run leaves no half file.

    Args:
        path: target; its suffix decides the format.
        volume: array and geometry.
        metadata: header fields to store where the format can (NRRD, MHA).

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    image = to_sitk(volume)
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    with atomic_write(path, suffix=volume_suffix(path)) as partial:
        try:
            sitk.WriteImage(image, str(partial), useCompression=True)
            complete = _is_complete(partial)
        except (RuntimeError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: {NOT_WRITTEN} ({str(error).strip().splitlines()[-1].strip()})") from error
        if not complete:
            raise UserError(f"{path}: {NOT_WRITTEN}")


def read_dicom_pixels(path: Path) -> np.ndarray:
    """Decompress the one image of a DICOM file.

    Returns:
        (rows, columns) float32, rescaled to the units of its header (HU in a CT).

    Raises:
        UserError: the file is damaged, or compressed in a way that nobody here can undo.
    """
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{path.name}: its pixels cannot be decompressed ({reason})") from error
    return sitk.GetArrayFromImage(image)[0].astype(np.float32)


def to_lps(volume: Volume) -> Volume:
    """Permute and flip the axes so that z points up, y to the back and x to the left, as closely as they can.

    An oblique volume keeps its residual rotation in the direction.
    """
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), "LPS"))


def match_orientation(volume: Volume, like: Geometry) -> Volume:
    """Undo `to_lps`: permute and flip the axes of `volume` so that they run as those of the grid `like`."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(like.direction)
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), code))


def _is_complete(path: Path) -> bool:
    """Whether a file that was just written can be read again: on a full disk ITK stops half-way and says nothing.

    Raises:
        RuntimeError: it cannot, says ITK; gzip has its own errors.
    """
    if volume_suffix(path) in NIFTI_SUFFIXES:
        return _nifti_is_complete(path)
    sitk.ReadImage(str(path))
    return True


def _nifti_is_complete(path: Path) -> bool:
    """Whether a NIfTI file is as long as its header says: ITK fills what is missing with zeros and says nothing."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    bits_per_voxel, offset = (float(reader.GetMetaData(key)) for key in ("bitpix", "vox_offset"))
    expected = offset + math.prod(reader.GetSize()) * bits_per_voxel / 8
    if volume_suffix(path) != ".nii.gz":
        return path.stat().st_size >= expected
    with gzip.open(path) as stream:
        length = 0
        while chunk := stream.read(GZIP_CHUNK):
            length += len(chunk)
    return length >= expected


def _count_nifti_not_finite(path: Path) -> int:
    """How many voxels of a complete NIfTI file are NaN or infinite: ITK makes zeros of them and says nothing."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    kind = NIFTI_FLOATS.get(reader.GetMetaData("datatype"))
    if kind is None:
        return 0
    with gzip.open(path) if volume_suffix(path) == ".nii.gz" else path.open("rb") as stream:
        is_little = int.from_bytes(stream.read(4), "little") in NIFTI_HEADER_SIZES
        stream.seek(int(float(reader.GetMetaData("vox_offset"))))
        count = 0
        while chunk := stream.read(GZIP_CHUNK):
            values = np.frombuffer(chunk, dtype=("<" if is_little else ">") + kind, count=len(chunk) // int(kind[1]))
            count += int(values.size - np.isfinite(values).sum())
    return count


def from_sitk(image: sitk.Image) -> Volume:
    """The voxels, geometry and header fields of a scalar 3-D SimpleITK image."""
    geometry = Geometry(
        size_zyx=image.GetSize()[::-1],
        spacing_zyx_mm=image.GetSpacing()[::-1],
        origin_xyz_mm=image.GetOrigin(),
        direction=image.GetDirection(),
    )
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    return Volume(array=sitk.GetArrayFromImage(image), geometry=geometry, metadata=metadata)


def to_sitk(volume: Volume) -> sitk.Image:
    array = volume.array
    if array.shape != tuple(volume.geometry.size_zyx):
        raise UserError(f"array of shape {array.shape} does not fit its geometry: {volume.geometry}")
    image = sitk.GetImageFromArray(array.astype(np.uint8) if array.dtype == bool else array)
    image.SetSpacing(volume.geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(volume.geometry.origin_xyz_mm)
    image.SetDirection(volume.geometry.direction)
    return image

"""Read and write CT volumes and label maps (NIfTI, NRRD, MHA) with their geometry."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from utils.errors import UserError
from utils.imaging.geometry import Geometry, settle_axes
from utils.io.files import atomic_write, files_below, is_broken_link, printable
from utils.io.metaimage import read_metaimage
from utils.io.nifti import NIFTI_SUFFIXES, read_nifti, write_nifti
from utils.io.nrrd import read_nrrd

NOT_WRITTEN = "cannot be written completely: is the disk full, or the folder write-protected?"
SUFFIXES = (*NIFTI_SUFFIXES, ".seg.nrrd", ".nrrd", ".mha")
"""Not .mhd: its voxels lie in a second file, which can be truncated or left behind unnoticed."""
SitkImage = sitk.Image


@dataclass(frozen=True, kw_only=True)
class Volume:
    """A voxel array and its grid in the patient."""

    array: np.ndarray
    """(D, H, W), any numeric dtype."""
    geometry: Geometry
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The file's header fields as text, for example segment names in NRRD."""
    notes: tuple[str, ...] = ()
    """How unusual input was read, for the report."""


def volume_suffix(path: Path) -> str | None:
    """The volume suffix that `path` ends with (".nii.gz", ".nrrd", ...), or None if it is not a volume."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def volume_stem(path: Path) -> str:
    """The file name without its volume suffix: the case id of "pt_1.nii.gz" is "pt_1"."""
    suffix = volume_suffix(path)
    return printable(path.name[: -len(suffix)] if suffix else path.name)


def volumes_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The volume files in a folder, or also below it, sorted; hidden ones are left out.

    Links to missing files are among them, so that reading them fails and a case does not lose an organ unnoticed.
    """
    paths = files_below(folder) if recursive else folder.iterdir()
    named = (path for path in paths if volume_suffix(path) and path.name[0] != ".")
    return sorted(path for path in named if path.is_file() or is_broken_link(path))


def read_volume(path: str | Path) -> Volume:
    """Read a three-dimensional scalar volume.

    Returns:
        The volume as stored: axes are not reordered, see `to_lps`.

    Raises:
        UserError: the file is missing, damaged, truncated, or not a 3-D scalar image.
        PermissionError: the file may not be read.
    """
    path = Path(path)
    if is_broken_link(path):
        raise UserError("is a link to a file that is missing; fetch the file or remove the link", path)
    if not path.is_file():
        raise UserError("no such file; check the path", path)
    if volume_suffix(path) in NIFTI_SUFFIXES:
        found = read_nifti(path)
        return Volume(array=found.array, geometry=found.grid, notes=found.notes)
    read = read_metaimage if path.suffix.lower() == ".mha" else read_nrrd
    try:
        return Volume(**read(path.read_bytes())._asdict())
    except UserError as error:
        raise UserError(str(error), path) from error


def read_lps(path: Path) -> Volume:
    """Read a volume with its axes in LPS order, so that files with differently stored axes have the same grid."""
    return to_lps(read_volume(path))


def write_volume(path: str | Path, volume: Volume, metadata: Mapping[str, str] | None = None) -> None:
    """Write a volume atomically.

    Args:
        path: its suffix decides the format.
        volume: array and geometry; its own metadata are not written.
        metadata: header fields to store where the format can (NRRD, MHA).

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path, suffix = Path(path), volume_suffix(Path(path))
    with atomic_write(path, suffix=suffix) as partial:
        try:
            if suffix in NIFTI_SUFFIXES:
                with partial.open("wb") as file:
                    write_nifti(file, _voxels(volume), volume.geometry, compress=suffix == ".nii.gz")
                return
            image = to_sitk(volume)
            for key, value in (metadata or {}).items():
                image.SetMetaData(key, value)
            with _itk_path(partial, is_output=True) as writable:
                sitk.WriteImage(image, writable, useCompression=True)
                sitk.ReadImage(writable)  # on a full disk ITK stops half-way and says nothing
        except (OSError, RuntimeError) as error:
            raise UserError(f"{NOT_WRITTEN} ({_reason(error)})", path) from error


def read_dicom_pixels(path: Path) -> np.ndarray:
    """Decompress the one image of a DICOM file: (rows, columns) float32, rescaled to HU in a CT.

    Raises:
        RuntimeError: the file is damaged, or its compression is not supported.
    """
    with _itk_path(path) as readable:
        image = sitk.ReadImage(readable)
    return sitk.GetArrayFromImage(image)[0].astype(np.float32)


def to_lps(volume: Volume) -> Volume:
    """Permute and flip the axes so that z points up, y to the back and x to the left, as closely as possible.

    The direction of an oblique volume keeps the remaining rotation.
    """
    oriented = from_sitk(sitk.DICOMOrient(to_sitk(volume), "LPS"))
    return replace(oriented, metadata=volume.metadata, notes=volume.notes)


def match_orientation(volume: Volume, like: Geometry) -> Volume:
    """Undo `to_lps`: permute and flip the axes of `volume` to those of the grid `like`."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(like.direction)
    return from_sitk(sitk.DICOMOrient(to_sitk(volume), code))


ITK_OPENS = str.isascii if os.name == "nt" else (lambda path: printable(path) == path)
"""Which paths ITK can open. On Windows it knows only the characters of the country (github.com/SimpleITK/SimpleITK/
issues/795). Elsewhere, a name that is not UTF-8 would abort the program."""


@contextmanager
def _itk_path(path: Path, *, is_output: bool = False) -> Iterator[str]:
    """A path that ITK can open for a file that exists, or that it is to write: of the file itself, or of a copy."""
    if ITK_OPENS(str(path)):
        yield str(path)
        return
    with tempfile.TemporaryDirectory(dir=_plain_folder()) as folder:
        copy = Path(folder) / f"volume{volume_suffix(path) or ''}"
        if not is_output:
            shutil.copyfile(path, copy)
        yield str(copy)
        if is_output:
            shutil.copyfile(copy, path)


def _plain_folder() -> str | None:
    """Where copies for ITK can lie: None for the usual temporary folder, which on Windows has the user's name."""
    usual = tempfile.gettempdir()
    return None if ITK_OPENS(usual) else os.environ.get("PROGRAMDATA", usual)


def _reason(error: Exception) -> str:
    """The last line of an error; with ITK, the lines before it name its source files."""
    return str(error).strip().splitlines()[-1].strip()


def from_sitk(image: sitk.Image) -> Volume:
    """The voxels, geometry and header fields of a scalar 3-D SimpleITK image."""
    geometry = Geometry(
        size_zyx=image.GetSize()[::-1],
        spacing_zyx_mm=image.GetSpacing()[::-1],
        origin_xyz_mm=image.GetOrigin(),
        direction=image.GetDirection(),
    )
    grid, notes = settle_axes(geometry)
    metadata = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    return Volume(array=sitk.GetArrayFromImage(image), geometry=grid, metadata=metadata, notes=notes)


def to_sitk(volume: Volume) -> sitk.Image:
    """A SimpleITK image of the voxels and the geometry, without header fields; bool becomes uint8."""
    image = sitk.GetImageFromArray(_voxels(volume))
    image.SetSpacing(volume.geometry.spacing_zyx_mm[::-1])
    image.SetOrigin(volume.geometry.origin_xyz_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def _voxels(volume: Volume) -> np.ndarray:
    """The array in a type that files can hold."""
    if volume.array.shape != tuple(volume.geometry.size_zyx):
        raise ValueError(f"array of shape {volume.array.shape} does not fit its geometry: {volume.geometry}")
    return volume.array.astype(np.uint8) if volume.array.dtype == bool else volume.array

"""Find DICOM series in a folder tree, and read a CT series with its exact geometry.

File names are ignored: UIDs separate the series, positions sort the slices.
"""

import logging
import struct
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException
from pydicom.uid import MediaStorageDirectoryStorage

from utils.errors import UserError, shorten
from utils.imaging.intensity import AIR_HU
from utils.io.dicom_geometry import SliceGeometry, check_images, find_localizers, stack_slices
from utils.io.dicom_padding import declared_padding
from utils.io.files import files_below
from utils.io.volumes import Volume, read_dicom_pixels

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE_BYTES = 128
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""First bytes of a file without preamble: little-endian groups 0002 and 0008."""
NEEDED_TAGS = ("SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID")
OTHER_TAGS = ("ImageType", "PatientID", "SeriesDescription", "FrameOfReferenceUID", "Rows")
UNDEFINED_LENGTH = 0xFFFFFFFF
UID_DIGITS = 8
"""The last digits of a UID tell apart the series of a folder."""
DECODE_ERRORS = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
DECODE_ERRORS += (OverflowError, struct.error, BytesLengthException)
"""What pydicom raises for damaged bytes, besides its own errors, which are ValueErrors or OSErrors."""


@dataclass(frozen=True, kw_only=True)
class DicomSeries:
    """Files that share a SeriesInstanceUID; texts that the files lack are empty."""

    uid: str
    modality: str
    """ "CT", "RTSTRUCT", ..."""
    patient_id: str
    frame_of_reference_uid: str
    """Shared by all images in one coordinate system."""
    description: str
    paths: tuple[Path, ...]
    """Sorted by name, without localizers (scouts) that share the series."""
    sop_instance_uids: frozenset[str] = frozenset()
    """Of the files in `paths`."""
    num_localizers: int = 0
    has_only_localizers: bool = False
    damaged: tuple[Path, ...] = ()
    """Unreadable DICOM files in the same folders; they may be slices of this series."""

    def __str__(self) -> str:
        return self._describe(f"...{self.uid[-UID_DIGITS:]}")  # 60 digits would push a message's reason out of sight

    @property
    def record(self) -> str:
        """The same text with the whole UID."""
        return self._describe(self.uid)

    def _describe(self, uid: str) -> str:
        described = f" {self.description!r}" if self.description else ""
        return f"{self.modality} series{described} {uid} ({len(self.paths)} files in {self.paths[0].parent})"


class CtSeries(NamedTuple):
    """A CT read from DICOM."""

    volume: Volume
    """HU, (slices, rows, columns); int16 where every value is whole, else float32. Axes as stored, slices ascending
    along the normal of their plane: see `to_lps`."""
    paths: tuple[Path, ...]
    """File of each slice, in the order of the array."""
    sop_instance_uids: tuple[str, ...]
    """UID of each slice, in the order of the array."""
    frame_of_reference_uid: str
    notes: tuple[str, ...]
    """Repairs, for example copies of slices that were left out."""


@contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's own warnings on values that break the standard: our messages say what matters."""
    log = logging.getLogger("pydicom")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


@_quiet_pydicom()
def find_series(folder: Path) -> list[DicomSeries]:
    """Find every DICOM series below a folder, of images or other objects.

    Returns:
        Sorted by patient, modality and UID. Files that are not DICOM are skipped.

    Raises:
        UserError: there is no such folder, or none of its files is DICOM.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a folder of DICOM files")
    groups: dict[tuple[str, ...], list[FileDataset]] = defaultdict(list)
    damaged: dict[Path, list[Path]] = defaultdict(list)
    for path in filter(_looks_like_dicom, files_below(folder)):
        header = _read_header(path)
        if header is None:
            damaged[path.parent].append(path)
        elif not _is_index(header):  # some writers change the UID of the study within a series
            key = tuple(_text(header, name) for name in ("PatientID", "Modality", "SeriesInstanceUID"))
            groups[key].append(header)
    if not groups:
        lost = sum(damaged.values(), [])
        found = f"{len(lost)} damaged file(s), for example {lost[0]}" if lost else "none"
        raise UserError(f"{folder}: expected DICOM files in this folder or below it, found {found}; check the path")
    return [_series(headers, damaged) for _, headers in sorted(groups.items())]


def select_cts(series: Iterable[DicomSeries]) -> list[DicomSeries]:
    """The CTs among series; those that consist of localizers count only if there are no others."""
    cts = [found for found in series if found.modality == "CT"]
    return [ct for ct in cts if not ct.has_only_localizers] or cts


def read_ct(series: DicomSeries) -> CtSeries:
    """Read a CT series on the grid that the positions and orientations of its slices give.

    Raises:
        UserError: the slices do not form one volume in HU: another modality than CT, color, several images in a file,
            truncated files, missing fields, different sizes or orientations, missing or repeated slices, unequal
            distances, a tilted gantry. The message lists all such problems.
    """
    try:
        return _read_ct(series)
    except UserError as error:
        raise UserError(f"{error}: {series}") from error


@_quiet_pydicom()
def read_dataset(path: Path) -> FileDataset:
    """Read a whole DICOM file, also one without preamble.

    Raises:
        UserError: it is missing, truncated or not DICOM.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; check the path")
    warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
    with _explain_decode_errors(path):
        dataset = pydicom.dcmread(path, force=True)
    _check_complete(dataset, path)
    with _explain_decode_errors(path):
        list(dataset.iterall())  # pydicom parses values only when asked for them
    if "SOPInstanceUID" not in dataset:
        raise UserError(f"{path}: has no SOPInstanceUID, so it is truncated or not a DICOM file; copy it again")
    return dataset


@contextmanager
def _explain_decode_errors(path: Path) -> Iterator[None]:
    """Raise a `UserError` for what pydicom raises for a damaged file; put around single calls of pydicom."""
    try:
        yield
    except (*DECODE_ERRORS, UserWarning) as error:
        raise UserError(
            f"{path}: cannot be read as DICOM: damaged, or of another format ({error}); copy it again"
        ) from error


def _check_complete(dataset: FileDataset, path: Path) -> None:
    """Refuse a file that ends within an element, of which pydicom silently takes the part that is there."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over the data set itself would parse its elements
        with _explain_decode_errors(path):
            element = dataset.get_item(tag)
        length = getattr(element, "length", UNDEFINED_LENGTH)
        if length != UNDEFINED_LENGTH and element.value is not None and len(element.value) < length:
            raise UserError(f"{path}: is truncated: it ends within the element {tag}; copy it again")


@_quiet_pydicom()
def _read_ct(series: DicomSeries) -> CtSeries:
    if series.damaged:
        names = shorten(path.name for path in series.damaged)
        raise UserError(f"{len(series.damaged)} damaged file(s) beside it may be its slices: {names}; copy them again")
    datasets, notes = _drop_copies(series.paths)
    if series.num_localizers:
        notes.append(f"{series.num_localizers} localizer(s) left out")
    if scouts := find_localizers(datasets):
        names = shorten(Path(datasets[i].filename).name for i in scouts)
        notes.append(f"left out as localizers, since their plane is turned against that of the slices: {names}")
        datasets = [dataset for i, dataset in enumerate(datasets) if i not in scouts]
    check_images(datasets)
    stack = stack_slices([SliceGeometry.of(dataset) for dataset in datasets])
    ordered = [datasets[i] for i in stack.order]
    planes, num_padding = [], 0
    for dataset in ordered:
        plane = _hounsfield(dataset)
        padding = declared_padding(dataset, plane)
        plane[padding] = np.minimum(plane[padding], AIR_HU)
        num_padding += np.count_nonzero(padding)
        planes.append(plane)
    array = np.stack(planes)
    if num_padding:
        notes.append(f"{num_padding / array.size:.1%} of the voxels are declared as padding and count as air")
    if all(np.array_equal(plane, np.rint(plane)) for plane in planes):
        limits = np.iinfo(np.int16)
        if array.min() < limits.min or array.max() > limits.max:
            worst = Path(ordered[int(np.abs(array).max(axis=(1, 2)).argmax())].filename).name
            raise UserError(
                f"expected Hounsfield units, got values from {array.min():.0f} to {array.max():.0f}, the largest in "
                f"{worst}; export the CT again with its RescaleSlope and RescaleIntercept"
            )
        array = array.astype(np.int16)
    return CtSeries(
        volume=Volume(array=array, geometry=stack.geometry),
        paths=tuple(Path(dataset.filename) for dataset in ordered),
        sop_instance_uids=tuple(str(dataset.SOPInstanceUID) for dataset in ordered),
        frame_of_reference_uid=series.frame_of_reference_uid,
        notes=tuple(notes),
    )


def _drop_copies(paths: Sequence[Path]) -> tuple[list[FileDataset], list[str]]:
    """Read the files; a second file with the same UID and the same voxels is left out, with a note."""
    by_uid: dict[str, FileDataset] = {}
    notes = []
    for path in paths:
        dataset = read_dataset(path)
        first = by_uid.setdefault(str(dataset.SOPInstanceUID), dataset)
        if first is dataset:
            continue
        if any(first.get(tag) != dataset.get(tag) for tag in ("ImagePositionPatient", "PixelData")):
            raise UserError(f"{Path(first.filename).name} and {path.name} have one UID but differ; keep one of them")
        notes.append(f"{path.name} is a copy of {Path(first.filename).name} and was left out")
    return list(by_uid.values()), notes


def _hounsfield(dataset: FileDataset) -> np.ndarray:
    """(rows, columns) float32."""
    path = Path(dataset.filename)
    with _explain_decode_errors(path):
        is_compressed = dataset.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian).is_compressed
    if is_compressed:
        return read_dicom_pixels(path)
    expected = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    if len(dataset.get("PixelData", b"")) < expected:
        raise UserError(f"{path.name} is truncated: it holds fewer pixels than its header says; copy it again")
    with _explain_decode_errors(path):
        stored = dataset.pixel_array
    if stored.shape != (dataset.Rows, dataset.Columns):
        raise UserError(f"{path.name} holds more pixels than its header says; export it again")
    return (stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)).astype(np.float32)


def _looks_like_dicom(path: Path) -> bool:
    """By its first bytes, or by its name: an empty or damaged .dcm file is a missing slice."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(PREAMBLE_BYTES + 4)
    except OSError:
        return False
    return start[PREAMBLE_BYTES:] == b"DICM" or (start[:2] in FIRST_GROUPS and len(start) > PREAMBLE_BYTES)


def _read_header(path: Path) -> FileDataset | None:
    """The fields that identify a series, or None if the file cannot be read."""
    try:
        header = pydicom.dcmread(path, force=True, stop_before_pixels=True, specific_tags=[*NEEDED_TAGS, *OTHER_TAGS])
        list(header.iterall())  # pydicom parses values only when asked for them
        needed = (*NEEDED_TAGS, "Rows") if header.get("Modality") == "CT" else NEEDED_TAGS  # rows come after the UIDs
        return header if _is_index(header) or all(header.get(tag) for tag in needed) else None
    except DECODE_ERRORS:
        return None


def _is_index(header: FileDataset) -> bool:
    """Whether the file is a DICOMDIR."""
    return header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage


def _series(headers: Sequence[FileDataset], damaged: Mapping[Path, Sequence[Path]]) -> DicomSeries:
    others = [header for header in headers if "LOCALIZER" not in (header.get("ImageType") or ())]
    images = others or headers
    folders = sorted({Path(header.filename).parent for header in headers})
    first = images[0]
    return DicomSeries(
        uid=_text(first, "SeriesInstanceUID"),
        modality=_text(first, "Modality"),
        patient_id=_text(first, "PatientID"),
        frame_of_reference_uid=_text(first, "FrameOfReferenceUID"),
        description=_text(first, "SeriesDescription"),
        paths=tuple(Path(image.filename) for image in images),
        sop_instance_uids=frozenset(_text(image, "SOPInstanceUID") for image in images),
        num_localizers=len(headers) - len(images),
        has_only_localizers=not others,
        damaged=tuple(path for folder in folders for path in damaged.get(folder, ())),
    )


def _text(header: FileDataset, name: str) -> str:
    return str(header.get(name) or "").strip()

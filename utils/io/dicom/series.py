"""Find DICOM series in a folder tree, and read a CT series with its exact geometry.

File names are ignored: UIDs separate the series, positions sort the slices. `dicom_frames` is the CT as it is stored,
`dicom_geometry` says how its slices lie to each other, and `dicom_grid` makes a regular grid of those that lie on none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom.dataset import FileDataset
from pydicom.uid import MediaStorageDirectoryStorage

from utils.errors import UserError, shorten
from utils.imaging.geometry import Geometry
from utils.io.dicom.dataset import DECODE_ERRORS, quiet_pydicom, read_dataset
from utils.io.dicom.frames import Frame, check_frames, find_localizers, frames_of, numbers, slice_geometry, split_kinds
from utils.io.dicom.geometry import Stack, stack_slices
from utils.io.dicom.kinds import KIND_TAGS, SLICE_CLASSES, count_kinds, unlike_slice
from utils.io.dicom.pixels import read_plane
from utils.io.dicom.regular_grid import RegularGrid
from utils.io.files import files_below
from utils.io.volumes import Volume

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
PREAMBLE_BYTES = 128
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""First bytes of a file without preamble: little-endian groups 0002 and 0008."""
NEEDED_TAGS = ("SOPClassUID", "SOPInstanceUID", "Modality", "SeriesInstanceUID")
OTHER_TAGS = ("PatientID", "SeriesDescription", "FrameOfReferenceUID", "Rows", *KIND_TAGS)
PLACE_DIGITS = 3
NAMED_TILT_DEG = 1.0
UID_DIGITS = 8
"""The last digits of a UID tell apart the series of a folder."""


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
    """Sorted by name; in a CT only slices, unless there are none."""
    sop_instance_uids: frozenset[str] = frozenset()
    """Of the files in `paths`."""
    left_out: tuple[str, ...] = ()
    """In a CT, the kinds of the images that are no slices, such as "localizer": one for each."""
    has_slices: bool = True
    num_elsewhere: int = 0
    """Other images with the same SeriesInstanceUID whose files name another patient."""
    damaged: tuple[Path, ...] = ()
    """Unreadable DICOM files in the same folders; they may be slices of this series."""

    def __str__(self) -> str:
        others = ("; left out of it: " if self.has_slices else ": ") + count_kinds(self.left_out)
        # 60 digits would push a message's reason out of sight
        return self._describe(f"...{self.uid[-UID_DIGITS:]}", others if self.left_out else "")

    @property
    def record(self) -> str:
        """The same text with the whole UID."""
        return self._describe(self.uid)

    def _describe(self, uid: str, others: str = "") -> str:
        described = f" {self.description!r}" if self.description else ""
        return f"{self.modality} series{described} {uid} ({len(self.paths)} files in {self.paths[0].parent}{others})"


@dataclass(frozen=True, kw_only=True)
class StoredSlice:
    """A slice as it is stored."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    """From 1, in a multi-frame file; else None."""
    geometry: Geometry
    """Of its one plane of pixels."""


class CtSeries(NamedTuple):
    """A CT read from DICOM."""

    volume: Volume
    """HU, (slices, rows, columns); int16 where every stored value is whole, else float32. Axes as stored, slices
    ascending along the normal of their plane: see `to_lps`."""
    slices: tuple[StoredSlice, ...]
    """Ascending; those of the volume, unless there is a `grid`."""
    grid: RegularGrid | None
    """The way from the slices to the volume, if the slices are tilted or their distances vary."""
    frame_of_reference_uid: str
    notes: tuple[str, ...]
    """What was left out, repaired or resampled."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """File of each slice."""
        return tuple(slice_.path for slice_ in self.slices)

    @property
    def sop_instance_uids(self) -> tuple[str, ...]:
        """UID of each slice."""
        return tuple(slice_.sop_instance_uid for slice_ in self.slices)


@quiet_pydicom()
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
        found = (
            f"{len(lost)} damaged file(s), for example {lost[0]}; copy them again" if lost else "none; check the path"
        )
        raise UserError(f"{folder}: expected DICOM files in this folder or below it, found {found}")
    images: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for (_, *series), headers in groups.items():
        images[tuple(series)].update(_text(header, "SOPInstanceUID") for header in headers)
    return [_series(headers, damaged, images[key[1:]]) for key, headers in sorted(groups.items())]


def select_cts(series: Iterable[DicomSeries]) -> list[DicomSeries]:
    """The CTs among series. Those that hold nothing but localizers, derived images or screenshots are none."""
    return [found for found in series if found.modality == "CT" and found.has_slices]


def read_ct(series: DicomSeries, *, fill_gaps: bool = False) -> CtSeries:
    """Read a CT series on the grid that the positions and orientations of its slices give.

    Slices of a tilted gantry or at unequal distances are resampled to a grid, with a note: see `RegularGrid`.

    Args:
        series: of single-frame or multi-frame (Enhanced CT) files.
        fill_gaps: interpolate missing slices, with a note, instead of refusing the series.

    Raises:
        UserError: the slices do not form one volume in HU: another modality than CT, color, several phases or stacks,
            truncated files, missing fields, different sizes or orientations, missing, repeated or shifted slices. The
            message lists all such problems.
    """
    try:
        return _read_ct(series, fill_gaps=fill_gaps)
    except UserError as error:
        raise UserError(str(error), series) from error


@quiet_pydicom()
def _read_ct(series: DicomSeries, *, fill_gaps: bool) -> CtSeries:
    if series.damaged:
        names = shorten(path.name for path in series.damaged)
        raise UserError(f"{len(series.damaged)} damaged file(s) beside it may be its slices: {names}; copy them again")
    frames, notes = _drop_copies(series.paths)
    frames, other_kinds = split_kinds(frames)
    if left_out := [*series.left_out, *other_kinds]:
        notes.append(f"{count_kinds(left_out)} left out")
    if series.num_elsewhere:
        notes.append(
            f"{series.num_elsewhere} image(s) of the same SeriesInstanceUID name another patient and were left out; if "
            "they are slices of this CT, correct their PatientID"
        )
    if scouts := find_localizers(frames):
        names = shorten(frames[i].name for i in scouts)
        notes.append(f"left out as localizers, since their plane is turned against that of the slices: {names}")
        frames = [frame for i, frame in enumerate(frames) if i not in scouts]
    if not frames:
        raise UserError("none of its frames is a slice; export the slices of the CT")
    check_frames(frames)
    frames, repeated = _drop_repeated(frames)
    stack = stack_slices([slice_geometry(frame) for frame in frames], fill_gaps=fill_gaps)
    ordered = [frames[i] for i in stack.order]
    planes = [read_plane(frame) for frame in ordered]
    num_padding = sum(plane.num_padding for plane in planes)
    if num_padding:
        share = num_padding / sum(plane.hu.size for plane in planes)
        notes.append(f"{share:.1%} of the voxels are declared as padding and count as air")
    hu = [plane.hu for plane in planes]
    is_whole = all(np.array_equal(plane, np.rint(plane)) for plane in hu)
    if is_whole:
        _check_range(hu, ordered)
    grid = RegularGrid.over(stack)
    array = np.stack(hu) if stack.is_regular else grid.resample(hu)
    notes += [*repeated, *stack.notes, *_tilt_without_shift(ordered, stack)]
    if not stack.is_regular:
        notes.append(f"resampled to straight slices {grid.geometry.spacing_zyx_mm[0]:.2f} mm apart")
    return CtSeries(
        volume=Volume(array=np.rint(array).astype(np.int16) if is_whole else array, geometry=grid.geometry),
        slices=tuple(_stored_slice(frame, stack, index) for index, frame in enumerate(ordered)),
        grid=None if stack.is_regular else grid,
        frame_of_reference_uid=series.frame_of_reference_uid,
        notes=tuple(notes),
    )


def _drop_copies(paths: Sequence[Path]) -> tuple[list[Frame], list[str]]:
    """Read the files; a second file with the same UID and the same voxels is left out, with a note."""
    by_uid: dict[str, FileDataset] = {}
    notes = []
    for path in paths:
        dataset = read_dataset(path)
        first = by_uid.setdefault(str(dataset.SOPInstanceUID), dataset)
        if first is dataset:
            continue
        compared = ("ImagePositionPatient", "PerFrameFunctionalGroupsSequence", "PixelData")
        if any(first.get(tag) != dataset.get(tag) for tag in compared):
            raise UserError(f"{Path(first.filename).name} and {path.name} have one UID but differ; keep one of them")
        notes.append(f"{path.name} is a copy of {Path(first.filename).name} and was left out")
    return [frame for dataset in by_uid.values() for frame in frames_of(dataset)], notes


def _drop_repeated(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """Leave out frames that show the same as another one at the same place, with a note."""
    at_place: dict[tuple[float, ...], list[Frame]] = defaultdict(list)
    kept, notes = [], []
    for frame in frames:
        place = np.ravel([*frame.get("ImagePositionPatient"), *frame.get("ImageOrientationPatient")]).astype(float)
        same = at_place[tuple(np.round(place, PLACE_DIGITS).tolist())]
        first = next((o for o in same if np.array_equal(read_plane(o).hu, read_plane(frame).hu)), None)
        if first is not None:
            notes.append(f"{frame.name} repeats {first.name} and was left out")
            continue
        same.append(frame)
        kept.append(frame)
    return kept, notes


def _tilt_without_shift(frames: Sequence[Frame], stack: Stack) -> list[str]:
    """A note if the header names a tilt that the places of the slices do not show; the places count."""
    named = [angle for frame in frames for angle in numbers(frame, "GantryDetectorTilt")]
    angle_deg = float(np.median(named)) if named else 0.0
    is_axial = abs(stack.normal[2]) > np.cos(np.radians(NAMED_TILT_DEG))
    if abs(angle_deg) < NAMED_TILT_DEG or stack.tilt_deg or not is_axial:
        return []
    return [
        f"its header says that the gantry was tilted by {angle_deg:g} degrees, but its slices lie straight above each "
        "other; check that it does not look sheared"
    ]


def _check_range(planes: Sequence[np.ndarray], frames: Sequence[Frame]) -> None:
    """Refuse whole numbers that are no HU."""
    limits = np.iinfo(np.int16)
    low, high = min(plane.min() for plane in planes), max(plane.max() for plane in planes)
    if low < limits.min or high > limits.max:
        worst = frames[int(np.argmax([np.abs(plane).max() for plane in planes]))].name
        raise UserError(
            f"expected Hounsfield units, got values from {low:.0f} to {high:.0f}, the largest in {worst}; export the "
            "CT again with its RescaleSlope and RescaleIntercept"
        )


def _stored_slice(frame: Frame, stack: Stack, index: int) -> StoredSlice:
    return StoredSlice(
        path=frame.path,
        sop_class_uid=str(frame.get("SOPClassUID")),
        sop_instance_uid=str(frame.get("SOPInstanceUID")),
        frame_number=None if frame.index is None else frame.index + 1,
        geometry=stack.slice_geometry(index),
    )


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
        is_slice = header.get("Modality") == "CT" and header.get("SOPClassUID") in SLICE_CLASSES
        needed = (*NEEDED_TAGS, "Rows") if is_slice else NEEDED_TAGS  # rows come after the UIDs
        return header if _is_index(header) or all(header.get(tag) for tag in needed) else None
    except DECODE_ERRORS:
        return None


def _is_index(header: FileDataset) -> bool:
    """Whether the file is a DICOMDIR."""
    return header.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage


def _series(headers: Sequence[FileDataset], damaged: Mapping[Path, Sequence[Path]], same_uid: Set[str]) -> DicomSeries:
    """A series of its files; `same_uid` are the images of its SeriesInstanceUID, whatever patient they name."""
    is_ct = headers[0].get("Modality") == "CT"
    kinds = [unlike_slice(header) if is_ct else None for header in headers]
    slices = [header for header, kind in zip(headers, kinds, strict=True) if kind is None]
    images = slices or headers
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
        left_out=tuple(kind for kind in kinds if kind),
        has_slices=bool(slices),
        num_elsewhere=len(same_uid - {_text(header, "SOPInstanceUID") for header in headers}),
        damaged=tuple(path for folder in folders for path in damaged.get(folder, ())),
    )


def _text(header: FileDataset, name: str) -> str:
    return str(header.get(name) or "").strip()

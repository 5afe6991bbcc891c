"""What a DICOM structure set (RTSTRUCT) says: its structures with their contours, and the CT that it belongs to."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from utils.errors import UserError
from utils.io.dicom.series import UID_DIGITS, DicomSeries

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "INTERPOLATED_PLANAR", "")
"""Types of contours that enclose an area. Some programs write INTERPOLATED_PLANAR for slices that they filled in, or no
type at all."""
EXCLUSIVE_OR = "CLOSEDPLANAR_XOR"
NOT_CLOSED = ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR")
MISCOUNTED = "name another number of points than they have; those that they have were used"
OFFSET = "have a ContourOffsetVector, which was not applied"


@dataclass
class Roi:
    """A structure."""

    contours: list[np.ndarray] = field(default_factory=list)
    """Closed ones; (N, 3) points in mm each."""
    exclusive_or: bool = False
    """Voxels within an even number of contours do not belong to it, even where contours partly overlap."""
    noted: Counter[str] = field(default_factory=Counter)
    """What is unusual about contours, and of how many."""


def read_rois(dataset: Dataset, frame_uid: str) -> dict[str, Roi]:
    """The structures of a structure set by name.

    Args:
        dataset: the structure set.
        frame_uid: frame of reference of the CT; empty if it has none.

    Raises:
        UserError: it is incomplete, two structures have one name, or one lies in another frame of reference.
    """
    if "StructureSetROISequence" not in dataset or "ROIContourSequence" not in dataset:
        raise UserError("holds no structures, perhaps because the file is truncated; export it again")
    of_number: dict[int, Roi] = {}
    for item in dataset.ROIContourSequence:
        number, roi = _number(item, "ReferencedROINumber"), Roi()
        _add_contours(roi, item.get("ContourSequence") or ())
        first = of_number.get(number, Roi())
        if first.contours and roi.contours and not _same(first.contours, roi.contours):
            raise UserError(f"has two different lists of contours for structure number {number}; export it again")
        if number not in of_number or not first.contours:
            of_number[number] = roi
    rois: dict[str, Roi] = {}
    names: dict[int, str] = {}
    for item in dataset.StructureSetROISequence:
        number = _number(item, "ROINumber")
        name = _name(item) or f"ROI {number}"
        if names.get(number, name) != name:
            raise UserError(f"structures {names[number]} and {name} have the same number {number}; export it again")
        if number in names:  # listed again
            continue
        names[number] = name
        own_frame = _uid(item, "ReferencedFrameOfReferenceUID") or frame_uid
        if frame_uid and own_frame != frame_uid:
            raise UserError(f"{name} lies in another frame of reference than its CT; export the two together")
        roi = of_number.get(number, Roi())
        if name in rois and rois[name].contours and roi.contours:
            raise UserError(f"two structures are called {name}; rename one of them")
        if name not in rois or roi.contours:
            rois[name] = roi
    unnamed = {f"ROI {number}": roi for number, roi in of_number.items() if number not in names}
    return {**unnamed, **rois}


def _name(item: Dataset) -> str:
    """The name of a structure on one line, without characters that control a terminal."""
    value = item.get("ROIName") or ""
    text = value if isinstance(value, str) else "\\".join(map(str, value))  # a backslash separates values
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text).split())


def _same(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def _number(item: Dataset, keyword: str) -> int:
    try:
        return int(item[keyword].value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError("has a structure without a number, so it is truncated; export it again") from error


def _add_contours(roi: Roi, contours: Sequence[Dataset]) -> None:
    for contour in contours:
        kind = str(contour.get("ContourGeometricType") or "").strip().upper()
        if "ContourData" not in contour:
            raise UserError("has incomplete contours, so it is truncated; export it again")
        points = _coordinates(contour.ContourData)
        if points.size % 3:
            raise UserError("has incomplete contours, so it is truncated; export it again")
        if kind in CLOSED and points.size:
            roi.contours.append(points.reshape(-1, 3))
            roi.exclusive_or |= kind == EXCLUSIVE_OR
            roi.noted[MISCOUNTED] += _says_other_number(contour, points.size // 3)
            roi.noted[OFFSET] += any(_coordinates(contour.get("ContourOffsetVector")))
        elif points.size:
            what = "which encloses no area" if kind in NOT_CLOSED else "which is unknown"
            roi.noted[f"of type {kind}, {what}, left out"] += 1
        else:
            roi.noted["without points left out"] += 1
    roi.noted = +roi.noted  # without zeros


def _says_other_number(contour: Dataset, num_points: int) -> bool:
    """Whether NumberOfContourPoints is another number, but for one point that closes the contour."""
    said = contour.get("NumberOfContourPoints")
    return isinstance(said, int) and abs(int(said) - num_points) > 1


def _coordinates(value: object) -> np.ndarray:
    """The numbers of ContourData; its values are bytes where 64 KiB were too few for its type."""
    texts = value.decode("ascii", "replace").strip("\0 ").split("\\") if isinstance(value, bytes) else value
    try:
        return np.array(texts or (), dtype=float)
    except ValueError as error:
        raise UserError("has a contour with coordinates that are not numbers; export it again") from error


def candidate_scans(dataset: Dataset, scans: Sequence[DicomSeries]) -> list[DicomSeries]:
    """CT series in the structure set's frame of reference; where one of the two has none, the series that it names."""
    frames = _frame_uids(dataset)
    shared = [scan for scan in scans if scan.frame_of_reference_uid in frames]
    return shared or _named([scan for scan in scans if not (frames and scan.frame_of_reference_uid)], dataset)


def pick_scan(dataset: Dataset, candidates: Sequence[DicomSeries]) -> DicomSeries:
    """The CT series of a structure set.

    Raises:
        UserError: there is no candidate, or the structure set does not say which of several it is.
    """
    if not candidates:
        frames = ", ".join(f"...{uid[-UID_DIGITS:]}" for uid in sorted(_frame_uids(dataset)))
        if not frames:
            raise UserError("names no frame of reference and no CT that was found; export it again, with its CT")
        raise UserError(
            f"found no CT series of this structure set's frame of reference ({frames}); add it to the folder"
        )
    remaining = _named(candidates, dataset) or candidates
    if len(remaining) > 1:
        listed = "; ".join(map(str, remaining))
        raise UserError(f"{len(remaining)} CT series share this structure set's frame of reference; keep one: {listed}")
    return remaining[0]


def _frame_uids(dataset: Dataset) -> set[str]:
    """Frames of reference that the structure set lists, or else those of its structures, or else its own."""
    for items, keyword in (
        (dataset.get("ReferencedFrameOfReferenceSequence"), "FrameOfReferenceUID"),
        (dataset.get("StructureSetROISequence"), "ReferencedFrameOfReferenceUID"),
        ([dataset], "FrameOfReferenceUID"),
    ):
        if uids := {_uid(item, keyword) for item in items or ()} - {""}:
            return uids
    return set()


def _named(scans: Sequence[DicomSeries], dataset: Dataset) -> list[DicomSeries]:
    """The series that a structure set names, or else those of whose slices its contours name one."""
    series = {_uid(item, "SeriesInstanceUID") for item in _referenced_series(dataset)}
    if named := [scan for scan in scans if scan.uid in series]:
        return named
    slices = {_uid(image, "ReferencedSOPInstanceUID") for image in _referenced_images(dataset)}
    return [scan for scan in scans if scan.sop_instance_uids & slices]


def _referenced_series(dataset: Dataset) -> Iterator[Dataset]:
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            yield from study.get("RTReferencedSeriesSequence") or ()


def _referenced_images(dataset: Dataset) -> Iterator[Dataset]:
    for roi in dataset.get("ROIContourSequence") or ():
        for contour in roi.get("ContourSequence") or ():
            yield from contour.get("ContourImageSequence") or ()


def _uid(item: Dataset, keyword: str) -> str:
    return str(item.get(keyword) or "").strip()

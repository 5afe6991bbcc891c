"""A clinic's DICOM: CT series and structure sets (RTSTRUCT) in a folder tree, whatever the files are called.

Every structure set is a case. Its CT shares its frame of reference; among several such CTs, it is the series that the
structure set names. A patient with several structure sets yields several cases, which stay in one split.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom.dataset import Dataset

from data_preprocess.sources.base import RawCase, RawCaseHandle, RawStructures, is_wanted
from data_preprocess.sources.common import require_folder
from data_preprocess.sources.rtstruct_contours import rasterize
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.dicom import DicomSeries, find_series, read_ct, read_dataset
from utils.io.volumes import to_lps

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
HASH_DIGITS = 6

logger = logging.getLogger(__name__)


class StructureSet(NamedTuple):
    """A structure set that was found; the location of a case."""

    path: Path
    uid: str
    patient: str
    scans: tuple[DicomSeries, ...]
    """CT series that it may belong to."""


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the structure sets below a folder: see `Source.list_cases`."""
    series = find_series(require_folder(folder, "DICOM files"))
    scans = [found for found in series if found.modality == "CT"]
    paths = [(path, found.patient_id) for found in series if found.modality == "RTSTRUCT" for path in found.paths]
    sets: dict[str, StructureSet] = {}
    for path, patient in paths:
        found = _read_structure_set(path, patient, scans)
        if sets.setdefault(found.uid, found) is not found:
            logger.info("%s is a copy of %s and left out", path, sets[found.uid].path)
    if not sets:
        raise UserError(
            f"{folder}: expected structure sets (RTSTRUCT), found none beside {len(scans)} CT series; add them"
        )
    used = {scan.uid for found in sets.values() for scan in found.scans}
    for scan in scans:
        if scan.uid not in used:
            logger.info("no structure set belongs to the %s", scan)
    cases = zip(_case_names(sets.values()), sets.values(), strict=True)
    return [RawCaseHandle(case_id=name, location=found, patient=found.patient or None) for name, found in cases]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a structure set and its CT: see `Source.read_case`."""
    path = handle.location.path
    dataset = read_dataset(path)
    scan = _pick_scan(dataset, handle.location.scans, path)
    ct = read_ct(scan)
    volume = to_lps(ct.volume)
    if not np.isclose(volume.geometry.spacing_zyx_mm[0], ct.volume.geometry.spacing_zyx_mm[0]):
        raise UserError(f"{scan}: its slices are not axial, so contours do not lie on them; reformat it")
    rois = _contours(dataset, scan.frame_of_reference_uid, path)
    masks, notes = {}, list(ct.notes)
    wanted = {name: contours for name, contours in rois.items() if is_wanted(name, preset)}
    for name, contours in wanted.items():
        try:
            drawn = rasterize(contours, volume.geometry)
        except UserError as error:
            raise UserError(f"{path}: {name} {error}") from error
        if drawn.mask.voxels.size:
            masks[name] = drawn.mask
        if not contours:
            notes.append(f"{name}: has no contours, so it counts as not contoured")
        if drawn.num_outside:
            notes.append(f"{name}: {drawn.num_outside} of {len(contours)} contours lie beyond the CT")
        if drawn.num_between:
            notes.append(f"{name}: {drawn.num_between} of {len(contours)} contours between the CT's slices left out")
    unmatched = tuple(name for name in rois if name not in wanted)
    return RawCase.of(handle, volume, RawStructures(masks, unmatched, tuple(notes)), path)


def _read_structure_set(path: Path, patient: str, scans: Sequence[DicomSeries]) -> StructureSet:
    """A damaged structure set has no scans; reading the case says what is wrong with it."""
    try:
        dataset = read_dataset(path)
    except UserError:
        return StructureSet(path, str(path), patient, ())
    return StructureSet(path, str(dataset.SOPInstanceUID), patient, tuple(_candidates(dataset, scans)))


def _case_names(sets: Collection[StructureSet]) -> list[str]:
    """The patient's name, fit for a file, with a few digits of the structure set's UID where several share it."""
    names = [re.sub(r"[^\w.-]+", "_", found.patient).strip("._") or "unnamed" for found in sets]
    digits = [hashlib.sha256(found.uid.encode()).hexdigest()[:HASH_DIGITS] for found in sets]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}_{digit}" for name, digit in zip(names, digits, strict=True)]


def _candidates(dataset: Dataset, scans: Sequence[DicomSeries]) -> list[DicomSeries]:
    """CT series of the structure set's frame of reference; if it names none, the series that it names."""
    referenced = dataset.get("ReferencedFrameOfReferenceSequence", ())
    frames = {str(item.get("FrameOfReferenceUID") or "") for item in referenced} - {""}
    if frames:
        return [scan for scan in scans if scan.frame_of_reference_uid in frames]
    return [scan for scan in scans if scan.uid in _named_series(dataset)]


def _named_series(dataset: Dataset) -> set[str]:
    return {
        str(series.get("SeriesInstanceUID"))
        for frame in dataset.get("ReferencedFrameOfReferenceSequence", ())
        for study in frame.get("RTReferencedStudySequence", ())
        for series in study.get("RTReferencedSeriesSequence", ())
    }


def _pick_scan(dataset: Dataset, scans: Sequence[DicomSeries], path: Path) -> DicomSeries:
    if not scans:
        raise UserError(f"{path}: found no CT series of this structure set's frame of reference; add it to the folder")
    named = [scan for scan in scans if scan.uid in _named_series(dataset)] or list(scans)
    if len(named) > 1:
        listed = "; ".join(map(str, named))
        raise UserError(
            f"{path}: {len(named)} CT series share this structure set's frame of reference; keep one: {listed}"
        )
    return named[0]


def _contours(dataset: Dataset, frame: str, path: Path) -> dict[str, list[np.ndarray]]:
    """Name of each structure to its closed contours, (N, 3) points in mm each."""
    if "StructureSetROISequence" not in dataset or "ROIContourSequence" not in dataset:
        raise UserError(f"{path}: holds no structures, perhaps because the file is truncated; export it again")
    of_number: dict[int, list[np.ndarray]] = {}
    for roi in dataset.ROIContourSequence:
        closed = [c for c in roi.get("ContourSequence") or () if c.get("ContourGeometricType") in CLOSED]
        points = [np.array(contour.get("ContourData"), dtype=float) for contour in closed]
        if "ReferencedROINumber" not in roi or any(coordinates.size % 3 for coordinates in points):
            raise UserError(f"{path}: has incomplete contours, so it is truncated; export it again")
        of_number.setdefault(int(roi.ReferencedROINumber), []).extend(p.reshape(-1, 3) for p in points)
    rois: dict[str, list[np.ndarray]] = {}
    for roi in dataset.StructureSetROISequence:
        if "ROINumber" not in roi:
            raise UserError(f"{path}: has a structure without a number, so it is truncated; export it again")
        name = str(roi.get("ROIName") or f"ROI {roi.ROINumber}").strip()
        own_frame = str(roi.get("ReferencedFrameOfReferenceUID") or frame)
        if frame and own_frame != frame:
            raise UserError(f"{path}: {name} lies in another frame of reference than its CT; export the two together")
        contours = of_number.get(int(roi.ROINumber), [])
        if rois.get(name) and contours:
            raise UserError(f"{path}: two structures are called {name}; rename one of them")
        rois[name] = rois.get(name) or contours
    return rois

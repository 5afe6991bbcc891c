"""A clinic's DICOM: CT series and structure sets (RTSTRUCT) in a folder tree, whatever the files are called.

Every structure set is a case. Its CT shares its frame of reference; among several such CTs, it is the series that the
structure set names. A patient with several structure sets yields several cases, which stay in one split.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_preprocess.case_ids import dicom_name, fit_for_file, path_name, tell_apart
from data_preprocess.sources.base import RawCase, RawCaseHandle, RawStructures, is_wanted
from data_preprocess.sources.common import require_folder
from data_preprocess.sources.rtstruct_contours import Rasterized, rasterize
from data_preprocess.sources.structure_set import Roi, candidate_scans, pick_scan, read_rois
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.imaging.masks import resample_mask
from utils.io.dicom.dataset import read_dataset
from utils.io.dicom.series import CtSeries, DicomSeries, find_series, read_ct, select_cts
from utils.io.volumes import to_lps

NOTES = {
    "outside": "lie beyond the CT",
    "cut": "reach beyond the sides of the CT and are cut off there",
    "between": "between the CT's slices left out",
    "repeated": "repeat another one of their slice and are left out",
    "crossing": "partly overlap another one of their slice; they are united",
    "twofold": "cross themselves; what they go around twice is left out; look at them",
    "hollow": "lose more than half of their area to contours within them; look at them",
    "small": "enclose no voxel's center and leave no voxel",
}
"""What is said of contours that needed a decision: see `Rasterized.counts`."""
CROSSING_XOR = "partly overlap another one of their slice; what they share is left out, as CLOSEDPLANAR_XOR says"

logger = logging.getLogger(__name__)


class StructureSet(NamedTuple):
    """A structure set that was found; the location of a case."""

    path: Path
    uid: str
    patient: str
    scans: tuple[DicomSeries, ...]
    """CT series that it may belong to."""

    def __str__(self) -> str:
        return str(self.path)


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the structure sets below a folder: see `Source.list_cases`."""
    folder = require_folder(folder, "DICOM files")
    series = find_series(folder)
    scans = select_cts(series)
    paths = [(path, found.patient_id) for found in series if found.modality == "RTSTRUCT" for path in found.paths]
    sets: dict[str, StructureSet] = {}
    for path, patient in paths:
        found = _read_structure_set(path, patient, scans)
        first = sets.setdefault(found.uid, found)
        if first is not found:
            _check_copy(first.path, path)
            logger.info("%s is a copy of %s and left out", path, first.path)
    if not sets:
        raise UserError(
            f"{folder}: expected structure sets (RTSTRUCT), found none beside {len(scans)} CT series; add them"
        )
    used = {scan.uid for found in sets.values() for scan in found.scans}
    for scan in scans:
        if scan.uid not in used:
            logger.info("no structure set belongs to the %s", scan)
    cases = zip(_case_ids(sets.values(), scans, folder), sets.values(), strict=True)
    return [RawCaseHandle(case_id=name, location=found, patient=found.patient or None) for name, found in cases]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a structure set and its CT: see `Source.read_case`."""
    path = handle.location.path
    dataset = read_dataset(path)
    with _name_file(path):
        scan = pick_scan(dataset, handle.location.scans)
        rois = read_rois(dataset, scan.frame_of_reference_uid)
    ct = read_ct(scan)
    volume = to_lps(ct.volume)
    if not np.isclose(volume.geometry.spacing_zyx_mm[0], ct.volume.geometry.spacing_zyx_mm[0]):
        raise UserError(f"the CT's slices are not axial, so contours do not lie on them; reformat it: {scan}")
    masks, notes = {}, list(ct.notes)
    wanted = {name: roi for name, roi in rois.items() if is_wanted(name, preset)}
    for name, roi in wanted.items():
        with _name_file(path, name):
            drawn = _rasterize(roi, ct, volume.geometry)
        if drawn.mask.voxels.size:
            masks[name] = drawn.mask
        notes += [f"{name}: {note}" for note in _contour_notes(roi, drawn)]
    unmatched = tuple(name for name in rois if name not in wanted)
    return RawCase.of(handle, volume, RawStructures(masks, unmatched, tuple(notes)), path)


def _rasterize(roi: Roi, ct: CtSeries, grid: Geometry) -> Rasterized:
    """Fill a structure's contours on the slices that they were drawn on.

    Args:
        roi: the structure.
        ct: its CT. If its slices do not lie on a grid, the structure's shape is interpolated between them.
        grid: of the CT in LPS order.
    """
    if ct.grid is None:
        return rasterize(roi.contours, grid, exclusive_or=roi.exclusive_or)
    contours, slices = ct.grid.straighten(roi.contours)
    drawn = rasterize(contours, slices, exclusive_or=roi.exclusive_or)
    return drawn._replace(mask=resample_mask(ct.grid.interpolate_mask(drawn.mask), grid))


@contextmanager
def _name_file(path: Path, structure: str = "") -> Iterator[None]:
    """Add the structure before a `UserError`'s reason, and the structure set's path, which can be long, after it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{structure} {error}".strip(), path) from error


def _contour_notes(roi: Roi, drawn: Rasterized) -> list[str]:
    """What was done with the contours of a structure, beyond filling them."""
    notes = [f"{number} contours {kind}" for kind, number in roi.noted.items()]
    texts = {**NOTES, "crossing": CROSSING_XOR} if roi.exclusive_or else NOTES
    counts = drawn.counts
    notes += [f"{counts[kind]} of {len(roi.contours)} contours {text}" for kind, text in texts.items() if counts[kind]]
    if counts["skipped"]:
        notes.append(f"{counts['skipped']} slice(s) between its contours have none")
    if not drawn.mask.voxels.size:
        found = "no contours with a voxel" if roi.contours else "no closed contours" if roi.noted else "no contours"
        notes.append(f"has {found}, so it counts as not contoured")
    return notes


def _read_structure_set(path: Path, patient: str, scans: Sequence[DicomSeries]) -> StructureSet:
    """A damaged structure set has no scans; reading the case says what is wrong with it."""
    try:
        dataset = read_dataset(path)
    except UserError:
        return StructureSet(path, str(path), patient, ())
    candidates = candidate_scans(dataset, scans)
    with suppress(UserError):
        candidates = [pick_scan(dataset, candidates)]
    return StructureSet(path, str(dataset.SOPInstanceUID), patient, tuple(candidates))


def _check_copy(first: Path, second: Path) -> None:
    """Refuse an edited structure set beside the original whose UID it kept: which of them counts?"""
    one, other = read_dataset(first), read_dataset(second)
    if any(one.get(keyword) != other.get(keyword) for keyword in ("StructureSetROISequence", "ROIContourSequence")):
        raise UserError(
            f"two structure sets have one SOPInstanceUID but differ; keep one of them: {first} and {second}"
        )


def _case_ids(sets: Collection[StructureSet], scans: Sequence[DicomSeries], folder: Path) -> list[str]:
    """The id that inference gives to the CT; where several structure sets have the same CT, digits are added."""
    ids = tell_apart([dicom_name(scan, folder) for scan in scans], [scan.uid for scan in scans])
    id_of = dict(zip((scan.uid for scan in scans), ids, strict=True))
    names = [
        id_of[found.scans[0].uid]
        if len(found.scans) == 1
        else fit_for_file(found.patient) or path_name(found.path.parent, folder)
        for found in sets
    ]
    return tell_apart(names, [found.uid for found in sets])

"""Finds and reads the CTs that a path stands for: volumes, DICOM folders, trees of them, or a text list."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from data_preprocess.case_ids import dicom_name, path_name, tell_apart
from data_preprocess.hounsfield import validate_hounsfield
from data_preprocess.inference_transform import InferenceTransform, TransformedImage
from utils.config.preset import GridSettings
from utils.errors import UserError, shorten, user_message
from utils.imaging.intensity import MIN_TISSUE_HU
from utils.io.dicom.series import CtSeries, DicomSeries, find_series, read_ct, select_cts
from utils.io.files import printable, read_text, validate_file_name
from utils.io.volumes import SUFFIXES, Volume, read_volume, volume_stem, volume_suffix, volumes_in
from utils.reporting.output_files import is_output

LIST_SUFFIX = ".txt"
MIN_HEIGHT_MM = 20.0
"""In slabs of six validation patients, the Dice of large organs was 0.06 at 7.5 mm, 0.28 at 10 mm, 0.55 at 15 mm and
0.64 at 20 mm; in the same slices of whole scans it was 0.70 to 0.75."""


class ScanContent(NamedTuple):
    """A scan that was read."""

    volume: Volume
    """As stored; axes are not reordered."""
    series: CtSeries | None = None
    """Slices, UIDs and repairs, if the scan came from DICOM."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A CT that was found but not read yet."""

    case_id: str
    """Begins the names of its files."""
    source: Path | DicomSeries
    """Path of a volume, or a DICOM series."""
    problem: str | None = None
    """Why an entry of a list cannot be read, if that is known already."""
    patient_id: str | None = None
    """DICOM's PatientID, unless it is to be kept out of all outputs."""
    is_named: bool = False
    """Whether a list gives the case id."""

    def __str__(self) -> str:
        return str(self.source)

    @property
    def record(self) -> str:
        """Tells the scan apart from every other: the path of a volume, or a series with its UID."""
        return self.source.record if isinstance(self.source, DicomSeries) else str(self.source)

    def read(self, *, fill_gaps: bool = False) -> ScanContent:
        """Read the voxels; a `UserError` says why that cannot be done. For `fill_gaps` see `read_ct`."""
        if self.problem is not None:
            raise UserError(self.problem)
        if isinstance(self.source, DicomSeries):
            series = read_ct(self.source, fill_gaps=fill_gaps)
            return ScanContent(series.volume, series)
        return ScanContent(read_volume(self.source))


def read_transformed(
    scan: Scan,
    grid: GridSettings,
    *,
    correct_offset: bool = False,
    require_dicom: bool = False,
    fill_gaps: bool = False,
) -> TransformedImage:
    """Read a scan and bring it onto the networks' grid; see `transform_ct` and `Scan.read`.

    Raises:
        UserError: the scan is damaged, not a CT in HU, shows no head and neck, or is not DICOM though that is required.
    """
    volume, series = scan.read(fill_gaps=fill_gaps)
    if require_dicom and series is None:
        raise UserError("--rtstruct and --dicom-seg refer to DICOM slices; give the CT as a DICOM folder", scan)
    try:
        image = transform_ct(volume, grid, correct_offset=correct_offset)
    except UserError as error:
        raise UserError(str(error), scan) from error
    notes = [*volume.notes, *(series.notes if series else ()), *image.notes]
    return image._replace(notes=notes, series=series)


def transform_ct(ct: Volume, grid: GridSettings, *, correct_offset: bool = False) -> TransformedImage:
    """Check that a CT is in HU and bring it onto the networks' grid; see `InferenceTransform.apply`.

    Args:
        ct: of any orientation and spacing.
        grid: of the networks' preset.
        correct_offset: subtract 1024 from a CT that was stored as HU + 1024.

    Raises:
        UserError: the values are not HU, or the CT shows no head and neck or too little of it.
    """
    if ct.array.ndim != 3:
        raise UserError(f"expected a 3-D CT with one value per voxel, got shape {ct.array.shape}; give one such volume")
    checked = validate_hounsfield(ct.array, correct_offset=correct_offset)
    image = InferenceTransform.apply(replace(ct, array=checked.array), grid)
    _require_height(image)
    return image._replace(notes=[*checked.notes, *image.notes])


def _require_height(image: TransformedImage) -> None:
    """Refuse a CT with so few slices of the patient that networks trained on whole scans recognize nothing."""
    slice_mm = image.transform.axis_aligned.spacing_zyx_mm[0]
    num_slices = int((image.region_hu > MIN_TISSUE_HU).any(axis=(1, 2)).sum())
    if num_slices * slice_mm < MIN_HEIGHT_MM:
        raise UserError(
            f"expected at least {MIN_HEIGHT_MM:.0f} mm of the patient from top to bottom, got {num_slices} slices of "
            f"{slice_mm:.3g} mm; give the whole scan"
        )


def list_scans(path: Path, *, by_patient: bool = True) -> list[Scan]:
    """Find the scans that a path stands for.

    A file is a volume or a text list (.txt). Each line of a list is a path relative to the list, or a case id, a tab
    and a path. A folder stands for the volumes in it; without any, for all CT series in it and below; without any, for
    the volumes below it. What inference wrote into these folders is left out. Volumes are named by their files, DICOM
    series by their patients or, without `by_patient`, by their folders: see `data_preprocess.case_ids`.

    Raises:
        UserError: nothing of that kind is there, two scans would have the same case id, or one cannot name a file.
    """
    if path.is_dir():
        scans = _in_folder(path, by_patient)
    elif not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    elif path.suffix.lower() == LIST_SUFFIX:
        scans = _in_list(path, by_patient)
    elif volume_suffix(path):
        scans = [Scan(case_id=volume_stem(path), source=path)]
    else:
        raise UserError(
            f"{path}: expected a volume ({', '.join(SUFFIXES)}), a list ({LIST_SUFFIX}) or a folder; for a DICOM "
            "series give its folder"
        )
    by_id: dict[str, Scan] = {}
    for scan in _tell_series_apart(scans):
        validate_file_name(scan.case_id, f"case id of {scan}")
        other = by_id.setdefault(scan.case_id, scan)
        if other is not scan:
            raise UserError(
                f"{other} and {scan} would both be written as {scan.case_id}: list them in a text file with lines "
                "`case id<tab>path`"
            )
    return list(by_id.values())


def _tell_series_apart(scans: Sequence[Scan]) -> list[Scan]:
    """Give every DICOM series its own case id, unless a list has named it."""
    unnamed = [i for i, scan in enumerate(scans) if isinstance(scan.source, DicomSeries) and not scan.is_named]
    ids = tell_apart([scans[i].case_id for i in unnamed], [scans[i].source.uid for i in unnamed])
    id_of = dict(zip(unnamed, ids, strict=True))
    return [replace(scan, case_id=id_of.get(i, scan.case_id)) for i, scan in enumerate(scans)]


def _in_list(path: Path, by_patient: bool) -> list[Scan]:
    scans = []
    for line in filter(None, map(str.strip, read_text(path).splitlines())):
        case_id, tab, location = line.partition("\t") if "\t" in line else ("", "", line)
        found = _in_line(path.parent / _unquote(location), by_patient)
        if tab and len(found) > 1:
            raise UserError(
                f"{path}: {location} holds {len(found)} scans, which cannot all be called {case_id}; list each"
            )
        scans += [replace(found[0], case_id=printable(_unquote(case_id)), is_named=True)] if tab else found
    if not scans:
        raise UserError(f"{path}: expected a path per line, but the list is empty; add the paths of the CTs")
    return scans


def _unquote(text: str) -> str:
    """Without blanks and quotes around it, which programs that copy paths add."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _in_line(path: Path, by_patient: bool) -> list[Scan]:
    """The scans of one line of a list; a folder that cannot be read is a failed case and does not stop the others."""
    if path.is_dir():
        try:
            return _in_folder(path, by_patient)
        except (UserError, PermissionError) as error:
            return [Scan(case_id=printable(path.resolve().name), source=path, problem=user_message(error))]
    return [Scan(case_id=volume_stem(path), source=path)]


def _in_folder(folder: Path, by_patient: bool) -> list[Scan]:
    if volumes := _cts_in(folder):
        return [Scan(case_id=volume_stem(path), source=path) for path in volumes]
    try:
        series = find_series(folder)
    except UserError as error:
        if volumes := _cts_in(folder, recursive=True):
            return [Scan(case_id=path_name(path.parent / volume_stem(path), folder), source=path) for path in volumes]
        if volumes_in(folder, recursive=True):
            raise UserError(f"{folder}: holds outputs of inference, but no CT; give the folder of the CTs") from error
        raise UserError(f"{error}. There are no volumes ({', '.join(SUFFIXES)}) either") from error
    cts = select_cts(series)
    if not cts:
        raise UserError(f"{folder}: expected a CT, found {shorten(series, '; ')}; give the folder of the CT")
    return [
        Scan(
            case_id=dicom_name(ct, folder, by_patient=by_patient),
            source=ct,
            patient_id=ct.patient_id or None if by_patient else None,
        )
        for ct in cts
    ]


def _cts_in(folder: Path, *, recursive: bool = False) -> list[Path]:
    """The volumes in a folder, or also below it, but for what inference itself has written there."""
    return [path for path in volumes_in(folder, recursive=recursive) if not is_output(path)]

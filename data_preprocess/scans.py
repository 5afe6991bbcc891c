"""The CTs that a user means by a path: volumes, DICOM folders, trees of them, or a text list."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.io.dicom import CtSeries, DicomSeries, find_series, read_ct
from utils.io.files import validate_file_name
from utils.io.volumes import SUFFIXES, Volume, read_volume, volume_stem, volume_suffix

LIST_SUFFIX = ".txt"
UID_DIGITS = 8
"""So many last characters of a series UID tell series of one folder apart."""


class ScanContent(NamedTuple):
    """A scan that was read."""

    volume: Volume
    """As stored; axes are not reordered."""
    notes: list[str]
    """What was mended."""
    series: CtSeries | None
    """Slices and UIDs, where the scan came from DICOM."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A CT that was found and not read yet.

    Attributes:
        case_id: begins the names of its files.
        source: a volume's path or a DICOM series.
        problem: why it cannot be read, if that is known; a list names it all the same.
    """

    case_id: str
    source: Path | DicomSeries
    problem: str | None = None

    def __str__(self) -> str:
        return str(self.source)

    def read(self) -> ScanContent:
        """Read the voxels.

        Raises:
            UserError: they cannot be read, or are no CT.
        """
        if self.problem is not None:
            raise UserError(self.problem)
        if isinstance(self.source, DicomSeries):
            series = read_ct(self.source)
            return ScanContent(series.volume, list(series.notes), series)
        return ScanContent(read_volume(self.source), [], None)


def list_scans(path: Path) -> list[Scan]:
    """Find the scans that a path stands for, in order of their names.

    A file is a volume, or a text list (.txt) with a path per line, relative to the list, that may follow a case id and
    a tab. A folder means the volumes in it, or else every CT series in it and below, or else the volumes below it.

    Raises:
        UserError: there is nothing of that kind, or two scans would have one case id.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path")
    scans = _in_folder(path) if path.is_dir() else _in_list(path) if _is_list(path) else [_volume(path)]
    check_case_ids(scans)
    return scans


def check_case_ids(scans: Iterable[Scan]) -> None:
    """Check that every scan's case id can name its files, and that they all differ.

    Raises:
        UserError: otherwise.
    """
    by_id: dict[str, Scan] = {}
    for scan in scans:
        validate_file_name(scan.case_id, f"case id of {scan}")
        other = by_id.setdefault(scan.case_id, scan)
        if other is not scan:
            raise UserError(
                f"{other} and {scan} would both be written as {scan.case_id}: list them in a text file with lines "
                "`case id<tab>path`"
            )


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == LIST_SUFFIX


def _volume(path: Path) -> Scan:
    if volume_suffix(path) is None:
        raise UserError(
            f"{path}: expected a volume ({', '.join(SUFFIXES)}), a list ({LIST_SUFFIX}) or a folder; a DICOM series is "
            "given by its folder"
        )
    return Scan(case_id=volume_stem(path.resolve()), source=path)


def _in_list(path: Path) -> list[Scan]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected a text file with a path per line, but it is not text") from error
    scans = []
    for line in filter(None, map(str.strip, lines)):
        case_id, tab, location = line.partition("\t")
        found = _listed(path.parent / (location if tab else line))
        if tab and len(found) > 1:
            raise UserError(f"{path}: {location} holds {len(found)} scans, which cannot all be called {case_id}")
        scans += [replace(found[0], case_id=case_id)] if tab else found
    if not scans:
        raise UserError(f"{path}: expected a path per line, but the list is empty")
    return scans


def _listed(path: Path) -> list[Scan]:
    """What a line of a list means; that it cannot be read stops nobody else."""
    if path.is_dir():
        try:
            return _in_folder(path)
        except ValueError as error:
            return [Scan(case_id=path.resolve().name, source=path, problem=str(error))]
    return [Scan(case_id=volume_stem(path), source=path)]


def _in_folder(folder: Path) -> list[Scan]:
    volumes = _volumes(folder.iterdir())
    if volumes:
        return [_volume(path) for path in volumes]
    volumes = _volumes(folder.rglob("*"))
    try:
        series = find_series(folder)
    except ValueError as error:
        if not volumes:
            raise UserError(f"{error}, and no volumes ({', '.join(SUFFIXES)})") from error
        series = []
    if not series:
        return [Scan(case_id=_joined(path.parent / volume_stem(path), folder), source=path) for path in volumes]
    cts = [one for one in series if one.modality == "CT"]
    if not cts:
        found = "; ".join(map(str, series[:3])) + ("; ..." if len(series) > 3 else "")
        raise UserError(f"{folder}: expected a CT, found {found}")
    homes = [one.paths[0].parent for one in cts]
    return [
        Scan(case_id=_joined(home, folder) + (f"_{one.uid[-UID_DIGITS:]}" if homes.count(home) > 1 else ""), source=one)
        for one, home in zip(cts, homes, strict=True)
    ]


def _volumes(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.is_file() and volume_suffix(path) and not path.name.startswith("."))


def _joined(path: Path, folder: Path) -> str:
    """A case id from where a scan lies below the input folder."""
    parts = path.relative_to(folder).parts
    return "_".join(parts) if parts else folder.resolve().name

"""index.json: facts about every case that a training needs before it opens any."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_preprocess.cases import CaseInfo, finished_case, read_case_info
from utils.errors import UserError
from utils.io.files import read_json, write_json

INDEX_NAME = "index.json"
INDEX_VERSION = 1
MAX_SILENT_READS = 100
"""Reading the case.json of more cases takes so long that a warning explains it."""

logger = logging.getLogger(__name__)


class IndexEntry(NamedTuple):
    """One case in index.json."""

    patient: str
    """The same for all cases of a patient."""
    organs: frozenset[str]
    """Contoured organs."""
    has_image: bool
    """False if there are only masks."""
    pseudo_organs: frozenset[str] = frozenset()
    """Organs with a pseudo-label instead of a contour."""


def write_index(folder: Path, infos: Iterable[CaseInfo]) -> None:
    """Write the entries of all cases in a folder."""
    entries = {info.case_id: _entry_of(info) for info in infos}
    cases = {
        case_id: {**entry._asdict(), "organs": sorted(entry.organs), "pseudo_organs": sorted(entry.pseudo_organs)}
        for case_id, entry in entries.items()
    }
    write_json(folder / INDEX_NAME, {"format_version": INDEX_VERSION, "cases": cases})


def read_index(folder: Path, case_ids: Sequence[str]) -> list[IndexEntry]:
    """Read the entries of some cases, in the same order; for those that the index lacks, case.json is read.

    Raises:
        UserError: the index is damaged, or a case without entry cannot be read.
    """
    path = folder / INDEX_NAME
    known = _read_entries(path) if path.is_file() else {}
    missing = sum(case_id not in known for case_id in case_ids)
    if missing > MAX_SILENT_READS:
        logger.warning(
            "%s lacks %d cases, so their case.json files are read; run data_preprocess.prepare again to add them",
            path,
            missing,
        )
    return [known.get(case_id) or _entry_of(read_case_info(folder / case_id)) for case_id in case_ids]


def read_patients(folder: Path, case_ids: Iterable[str]) -> dict[str, str]:
    """The patient of every case that is prepared, by case id; others are left out.

    Raises:
        UserError: the index or a case that it lacks is damaged.
    """
    prepared = _read_entries(folder / INDEX_NAME) if (folder / INDEX_NAME).is_file() else {}
    found = [case_id for case_id in case_ids if case_id in prepared or finished_case(folder, case_id)]
    return {case_id: entry.patient for case_id, entry in zip(found, read_index(folder, found), strict=True)}


def _read_entries(path: Path) -> dict[str, IndexEntry]:
    content = read_json(path)
    remedy = "delete it and run data_preprocess.prepare"
    if content.get("format_version") != INDEX_VERSION:
        found = content.get("format_version")
        raise UserError(f"{path}: expected an index of format {INDEX_VERSION}, got {found}; {remedy}")
    try:
        return {
            case_id: IndexEntry(
                patient=str(entry["patient"]),
                organs=frozenset(entry["organs"]),
                has_image=bool(entry["has_image"]),
                pseudo_organs=frozenset(entry.get("pseudo_organs", [])),
            )
            for case_id, entry in content["cases"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error!r}); {remedy}") from error


def _entry_of(info: CaseInfo) -> IndexEntry:
    return IndexEntry(
        patient=info.patient or info.case_id,
        organs=frozenset(info.organs),
        has_image=info.has_image,
        pseudo_organs=frozenset(info.pseudo_organs),
    )

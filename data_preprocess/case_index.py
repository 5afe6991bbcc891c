"""index.json: what a training must know of every case before it reads the first one."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_preprocess.cases import CaseInfo, read_case_info
from utils.errors import UserError
from utils.io.files import read_json, write_json

INDEX_VERSION = 1
MANY_CASES = 100
"""Reading so many one by one is worth a word."""

logger = logging.getLogger(__name__)


class IndexEntry(NamedTuple):
    """One case in brief."""

    patient: str
    """Cases of one patient have it in common."""
    organs: frozenset[str]
    """Contoured ones."""
    has_image: bool
    """False for masks alone."""


def write_index(folder: Path, infos: Iterable[CaseInfo]) -> None:
    """Record what `IndexEntry` holds of every case.

    Args:
        folder: of cases.
        infos: of all of them.
    """
    entries = {info.case_id: _entry_of(info) for info in infos}
    cases = {case_id: {**entry._asdict(), "organs": sorted(entry.organs)} for case_id, entry in entries.items()}
    write_json(folder / "index.json", {"format_version": INDEX_VERSION, "cases": cases})


def read_index(folder: Path, case_ids: Sequence[str]) -> list[IndexEntry]:
    """What index.json says of some cases; those that it lacks are read one by one.

    Args:
        folder: of cases.
        case_ids: the cases wanted.

    Returns:
        An entry for each.

    Raises:
        UserError: the index is damaged, or a case without entry cannot be read.
    """
    path = folder / "index.json"
    known = _read_entries(path) if path.is_file() else {}
    missing = sum(case_id not in known for case_id in case_ids)
    if missing > MANY_CASES:
        logger.warning("%s: lacks %d cases, each read now; run data_preprocess.prepare again", path, missing)
    return [known.get(case_id) or _entry_of(read_case_info(folder / case_id)) for case_id in case_ids]


def _read_entries(path: Path) -> dict[str, IndexEntry]:
    content = read_json(path)
    try:
        if content["format_version"] != INDEX_VERSION:
            raise UserError(f"format {content['format_version']}")
        return {
            case_id: IndexEntry(str(entry["patient"]), frozenset(entry["organs"]), bool(entry["has_image"]))
            for case_id, entry in content["cases"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: is no index of format {INDEX_VERSION} ({error!r}); delete it and run data_preprocess.prepare"
        ) from error


def _entry_of(info: CaseInfo) -> IndexEntry:
    return IndexEntry(info.patient or info.case_id, frozenset(info.organs), info.has_image)

"""Single structures that are left out when cases are prepared: a CSV file of cases, organs and reasons."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_preprocess.cases import CaseInfo
from utils.config.preset import Preset
from utils.errors import UserError, shorten, shorten_cases
from utils.imaging.masks import Mask
from utils.io.files import read_text

HEADER = ["case", "organ", "reason"]

Exclusions = dict[str, dict[str, str]]
"""Case id to organ, by the preset's name, to the reason."""


class Kept(NamedTuple):
    """The structures of a case, without those that are left out."""

    masks: dict[str, Mask]
    excluded: dict[str, str]
    """Structures that were left out, with the reasons."""
    notes: list[str]
    """On structures that were to be left out, but are not contoured."""


def read_exclusions(path: Path, preset: Preset, case_ids: Collection[str]) -> Exclusions:
    """Read a CSV file with the header `case,organ,reason` and one structure per line.

    Args:
        path: of the file.
        preset: its organs; an organ may have any of its names.
        case_ids: all cases of the raw data.

    Raises:
        UserError: a line is incomplete, names an unknown case or organ, or repeats a structure.
    """
    if not path.is_file():
        raise UserError(f"--exclude {path}: no such file; check the path")
    lines = csv.reader(io.StringIO(read_text(path)), skipinitialspace=True)
    header = [cell.strip() for cell in next(lines, [])]
    if header != HEADER:
        raise UserError(f"{path}: expected the header {','.join(HEADER)}, got {','.join(header)!r}; correct line 1")
    exclusions: Exclusions = {}
    for cells in lines:
        if not any(cells):
            continue
        where = f"{path}, line {lines.line_num}"
        case_id, organ, reason = _parse(cells, where, preset, case_ids)
        of_case = exclusions.setdefault(case_id, {})
        if organ in of_case:
            raise UserError(f"{where}: {organ} of {case_id} is listed twice; keep one line")
        of_case[organ] = reason
    return exclusions


def require_left_out(exclusions: Exclusions, prepared: Iterable[CaseInfo], path: Path, folder: Path) -> None:
    """Check that no case was prepared with a structure that is to be left out: prepared cases are not replaced.

    Raises:
        UserError: one was.
    """
    changed = [info.case_id for info in prepared if info.organs.keys() & exclusions.get(info.case_id, {}).keys()]
    if changed:
        raise UserError(
            f"{folder}: {shorten_cases(changed)} {'was' if len(changed) == 1 else 'were'} prepared with structures "
            f"that {path} leaves out; delete these cases' folders, or prepare into another folder"
        )


def leave_out(masks: Mapping[str, Mask], excluded: Mapping[str, str]) -> Kept:
    """Leave out some of a case's structures.

    Args:
        masks: by the preset's names.
        excluded: names to leave out, with the reasons.

    Raises:
        UserError: no structure is left.
    """
    kept = {name: mask for name, mask in masks.items() if name not in excluded}
    if not kept:
        raise UserError("--exclude leaves out all of its structures; move the case out of the raw data instead")
    return Kept(
        masks=kept,
        excluded={name: reason for name, reason in excluded.items() if name in masks},
        notes=[f"{name}: listed in --exclude, but not contoured" for name in excluded if name not in masks],
    )


def _parse(cells: list[str], where: str, preset: Preset, case_ids: Collection[str]) -> tuple[str, str, str]:
    """Case id, the preset's name of the organ, and the reason of a line."""
    case_id, organ, reason = (cell.strip() for cell in cells) if len(cells) == len(HEADER) else ("", "", "")
    if not (case_id and organ and reason):
        raise UserError(
            f"{where}: expected case, organ and reason, got {','.join(cells)!r}; put quotes around a reason with commas"
        )
    if case_id not in case_ids:
        raise UserError(f"{where}: there is no case {case_id} in the raw data ({shorten(case_ids)}); correct the id")
    index = preset.find_organ(organ)
    if index is None:
        raise UserError(f"{where}: {organ} is no organ of preset {preset.name} ({', '.join(preset.organ_names)})")
    return case_id, preset.organ_names[index], reason

"""The list of the review pages of a cohort: one page that opens in any browser, with a row per case."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2

from utils.config.organ_volumes import known_volume
from utils.errors import CaseFailure, UserError
from utils.io.files import write_text
from utils.io.own_files import require_own
from utils.reporting.organ_report import UNUSUAL_VOLUME
from utils.reporting.review.policy import source_hash

INDEX_NAME = "index.html"
GENERATOR = "FocusNet review index"
"""By it the page is known as one that this program wrote."""
TEMPLATES = Path(__file__).with_name("template")
UNNAMED = "(not named)"
SEGMENTED_COLUMNS = ("lowest confidence", "unusual volumes")


class IndexCell(NamedTuple):
    """A cell of the table."""

    text: str
    order: float | None = None
    """Number by which the column is sorted; a reader who sorts by it finds None last in both directions."""


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """A case in the table."""

    case_id: str
    page: str | None
    """Name of its page, in the folder of the index; None if it has none."""
    flags: Sequence[str]
    """Reasons to look at it; a case with flags stands before those without."""
    cells: Sequence[IndexCell]
    """One per column."""


def require_own_index(path: Path, case_ids: Iterable[str]) -> None:
    """Check that an index can be written to `path`.

    Raises:
        UserError: another page has this name, or the page of a case would have it.
    """
    for case_id in case_ids:
        if f"{case_id}.html".casefold() == path.name.casefold():
            raise UserError(f"case {case_id}: its page would be {path}, the list of all pages; rename the case")
    start = path.read_text(encoding="utf-8", errors="replace")[:1000] if path.is_file() else ""
    require_own([path], [path] if html.escape(GENERATOR) in start else [])


def segmented_rows(
    folder: Path, reports: Mapping[str, Mapping[str, Any]], failures: Mapping[str, CaseFailure], *, names: bool
) -> list[IndexRow]:
    """The rows of segmented cases, whose columns are `SEGMENTED_COLUMNS`.

    Args:
        folder: of the pages and of the index.
        reports: of the cases, by case id: the JSON reports of `inference.py`.
        failures: cases that failed.
        names: name the cases that failed and say why; the path of the file, which may be a patient's name, is part of
            the reason. The other cases go by the names of their pages.
    """
    blank = (IndexCell(""), IndexCell(""))
    rows = [
        IndexRow(
            case_id=case_id if names else UNNAMED,
            page=None,
            flags=[f"failed: {why}" if names else "failed: see the summary"],
            cells=blank,
        )
        for case_id, why in failures.items()
    ]
    for case_id in reports.keys() - failures.keys():
        organs = reports[case_id]["organs"]
        flags = [*reports[case_id].get("case_flags", ()), *_organ_flags(organs)]
        unusual = {name: organ["volume_ml"] for name, organ in organs.items() if UNUSUAL_VOLUME in organ["flags"]}
        cells = (_lowest_confidence(organs), unusual_volumes(unusual))
        rows.append(IndexRow(case_id=case_id, page=page_name(folder, case_id), flags=flags, cells=cells))
    return rows


def page_name(folder: Path, case_id: str) -> str | None:
    """The name of the page of a case, or None if the folder does not have it."""
    return f"{case_id}.html" if (folder / f"{case_id}.html").is_file() else None


def unusual_volumes(volumes_ml: Mapping[str, float]) -> IndexCell:
    """The organs that were found with an unusual volume, by organ name to volume; sorted by their number."""
    texts = []
    for name, volume_ml in volumes_ml.items():
        known = known_volume(name)
        if known is not None and volume_ml > 0 and volume_ml not in known:
            texts.append(f"{name} {volume_ml:.3g} ml, expected {known.low_ml:g} to {known.high_ml:g}")
    return IndexCell("; ".join(texts), len(texts))


def write_index(path: Path, title: str, columns: Sequence[str], rows: Iterable[IndexRow]) -> None:
    """Write the page: cases with flags first, then by the first column, from cases without a value upward.

    Args:
        path: of the page, in the folder of the cases' pages.
        title: heading.
        columns: headings of the rows' cells.
        rows: any order.
    """
    texts = {name: (TEMPLATES / f"index.{name}").read_text(encoding="utf-8") for name in ("html.j2", "css", "js")}
    template = jinja2.Template(texts["html.j2"], autoescape=True, undefined=jinja2.StrictUndefined)
    ordered = sorted(rows, key=_urgency)
    content = template.render(
        title=title,
        columns=columns,
        rows=ordered,
        num_flagged=sum(bool(row.flags) for row in ordered),
        style=texts["css"],
        script=texts["js"],
        style_hash=source_hash(texts["css"]),
        script_hash=source_hash(texts["js"]),
        generator=GENERATOR,
        link=quote,
        order=_order_text,
    )
    write_text(path, content)


def _organ_flags(organs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The flags of organs, each with the organs that have it."""
    names: dict[str, list[str]] = {}
    for name, organ in organs.items():
        for flag in organ["flags"]:
            names.setdefault(flag, []).append(name)
    return [f"{flag}: {', '.join(own)}" for flag, own in names.items()]


def _lowest_confidence(organs: Mapping[str, Mapping[str, Any]]) -> IndexCell:
    known = {name: organ["confidence"] for name, organ in organs.items() if "confidence" in organ}
    if not known:
        return IndexCell("")
    lowest = min(known, key=known.__getitem__)
    return IndexCell(f"{known[lowest]:.2f} {lowest}", known[lowest])


def _urgency(row: IndexRow) -> tuple[bool, float, str]:
    order = row.cells[0].order if row.cells else None
    return not row.flags, -math.inf if order is None else order, row.case_id


def _order_text(order: float | None) -> str:
    """A number as JavaScript reads it; empty for None."""
    return "" if order is None else str(order).replace("inf", "Infinity")

"""Reads what people think of contours: the CSV files that review pages save."""

import csv
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, shorten
from utils.evaluation.matching import ENDINGS, CasePair
from utils.io.files import printable, read_text
from utils.io.segmentations import OrganNameResolver
from utils.reporting.review.rating_scale import COLUMNS, SCALE

ACCEPTABLE = 4
"""Lowest rating of a contour that can be used without an edit."""
WHOLE_NUMBER = re.compile(r"(\d+)(?:[.,]0*)?")
"""Programs that take a column with empty cells for one of decimals write 4 as 4.0."""

GUARD = re.compile(r"'(?=[=+\-@])")
"""The review page puts it before a text that a spreadsheet would take for a formula."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rating:
    """What one rater thinks of one organ of one case."""

    case_id: str
    organ: str
    value: int
    """A key of `SCALE`."""
    comment: str
    rater: str
    """May be empty."""
    date: str
    """As written."""
    place: str
    """File and line, for messages."""


class _Record(NamedTuple):
    """A row of a file."""

    line: int
    cells: list[str]


def read_ratings(paths: Sequence[Path], resolver: OrganNameResolver) -> list[Rating]:
    """Read rating files: UTF-8, cells separated by commas or, as Excel writes in many countries, by semicolons.

    A row with an empty rating is not rated. If a rater rated an organ of a case several times, the last date counts.

    Args:
        paths: CSV files with the columns `COLUMNS`, or folders of them.
        resolver: of organ names; organs are named as in its preset if it has one.

    Returns:
        Sorted by organ, case and rater.

    Raises:
        UserError: a file has other columns, a rating is none of `SCALE`, the preset does not have an organ, two
            different ratings cannot be ordered in time, or nothing is rated.
    """
    files = [file for path in paths for file in _files_at(path)]
    found: dict[tuple[str, str, str], Rating] = {}
    num_replaced = 0
    for rating in (rating for file in files for rating in _read_file(file, resolver)):
        key = resolver.key(rating.organ), rating.case_id, rating.rater.casefold()
        earlier = found.get(key)
        num_replaced += earlier is not None and earlier.value != rating.value
        found[key] = _later(earlier, rating) if earlier else rating
    if not found:
        raise UserError(f"{shorten(files)}: no organ is rated; rate some on the review page and save the ratings again")
    if num_replaced:
        logger.info("ratings that the same rater changed later, of which the last counts: %d", num_replaced)
    spelling: dict[str, str] = {}
    for (_, _, rater), rating in found.items():
        spelling.setdefault(rater, rating.rater)
    return [replace(found[key], rater=spelling[key[2]]) for key in sorted(found)]


def match_ratings(
    ratings: Iterable[Rating], pairs: Mapping[str, CasePair], others: Iterable[str], resolver: OrganNameResolver
) -> list[Rating]:
    """Rename the cases of ratings to those of the evaluation, by the rule of `match_cases`.

    Args:
        ratings: of `read_ratings`.
        pairs: of `match_cases`; a rating may name the case by the prediction or by the reference.
        others: cases that only one side has; they can be rated, but have no scores.
        resolver: of organ names.

    Raises:
        UserError: there is no such case, or two cases of a rater become the same one.
    """
    names = {name: name for name in others}
    for case_id, pair in pairs.items():
        names |= {pair.prediction.case_id: case_id, case_id: case_id}
    matched: dict[tuple[str, str, str], Rating] = {}
    for rating in ratings:
        stem = ENDINGS.sub("", rating.case_id)
        own = {case_id for name, case_id in names.items() if ENDINGS.sub("", name) == stem}
        case_id = names.get(rating.case_id) or (own.pop() if len(own) == 1 else None)
        if case_id is None:
            raise UserError(
                f"{rating.place}: unknown case {rating.case_id!r}; the cases are {shorten(sorted(names))}; give the "
                "ratings of these cases"
            )
        key = resolver.key(rating.organ), case_id, rating.rater.casefold()
        renamed = replace(rating, case_id=case_id)
        matched[key] = _later(matched[key], renamed) if key in matched else renamed
    return list(matched.values())


def match_organs(ratings: Iterable[Rating], organs: Sequence[str] | None, resolver: OrganNameResolver) -> list[Rating]:
    """Rename the organs of ratings to `organs`, or to one spelling each if that is None.

    Raises:
        UserError: `organs` does not have an organ.
    """
    names = {resolver.key(organ): organ for organ in organs or ()}
    matched = []
    for rating in ratings:
        key = resolver.key(rating.organ)
        if organs is None:
            names.setdefault(key, rating.organ)
        elif key not in names:
            raise _unknown_organ(rating, organs)
        matched.append(replace(rating, organ=names[key]))
    return matched


def _files_at(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".csv" and file.name[0] != ".")
        if not files:
            raise UserError(f"{path}: expected rating files (.csv), found none; check the path")
        return files
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder; check the path")
    return [path]


def _read_file(path: Path, resolver: OrganNameResolver) -> Iterator[Rating]:
    text = read_text(path)
    if printable(text) != text:
        raise UserError(f"{path}: expected UTF-8 text, got another encoding; save it as 'CSV UTF-8'")
    header = text.partition("\n")[0]
    delimiter = ";" if ";" in header else ","
    records = _records(path, text, delimiter)
    first = next(records, _Record(1, []))
    if [cell.strip() for cell in first.cells] != list(COLUMNS):
        raise UserError(
            f"{path} line 1: expected the columns {','.join(COLUMNS)}, got {','.join(first.cells) or 'nothing'}; give "
            "the files that the review page saves"
        )
    for record in records:
        place = f"{path} line {record.line}"
        if len(record.cells) != len(COLUMNS):
            raise UserError(
                f"{place}: expected {len(COLUMNS)} cells, got {len(record.cells)}; put a comment that contains "
                f"{delimiter!r} in double quotes"
            )
        if rating := _parse(place, [_plain(cell) for cell in record.cells], resolver):
            yield rating


def _records(path: Path, text: str, delimiter: str) -> Iterator[_Record]:
    """The rows that are not empty, with the line on which each begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield _Record(line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {line}: not a row of a CSV file ({error}); save the file again") from error


def _plain(cell: str) -> str:
    """The text of a cell as it was entered."""
    text = cell.strip()
    return text[1:] if GUARD.match(text) else text


def _parse(place: str, cells: Sequence[str], resolver: OrganNameResolver) -> Rating | None:
    """The rating in a row, or None if the organ is not rated."""
    case_id, organ, value, comment, rater, date = cells
    if not value:
        return None
    number = WHOLE_NUMBER.fullmatch(value)
    if number is None or int(number[1]) not in SCALE:
        scale = f"{min(SCALE)} ({SCALE[min(SCALE)]}) to {max(SCALE)} ({SCALE[max(SCALE)]})"
        raise UserError(f"{place}: expected a rating from {scale}, or an empty cell, got {value!r}; correct it")
    if not case_id or not organ:
        raise UserError(f"{place}: a rating without {'an organ' if case_id else 'a case'}; fill in the cell")
    rating = Rating(
        case_id=case_id, organ=organ, value=int(number[1]), comment=comment, rater=rater, date=date, place=place
    )
    organs = resolver.preset_organs()
    if not organs:
        return rating
    if resolver.key(organ) not in organs:
        raise _unknown_organ(rating, list(organs.values()))
    return replace(rating, organ=organs[resolver.key(organ)])


def _unknown_organ(rating: Rating, organs: Sequence[str]) -> UserError:
    return UserError(
        f"{rating.place}: unknown organ {rating.organ!r}; the organs are {', '.join(organs)}; check --preset or the "
        "spelling"
    )


def _later(one: Rating, other: Rating) -> Rating:
    """The later of two ratings by one rater; either of equal ones.

    Raises:
        UserError: they differ, and their dates do not tell which is later.
    """
    times = _parse_date(one.date), _parse_date(other.date)
    if None not in times and times[0] != times[1]:
        return one if times[0] > times[1] else other
    if one.value == other.value:
        return other
    whose = f"by {one.rater}" if one.rater else "without a rater's name"
    raise UserError(
        f"{one.place} and {other.place}: ratings {one.value} and {other.value} of {one.organ}, {one.case_id}, {whose}, "
        f"and the dates {one.date!r} and {other.date!r} do not tell which is later; remove one, or "
        "name the raters if they are different people"
    )


def _parse_date(text: str) -> datetime | None:
    """A date in ISO 8601, in UTC unless it says otherwise; None for any other text."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)

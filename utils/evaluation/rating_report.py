"""Ratings by organ beside Dice: the printed table and the files."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError, shorten
from utils.evaluation.agreement import Agreement, rater_agreement
from utils.evaluation.metrics import COUNTED, OrganScores, ScoreRow
from utils.evaluation.ratings import ACCEPTABLE, SCALE, Rating
from utils.evaluation.report import json_ready
from utils.io.files import remove_file, write_json, write_text
from utils.io.own_files import read_record, require_own
from utils.reporting.tables import Table, format_number, to_csv, to_latex, to_markdown

RECORD, SUMMARY, STRUCTURES = "ratings.json", "rating_summary.csv", "rated_structures.csv"
FILES = (RECORD, SUMMARY, STRUCTURES, "ratings.md", "ratings.tex")
ALL_ORGANS = "all organs"
UNNAMED = "(unnamed)"
DEFINITIONS = {
    "scale": "; ".join(f"{value} {meaning}" for value, meaning in SCALE.items()),
    "acceptable": f"ratings of {ACCEPTABLE} and {max(SCALE)} / all ratings",
    "median Dice": "over the ratings of this value; a structure counts once per rating, a missed one with Dice 0",
    "kappa": "Cohen's weighted kappa with quadratic weights; of three or more raters the mean over their pairs",
    "rated twice": "structures that two or more raters rated, on which kappa is computed",
    "structure": "an organ of a case",
}


@dataclass(frozen=True, kw_only=True)
class RatingSummary:
    """The ratings of an organ, or of all."""

    organ: str
    num_structures: int
    num_ratings: int
    """At least `num_structures`: every rater counts."""
    counts: Mapping[int, int]
    """Number of ratings by value."""
    median_dice: Mapping[int, float]
    """By value; NaN if no structure with this rating has a Dice."""
    agreement: Agreement

    @property
    def acceptable(self) -> float:
        """Fraction of the ratings that are `ACCEPTABLE` or better."""
        return sum(count for value, count in self.counts.items() if value >= ACCEPTABLE) / self.num_ratings


class RatingReport:
    """The content of all tables and files about ratings.

    Args:
        ratings: with the names of cases and organs in `rows`.
        rows: scores of the rated structures; empty if nothing was scored.
        organs: in the order of the table; None for an alphabetical order.
        origin: paths and options.
    """

    def __init__(
        self, ratings: Sequence[Rating], rows: Iterable[ScoreRow], organs: Sequence[str] | None, origin: dict[str, Any]
    ) -> None:
        rated = {rating.organ for rating in ratings}
        self.ratings, self.origin = ratings, origin
        self.scores = {(row.organ, row.case_id): row.scores for row in rows if row.status in COUNTED}
        self.raters = Counter(rating.rater for rating in ratings)
        self.organs = [
            self._summarize(organ, [rating for rating in ratings if rating.organ == organ])
            for organ in (sorted(rated) if organs is None else organs)
            if organ in rated
        ]
        self.total = self._summarize(ALL_ORGANS, ratings)

    def scores_of(self, rating: Rating) -> OrganScores | None:
        """The scores of a rated structure; None if it was not scored."""
        return self.scores.get((rating.organ, rating.case_id))

    def _summarize(self, organ: str, ratings: Sequence[Rating]) -> RatingSummary:
        dice: dict[int, list[float]] = {value: [] for value in SCALE}
        by_rater: dict[str, dict[tuple[str, str], int]] = {}
        for rating in ratings:
            by_rater.setdefault(rating.rater, {})[rating.organ, rating.case_id] = rating.value
            if scores := self.scores_of(rating):
                dice[rating.value].append(scores.dice)
        counts = Counter(rating.value for rating in ratings)
        return RatingSummary(
            organ=organ,
            num_structures=len({(rating.organ, rating.case_id) for rating in ratings}),
            num_ratings=len(ratings),
            counts={value: counts[value] for value in SCALE},
            median_dice={value: float(np.median(own)) if own else math.nan for value, own in dice.items()},
            agreement=rater_agreement(by_rater),
        )


def require_own_rating_files(folder: Path, inputs: Iterable[Path]) -> None:
    """Check that the files can be written: ratings.json tells a folder of them from any other.

    Args:
        folder: of the files.
        inputs: rating files and folders of them.

    Raises:
        UserError: a file of somebody else is in the place of one, or a rating file would be replaced.
    """
    is_own = read_record(folder / RECORD, ("origin", "definitions", "raters")) is not None
    require_own(() if is_own else (folder / name for name in FILES))
    replaced = {(folder / name).resolve() for name in FILES}
    if lost := [path for path in inputs if path.resolve() in replaced]:
        raise UserError(
            f"{shorten(lost)}: would be replaced by a table of this name; rename it or choose another output"
        )


def rating_table(report: RatingReport) -> Table:
    """A row per organ: number of structures and ratings, distribution, median Dice by rating, and agreement."""
    headings = ["rated by people", "structures", "ratings", *map(str, SCALE), "acceptable"]
    headings += [f"Dice at {value}" for value in SCALE] if report.scores else []
    headings += ["rated twice", "kappa"]
    return Table(
        headings=headings,
        rows=[_table_row(summary, bool(report.scores)) for summary in report.organs],
        groups=[_table_row(report.total, bool(report.scores))],
        notes=_notes(report),
    )


def write_rating_report(folder: Path, report: RatingReport, *, markdown: bool = False, latex: bool = False) -> None:
    """Write ratings.json, rating_summary.csv (a row per organ), rated_structures.csv (a row per rating), and the tables
    that are asked for.
    """
    table = rating_table(report)
    content = {"origin": report.origin, "definitions": DEFINITIONS, "raters": dict(report.raters)}
    content["organs"] = [_json_entry(summary) for summary in (*report.organs, report.total)]
    remove_rating_files(folder)
    write_json(folder / RECORD, json_ready(content))
    write_text(folder / SUMMARY, _summary_csv(report))
    write_text(folder / STRUCTURES, _structures_csv(report))
    for suffix, text in (("md", to_markdown(table) if markdown else ""), ("tex", to_latex(table) if latex else "")):
        if text:
            write_text(folder / f"ratings.{suffix}", text)


def remove_rating_files(folder: Path) -> None:
    """Remove the files of an earlier evaluation with ratings, of which the record goes last."""
    if read_record(folder / RECORD, ("origin", "definitions", "raters")) is not None:
        for name in reversed(FILES):
            remove_file(folder / name)


def _table_row(summary: RatingSummary, has_scores: bool) -> list[str]:
    cells = [summary.organ, str(summary.num_structures), str(summary.num_ratings)]
    cells += [str(count) for count in summary.counts.values()]
    cells.append(f"{100 * summary.acceptable:.0f} %")
    cells += [format_number(dice, 3) for dice in summary.median_dice.values()] if has_scores else []
    return [*cells, str(summary.agreement.num_structures), format_number(summary.agreement.kappa, 2)]


def _notes(report: RatingReport) -> list[str]:
    scale = ", ".join(f"{value} {meaning}" for value, meaning in SCALE.items())
    notes = [f"Scale: {scale}. Acceptable: {ACCEPTABLE} or {max(SCALE)}."]
    raters = [f"{name or UNNAMED} {count}" for name, count in sorted(report.raters.items())]
    notes.append(f"Ratings by rater: {shorten(raters)}.")
    if len(report.raters) > 1:
        pairs = report.total.agreement.num_pairs
        over = f", mean of {pairs} pairs of raters" if pairs > 1 else ""
        notes.append(f"Kappa: Cohen's weighted kappa, quadratic weights{over}; - if it is undefined.")
    if report.scores and (num := sum(report.scores_of(rating) is None for rating in report.ratings)):
        notes.append(f"Ratings of structures without a Dice: {num}.")
    return notes


def _json_entry(summary: RatingSummary) -> dict[str, Any]:
    return {**vars(summary), "acceptable": summary.acceptable, "agreement": summary.agreement._asdict()}


def _summary_csv(report: RatingReport) -> str:
    columns = ["organ", "num_structures", "num_ratings", *(f"num_{value}" for value in SCALE), "acceptable"]
    columns += [*(f"median_dice_{value}" for value in SCALE), "num_rated_twice", "kappa", "num_rater_pairs"]
    rows = []
    for summary in (*report.organs, report.total):
        kappa, num_pairs, num_twice = summary.agreement
        row = {**vars(summary), "acceptable": summary.acceptable, "kappa": kappa}
        row |= {"num_rater_pairs": num_pairs, "num_rated_twice": num_twice}
        row |= {f"num_{value}": count for value, count in summary.counts.items()}
        rows.append(row | {f"median_dice_{value}": dice for value, dice in summary.median_dice.items()})
    return to_csv(columns, rows)


def _structures_csv(report: RatingReport) -> str:
    columns = ["case", "organ", "rating", "comment", "rater", "date", "dice", "hd95_mm", "surface_dice"]
    rows = []
    for rating in report.ratings:
        scores = report.scores_of(rating)
        rows.append(
            {**vars(rating), "case": rating.case_id, "rating": rating.value, **(vars(scores) if scores else {})}
        )
    return to_csv(columns, rows)

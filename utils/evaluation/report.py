"""The tables and files of an evaluation: printed, CSV, Markdown, LaTeX, and JSON with all definitions."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from utils.errors import shorten_cases
from utils.evaluation.aggregate import (
    Comparison,
    OrganSummary,
    Statistics,
    compare_predictions,
    find_low_cases,
    find_worst_cases,
    summarize_groups,
    summarize_organs,
)
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import COMPARED_METRICS, DICE, HD95, METRICS, SURFACE_DICE, Metric, OrganScores, Status
from utils.evaluation.significance import CONFIDENCE, NUM_RESAMPLES
from utils.io.files import remove_file, write_json, write_text
from utils.io.own_files import read_record, require_own
from utils.reporting.tables import Table, format_mean, format_number, to_csv, to_latex, to_markdown, to_text

PACKAGES = ("numpy", "scipy", "SimpleITK", "surface-distance")
RECORD, OVERLAYS = "summary.json", "overlays"
TABLES = (
    *("summary.csv", "scores.csv", "comparison.csv", "scores.md", "scores.tex"),
    *(f"comparison_{metric.key}.{suffix}" for metric in COMPARED_METRICS for suffix in ("md", "tex")),
)
CONVENTIONS = {
    "surfaces": "elements lie at voxel corners and are weighted by their area (DeepMind's surface-distance package)",
    "missed": "contoured, but not predicted: Dice and surface Dice 0, distances infinite, volume error -1",
    "spurious": "predicted, but the reference mask is empty: Dice and surface Dice 0, distances and volume error "
    "infinite",
    "absent": "both masks are empty: no metric is defined, not counted in n",
    "not contoured": "the reference has no mask of the organ: not scored, not counted in n",
    "not predicted": "no case has a predicted mask of the organ: not scored, not counted in n; with a preset such "
    "organs are counted as missed",
    "n": "number of cases that are scored, missed or spurious",
    "mean": "of the finite values: Dice and surface Dice of all n cases, distances of n - missed - spurious cases",
    "std": "sample standard deviation (n - 1) of the values in the mean",
    "median": "of all n values, including infinite ones",
    "mean of organs": "every organ counts once, whatever its n",
    "json": "infinite numbers are the text 'inf', undefined numbers are null",
}
COMPARISON_CONVENTIONS = {
    "difference": "prediction - other, case by case",
    "missed by one or both": "number of cases; they count in n of Dice and surface Dice, but not of the distances",
    "interval": f"{CONFIDENCE:.0%} studentized bootstrap interval of the mean difference, {NUM_RESAMPLES} resamples of "
    "the cases with a finite value on both sides",
    "p": "two-sided Wilcoxon signed-rank test over all cases; an organ that only one side missed is the largest "
    "difference; 1 if no case differs",
    "p_corrected": "Holm's correction for the number of organs, separately for each metric",
}
STATUS_NOTES = {
    Status.SPURIOUS: "Predicted, but the reference mask is empty (counted like missed)",
    Status.ABSENT: "Both masks are empty (not scored)",
    Status.NOT_CONTOURED: "Not contoured (not scored)",
    Status.NOT_PREDICTED: "Not predicted in any case (not scored; --preset counts them as missed)",
}


class EvaluationReport:
    """The content of all tables and files: aggregated scores, and the comparison with another prediction.

    Args:
        evaluation: of the prediction.
        other: of the prediction to compare with, or None.
        small_organs: names of the organs that have a mean of their own; None for the mean of all only.
        origin: paths, options, and tolerances with their sources.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        other: Evaluation | None,
        small_organs: Sequence[str] | None,
        origin: dict[str, Any],
    ) -> None:
        rows, organs = evaluation.rows, evaluation.organs
        self.evaluation, self.origin = evaluation, origin
        self.organs = summarize_organs(rows, organs)
        self.groups = summarize_groups(self.organs, small_organs)
        self.comparisons = compare_predictions(rows, other.rows, organs) if other else []
        self.worst = [case for metric in (DICE, HD95) for case in find_worst_cases(rows, organs, metric)]
        self.low_cases = find_low_cases(rows)


def require_own_files(folder: Path, folders: Sequence[str] = ()) -> None:
    """Check that a report can be written into a folder: summary.json tells an evaluation's folder from any other.

    Args:
        folder: of the report.
        folders: names of the folders in it that will be written to.

    Raises:
        UserError: a file of somebody else is in the place of one of the report's.
    """
    names = (RECORD, *TABLES, *(f"{metric.key}.png" for metric in METRICS), *folders)
    is_own = read_record(folder / RECORD, ("origin", "definitions")) is not None
    require_own(() if is_own else (folder / name for name in names))


def score_table(report: EvaluationReport, metrics: Sequence[Metric] = COMPARED_METRICS) -> Table:
    """A row per organ, with n, missed, and mean ± std and median of each metric."""
    headings = ["organ", "n", "missed"]
    for metric in metrics:
        headings += [f"{metric.heading} mean ± std", "median", *(["tolerance (mm)"] if metric is SURFACE_DICE else [])]
    return Table(
        headings=headings,
        rows=[_score_row(organ, metrics) for organ in report.organs if organ.n],
        groups=[_score_row(group, metrics) for group in report.groups],
        notes=_table_notes(report),
    )


def comparison_table(report: EvaluationReport, metric: Metric) -> Table:
    """Paired differences in one metric, a row per organ."""
    headings = [metric.heading, "n", "missed", "other missed", "both missed"]
    headings += ["mean difference", "95 % interval", "p", "p (Holm)"]
    own = [comparison for comparison in report.comparisons if comparison.metric == metric.key]
    return Table(headings=headings, rows=[_comparison_row(comparison, metric.digits + 1) for comparison in own])


def worst_table(report: EvaluationReport) -> Table:
    """The worst case of each organ; the cases with the lowest Dice stand below."""
    dice, hd95 = ({case.organ: case for case in report.worst if case.metric == metric.key} for metric in (DICE, HD95))
    rows = [
        [organ, low.case_id, format_number(low.value, 3), hd95[organ].case_id, format_number(hd95[organ].value, 2)]
        for organ, low in dice.items()
    ]
    notes = [f"{case_id}: its organs are {-gap:.3f} below their median Dice" for case_id, gap in report.low_cases]
    return Table(
        headings=["organ", "worst Dice in", "Dice", "worst HD95 in", "HD95 (mm)"],
        rows=rows,
        notes=["Cases with the lowest Dice:", *notes] if notes else [],
    )


def format_console_report(report: EvaluationReport) -> str:
    """The tables that are printed after the run."""
    parts = [to_text(score_table(report)), to_text(worst_table(report))]
    if report.comparisons:
        parts.append(f"Prediction - {report.origin['compare']}")
        parts += [to_text(comparison_table(report, metric)) for metric in COMPARED_METRICS]
    elif "compare" in report.origin:
        parts.append(f"Not compared with {report.origin['compare']}: no organ of any case counts in both predictions.")
    return "\n\n".join(parts)


def write_report(folder: Path, report: EvaluationReport, *, markdown: bool = False, latex: bool = False) -> None:
    """Write scores.csv (a row per case and organ), summary.csv, summary.json, and the tables that are asked for.

    Tables of an earlier evaluation in the same folder are removed if this one does not write them.
    """
    texts = {"scores.csv": _scores_csv(report), "summary.csv": _summary_csv(report)}
    tables = {"scores": score_table(report)}
    if report.comparisons:
        texts["comparison.csv"] = _comparison_csv(report)
        tables |= {f"comparison_{metric.key}": comparison_table(report, metric) for metric in COMPARED_METRICS}
    for name, table in tables.items():
        texts |= {f"{name}.md": to_markdown(table)} if markdown else {}
        texts |= {f"{name}.tex": to_latex(table)} if latex else {}
    write_json(folder / RECORD, json_ready(_summary_json(report)))  # first: by it the others are known as own files
    for name, text in texts.items():
        write_text(folder / name, text)
    for name in TABLES:
        if name not in texts:
            remove_file(folder / name)


def _score_row(summary: OrganSummary, metrics: Sequence[Metric]) -> list[str]:
    is_group = math.isnan(summary.tolerance_mm)
    cells = [summary.name, str(summary.n), str(summary.missed)]
    for metric in metrics:
        own = summary.statistics[metric.key]
        cells.append(format_mean(own.mean, own.std, metric.digits))
        cells.append("" if is_group else format_number(own.median, metric.digits))
        if metric is SURFACE_DICE:
            cells.append("" if is_group else f"{summary.tolerance_mm:g}")
    return cells


def _table_notes(report: EvaluationReport) -> list[str]:
    notes = []
    if any(organ.missed or organ.counts.get(Status.SPURIOUS) for organ in report.organs):
        notes.append("Missed organs count with Dice 0. The mean distance leaves them out.")
    for status, text in STATUS_NOTES.items():
        counts = [(organ.name, organ.counts.get(status, 0)) for organ in report.organs]
        listed = ", ".join(f"{name} {count}" for name, count in counts if count)
        if listed:
            notes.append(f"{text}: {listed}.")
    if report.evaluation.failures:
        notes.append(f"Failed cases (not in the table): {shorten_cases(report.evaluation.failures)}.")
    if report.evaluation.unmatched_structures:
        notes.append(f"Not in the preset (not scored): {', '.join(report.evaluation.unmatched_structures)}.")
    return notes


def _comparison_row(comparison: Comparison, digits: int) -> list[str]:
    if comparison.identical:
        shown = ["identical", "", "1", "1"]
    else:
        low, high = (format_number(limit, digits) for limit in comparison.interval)
        shown = [
            format_number(comparison.mean_difference, digits),
            "-" if math.isnan(comparison.interval.low) else f"{low} to {high}",
            _format_p(comparison.p),
            _format_p(comparison.p_corrected),
        ]
    counts = comparison.n, comparison.missed, comparison.other_missed, comparison.both_missed
    return [comparison.organ, *map(str, counts), *shown]


def _format_p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else format_number(p, 4)


def _scores_csv(report: EvaluationReport) -> str:
    columns = ["case", "organ", "status", "tolerance_mm", *(field.name for field in fields(OrganScores))]
    rows = [
        {**vars(row), "case": row.case_id, **(vars(row.scores) if row.scores else {})} for row in report.evaluation.rows
    ]
    return to_csv(columns, rows)


def _comparison_csv(report: EvaluationReport) -> str:
    columns = [field.name for field in fields(Comparison) if field.name != "interval"]
    rows = [{**vars(c), "interval_low": c.interval.low, "interval_high": c.interval.high} for c in report.comparisons]
    return to_csv([*columns, "interval_low", "interval_high"], rows)


def _summary_csv(report: EvaluationReport) -> str:
    columns = ["organ", "n", *Status, "tolerance_mm"]
    columns += [f"{metric.key}_{name.name}" for metric in METRICS for name in fields(Statistics)]
    rows = []
    for summary in [*report.organs, *report.groups]:
        row = {"organ": summary.name, "n": summary.n, "tolerance_mm": summary.tolerance_mm}
        row |= dict.fromkeys(Status, 0) | summary.counts
        for key, statistics in summary.statistics.items():
            row |= {f"{key}_{name}": value for name, value in vars(statistics).items()}
        rows.append(row)
    return to_csv(columns, rows)


def _summary_json(report: EvaluationReport) -> dict[str, Any]:
    content = {
        "origin": report.origin,
        "definitions": {metric.key: metric.definition for metric in METRICS} | CONVENTIONS,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "failed_cases": {case_id: failure.reason for case_id, failure in report.evaluation.failures.items()},
        "organs": [asdict(organ) for organ in report.organs],
        "means": [asdict(group) for group in report.groups],
        "worst": [asdict(case) for case in report.worst],
        "worst_cases": [{"case_id": case_id, "dice_below_median": -gap} for case_id, gap in report.low_cases],
        "structures_not_in_preset": report.evaluation.unmatched_structures,
    }
    if report.comparisons:
        content["definitions"] |= COMPARISON_CONVENTIONS
        content["comparisons"] = [asdict(comparison) for comparison in report.comparisons]
    return content


def json_ready(value: object) -> object:
    """Replace NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value

"""The report of an evaluation: tables on screen and in files, and a record of how everything is defined."""

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from utils.evaluation.aggregate import (
    Comparison,
    OrganSummary,
    Worst,
    compare,
    summarize,
    summarize_groups,
    worst_cases,
    worst_per_organ,
)
from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import COMPARED_METRICS, METRICS, Metric, OrganScores, Status
from utils.evaluation.significance import CONFIDENCE, NUM_RESAMPLES
from utils.io.files import write_json, write_text
from utils.reporting.tables import Table, format_mean, format_number, to_csv, to_latex, to_markdown, to_text

PACKAGES = ("numpy", "scipy", "SimpleITK", "surface-distance")
CONVENTIONS = {
    "surfaces": "elements lie at voxel corners and are weighted by their area (DeepMind's surface-distance package)",
    "missed": "contoured, but no voxel was predicted: Dice and surface Dice 0, distances infinite, volume error -1",
    "spurious": "the reference is a mask without voxels, yet voxels were predicted: Dice and surface Dice 0, distances "
    "and volume error infinite",
    "absent": "both masks are without voxels: undefined in every metric, not counted in n",
    "not contoured": "the reference has no mask of the organ: not scored, not counted in n",
    "not predicted": "the prediction names the organ in no case at all: not scored, not counted in n; name the organs "
    "by a preset to have them counted as missed",
    "n": "cases that are scored, missed or spurious",
    "mean": "of the finite values: Dice and surface Dice of all n cases, distances of n - missed - spurious cases",
    "std": "sample standard deviation (n - 1) of the values in the mean",
    "median": "of all n values, infinite ones included",
    "mean of organs": "every organ counts once, whatever its n",
    "json": "infinite numbers are the text 'inf', undefined ones null",
}
COMPARISON_CONVENTIONS = {
    "difference": "prediction - other, case by case",
    "interval": f"{CONFIDENCE:.0%} studentized bootstrap interval of the mean difference, {NUM_RESAMPLES} resamples of "
    "cases that have a finite value on both sides",
    "p": "two-sided Wilcoxon signed-rank test over all cases; an organ that only one side missed is the largest "
    "difference; 1 if no case differs",
    "p_corrected": "by Holm's method, for the number of organs, metric by metric",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is written and shown.

    Attributes:
        evaluation: scores of single organs.
        summaries: one per organ.
        groups: means over organs.
        comparisons: with another prediction; empty without one.
        worst: per organ the case that is worst by Dice, then those by HD95.
        worst_cases: (case id, mean Dice below the organs' medians).
        origin: paths, options, tolerances and where they come from.
    """

    evaluation: Evaluation
    summaries: Sequence[OrganSummary]
    groups: Sequence[OrganSummary]
    comparisons: Sequence[Comparison]
    worst: Sequence[Worst]
    worst_cases: Sequence[tuple[str, float]]
    origin: Mapping[str, Any]


def build_report(
    evaluation: Evaluation,
    other: Evaluation | None,
    small_organs: Sequence[str] | None,
    origin: Mapping[str, Any],
) -> Report:
    """Summarize an evaluation.

    Args:
        evaluation: of the prediction.
        other: of the prediction to compare it with.
        small_organs: names, or None if nobody knows.
        origin: for the record.
    """
    rows, organs = evaluation.rows, evaluation.organs
    summaries = summarize(rows, organs)
    by_key = {metric.key: metric for metric in METRICS}
    return Report(
        evaluation=evaluation,
        summaries=summaries,
        groups=summarize_groups(summaries, small_organs),
        comparisons=compare(rows, other.rows, organs) if other else [],
        worst=[w for key in ("dice", "hd95_mm") for w in worst_per_organ(rows, organs, by_key[key])],
        worst_cases=worst_cases(rows),
        origin=origin,
    )


def score_table(report: Report, metrics: Sequence[Metric] = COMPARED_METRICS) -> Table:
    """Organs as rows: n, missed, and per metric mean ± standard deviation and median."""
    headings = ["organ", "n", "missed"]
    for metric in metrics:
        headings += [f"{metric.heading} mean ± std", "median"]
        if metric.key == "surface_dice":
            headings.append("at mm")
    scored = [summary for summary in report.summaries if summary.n]
    return Table(
        headings=headings,
        rows=[_score_row(summary, metrics) for summary in scored],
        groups=[_score_row(group, metrics) for group in report.groups],
        notes=_table_notes(report),
    )


def comparison_table(report: Report, metric: Metric) -> Table:
    """Paired differences in one metric, organs as rows."""
    own = [comparison for comparison in report.comparisons if comparison.metric == metric.key]
    headings = [f"{metric.heading}", "n", "missed", "other missed", "mean difference", "95 % interval", "p", "p (Holm)"]
    return Table(headings=headings, rows=[_comparison_row(comparison, metric.digits + 1) for comparison in own])


def worst_table(report: Report) -> Table:
    """Per organ the cases to look at."""
    by_metric = {metric: {w.organ: w for w in report.worst if w.metric == metric} for metric in ("dice", "hd95_mm")}
    rows = [
        [organ, low.case_id, format_number(low.value, 3), far.case_id, format_number(far.value, 2)]
        for organ, low in by_metric["dice"].items()
        for far in [by_metric["hd95_mm"][organ]]
    ]
    notes = [f"{case_id}: its organs are {-gap:.3f} below their median Dice" for case_id, gap in report.worst_cases]
    return Table(
        headings=["organ", "worst Dice in", "Dice", "worst HD95 in", "HD95 (mm)"],
        rows=rows,
        notes=["Cases that fall furthest below the others:", *notes] if notes else [],
    )


def format_console_report(report: Report) -> str:
    """What a person reads after the run."""
    parts = [to_text(score_table(report)), to_text(worst_table(report))]
    if report.comparisons:
        parts.append(f"Prediction - {report.origin['compare']}")
        parts += [to_text(comparison_table(report, metric)) for metric in COMPARED_METRICS]
    return "\n\n".join(parts)


def write_report(folder: Path, report: Report, *, markdown: bool = False, latex: bool = False) -> None:
    """Write scores.csv (a line per case and organ), summary.csv, summary.json, and what else is asked for.

    Tables of an earlier report in the same folder that this one does not have are removed.
    """
    texts = {"scores.csv": _scores_csv(report), "summary.csv": _summary_csv(report)}
    tables = {"scores": score_table(report)}
    if report.comparisons:
        texts["comparison.csv"] = _comparison_csv(report)
        tables |= {f"comparison_{metric.key}": comparison_table(report, metric) for metric in COMPARED_METRICS}
    for name, table in tables.items():
        texts |= {f"{name}.md": to_markdown(table)} if markdown else {}
        texts |= {f"{name}.tex": to_latex(table)} if latex else {}
    for name, text in texts.items():
        write_text(folder / name, text)
    write_json(folder / "summary.json", _json_ready(_record(report)))
    for path in [*folder.glob("comparison*.*"), *folder.glob("scores.*")]:
        if path.name not in texts:
            path.unlink()


def _score_row(summary: OrganSummary, metrics: Sequence[Metric]) -> list[str]:
    is_group = math.isnan(summary.tolerance_mm)
    cells = [summary.name, str(summary.n), str(summary.missed)]
    for metric in metrics:
        own = summary.statistics[metric.key]
        cells += [
            format_mean(own.mean, own.std, metric.digits),
            "" if is_group else format_number(own.median, metric.digits),
        ]
        if metric.key == "surface_dice":
            cells.append("" if is_group else f"{summary.tolerance_mm:g}")
    return cells


def _table_notes(report: Report) -> list[str]:
    notes = []
    if any(summary.missed or summary.counts.get(Status.SPURIOUS) for summary in report.summaries):
        notes.append("Missed organs score Dice 0 and are in its mean; the mean distance is over the other cases.")
    texts = {
        Status.SPURIOUS: "Predicted though the reference mask is empty (scored like missed)",
        Status.ABSENT: "Empty in prediction and reference (not scored)",
        Status.NOT_CONTOURED: "Not contoured (not scored)",
        Status.NOT_PREDICTED: "In no prediction at all (not scored; --preset counts them as missed)",
    }
    for status, text in texts.items():
        counts = [(summary.name, summary.counts.get(status, 0)) for summary in report.summaries]
        listed = ", ".join(f"{name} {count}" for name, count in counts if count)
        if listed:
            notes.append(f"{text}: {listed}.")
    if report.evaluation.failures:
        notes.append(f"Failed cases (not in the table): {', '.join(sorted(report.evaluation.failures))}.")
    if report.evaluation.ignored:
        notes.append(f"Not in the preset (not scored): {', '.join(report.evaluation.ignored)}.")
    return notes


def _comparison_row(comparison: Comparison, digits: int) -> list[str]:
    interval = comparison.interval
    if comparison.identical:
        shown = ["identical", "", "1", "1"]
    else:
        limits = [format_number(limit, digits) for limit in interval]
        shown = [
            format_number(comparison.mean_difference, digits),
            "-" if math.isnan(interval.low) else f"{limits[0]} to {limits[1]}",
            _format_p(comparison.p),
            _format_p(comparison.p_corrected),
        ]
    return [comparison.organ, str(comparison.n), str(comparison.missed), str(comparison.other_missed), *shown]


def _format_p(p: float) -> str:
    return "<0.0001" if p < 0.0001 else format_number(p, 4)


def _scores_csv(report: Report) -> str:
    fields = list(OrganScores.__dataclass_fields__)
    rows = [
        [row.case_id, row.organ, row.status.value, row.tolerance_mm]
        + [math.nan if row.scores is None else getattr(row.scores, name) for name in fields]
        for row in report.evaluation.rows
    ]
    return to_csv(["case", "organ", "status", "tolerance_mm", *fields], rows)


def _comparison_csv(report: Report) -> str:
    columns = [name for name in Comparison.__dataclass_fields__ if name != "interval"]
    rows = [[*(getattr(c, name) for name in columns), *c.interval] for c in report.comparisons]
    return to_csv([*columns, "interval_low", "interval_high"], rows)


def _summary_csv(report: Report) -> str:
    statistics = ("mean", "std", "median", "n")
    headings = ["organ", "n", *(status.value for status in Status), "tolerance_mm"]
    headings += [f"{metric.key}_{name}" for metric in METRICS for name in statistics]
    rows = [
        [
            summary.name,
            summary.n,
            *(summary.counts.get(status, 0) for status in Status),
            summary.tolerance_mm,
            *(getattr(summary.statistics[metric.key], name) for metric in METRICS for name in statistics),
        ]
        for summary in [*report.summaries, *report.groups]
    ]
    return to_csv(headings, rows)


def _record(report: Report) -> dict[str, Any]:
    content = {
        "origin": report.origin,
        "definitions": {metric.key: metric.definition for metric in METRICS} | CONVENTIONS,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "failed_cases": {case_id: failure.reason for case_id, failure in report.evaluation.failures.items()},
        "organs": [asdict(summary) for summary in report.summaries],
        "means": [asdict(group) for group in report.groups],
        "worst": [asdict(worst) for worst in report.worst],
        "worst_cases": [{"case_id": case_id, "dice_below_median": -gap} for case_id, gap in report.worst_cases],
        "structures_not_in_preset": report.evaluation.ignored,
    }
    if report.comparisons:
        content["definitions"] |= COMPARISON_CONVENTIONS
        content["comparisons"] = [asdict(comparison) for comparison in report.comparisons]
    return content


def _json_ready(value: object) -> object:
    """JSON has neither NaN nor infinity."""
    if isinstance(value, Mapping):
        return {str(key): _json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value

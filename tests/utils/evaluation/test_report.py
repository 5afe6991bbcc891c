"""utils/evaluation/report.py: printed tables and written files."""

import csv
import json

import pytest

from utils.evaluation.evaluate import Evaluation
from utils.evaluation.metrics import METRICS, OrganScores, ScoreRow, Status
from utils.evaluation.report import EvaluationReport, comparison_table, format_console_report, score_table, write_report


def make(case_id, organ, dice, hd95_mm, status=Status.SCORED):
    values = dict.fromkeys(OrganScores.__dataclass_fields__, 0.25) | {"dice": dice, "hd95_mm": hd95_mm}
    scores = None if status is Status.NOT_CONTOURED else OrganScores(**values)
    return ScoreRow(case_id=case_id, organ=organ, status=status, tolerance_mm=2.5, scores=scores)


def evaluation(shift=0.0, **changes):
    rows = [make(f"c{i}", "brainstem", 0.8 + 0.01 * i - shift, 2.0) for i in range(6)]
    rows += [make("c0", "chiasm", 0.0, float("inf"), Status.MISSED), make("c1", "chiasm", 0, 0, Status.NOT_CONTOURED)]
    options = {"rows": tuple(rows), "organs": ("brainstem", "chiasm"), "failures": {}, "unmatched_structures": ()}
    return Evaluation(**options | changes)


@pytest.fixture
def report():
    return EvaluationReport(evaluation(), evaluation(shift=0.1), ("chiasm",), {"compare": "other"})


def test_score_table_shows_organs_groups_and_organs_without_scores(report):
    table = score_table(report, METRICS[:2])
    assert list(table.headings) == [
        "organ",
        "n",
        "missed",
        "Dice mean ± std",
        "median",
        "HD95 (mm) mean ± std",
        "median",
    ]
    assert table.rows == [
        ["brainstem", "6", "0", "0.825 ± 0.019", "0.825", "2.00 ± 0.00", "2.00"],
        ["chiasm", "1", "1", "0.000", "0.000", "-", "∞"],
    ]
    assert [row[:4] for row in table.groups] == [
        ["mean of large", "6", "0", "0.825"],
        ["mean of small", "1", "1", "0.000"],
        ["mean of all", "7", "1", "0.413"],
    ]
    assert table.notes[1] == "Not contoured (not scored): chiasm 1."


def test_comparison_table_shows_the_shift_and_says_identical(report):
    dice, hd95 = (comparison_table(report, metric) for metric in METRICS[:2])
    assert dice.rows[0][:7] == ["brainstem", "6", "0", "0", "0", "0.1000", "0.1000 to 0.1000"]
    assert hd95.rows[0][5:] == ["identical", "", "1", "1"]


def test_the_console_shows_scores_worst_cases_and_comparison(report):
    text = format_console_report(report)
    assert "mean of small" in text
    assert "worst Dice in" in text
    assert "Prediction - other" in text


def test_files_hold_every_score_and_valid_json(report, tmp_path):
    write_report(tmp_path, report, markdown=True, latex=True)
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        rows = {(row["case"], row["organ"]): row for row in csv.DictReader(file)}
    assert (rows["c2", "brainstem"]["dice"], rows["c2", "brainstem"]["status"]) == ("0.82", "scored")
    assert (rows["c0", "chiasm"]["hd95_mm"], rows["c0", "chiasm"]["status"]) == ("inf", "missed")
    assert (rows["c1", "chiasm"]["dice"], rows["c1", "chiasm"]["status"]) == ("", "not contoured")
    content = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["organs"][0]["statistics"]["dice"]["mean"] == pytest.approx(0.825)
    assert content["organs"][1]["counts"] == {"missed": 1, "not contoured": 1}
    assert content["organs"][1]["statistics"]["hd95_mm"] == {"mean": None, "std": None, "median": "inf", "n": 0}
    assert content["versions"]["surface-distance"] == "0.1"
    assert {metric.key for metric in METRICS} <= set(content["definitions"])
    assert content["comparisons"][0]["mean_difference"] == pytest.approx(0.1)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"summary.csv", "comparison.csv", "scores.md", "scores.tex", "comparison_hd95_mm.md"} <= names


def test_without_comparison_and_preset_there_is_less(report, tmp_path):
    write_report(tmp_path, report, markdown=True, latex=True)
    report = EvaluationReport(evaluation(), None, None, {})
    write_report(tmp_path, report)
    assert {path.name for path in tmp_path.iterdir()} == {"scores.csv", "summary.csv", "summary.json"}
    assert "mean of large" not in format_console_report(report)

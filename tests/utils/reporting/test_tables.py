"""utils/reporting/tables.py: tables as text, Markdown, LaTeX and CSV."""

import math

from utils.reporting.tables import Table, format_mean, format_number, to_csv, to_latex, to_markdown, to_text

TABLE = Table(
    headings=["organ", "Dice"],
    rows=[["optic_nerve", "0.800 ± 0.100"], ["a|b", "-"]],
    groups=[["mean", "0.8"]],
    notes=["50 % are left out."],
)


def test_numbers():
    assert format_number(1.2345, 2) == "1.23"
    assert format_number(math.nan, 2) == "-"
    assert format_number(math.inf, 2) == "∞"
    assert format_mean(0.5, math.nan, 1) == "0.5"
    assert format_mean(0.5, 0.25, 2) == "0.50 ± 0.25"


def test_text_aligns_columns():
    assert to_text(TABLE).splitlines() == [
        "organ                 Dice",
        "--------------------------",
        "optic_nerve  0.800 ± 0.100",
        "a|b                      -",
        "--------------------------",
        "mean                   0.8",
        "50 % are left out.",
    ]


def test_markdown_escapes_pipes():
    lines = to_markdown(TABLE).splitlines()
    assert lines[:4] == ["| organ | Dice |", "|---|---:|", "| optic_nerve | 0.800 ± 0.100 |", r"| a\|b | - |"]
    assert lines[4] == "| **mean** | 0.8 |"


def test_latex_escapes_what_latex_would_read():
    text = to_latex(TABLE)
    assert r"optic\_nerve & 0.800 $\pm$ 0.100 \\" in text
    assert text.startswith("% 50 % are left out.\n\\begin{tabular}{lr}\n\\toprule\norgan & Dice \\\\\n")


def test_csv_leaves_undefined_numbers_empty():
    rows = [{"a": 1, "b": math.nan, "c": math.inf, "d": 1}, {"a": "x,y", "b": 0.5, "c": -math.inf}, {"b": 1 / 3}]
    assert to_csv(["a", "b", "c"], rows).splitlines() == ["a,b,c", "1,,inf", '"x,y",0.5,-inf', ",0.333333333,"]

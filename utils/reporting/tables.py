"""Tables of numbers as plain text, Markdown, LaTeX and CSV."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = "-"
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "<": "$<$",
    ">": "$>$",
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose cells are text already.

    Attributes:
        headings: one per column.
        rows: the body.
        groups: rows below a line, such as means.
        notes: sentences below the table.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    groups: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()


def format_number(value: float, digits: int) -> str:
    """A number with fixed decimals; `NOTHING` for NaN."""
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{digits}f}"


def format_mean(mean: float, std: float, digits: int) -> str:
    """mean ± std, or what there is of it."""
    if math.isnan(std):
        return format_number(mean, digits)
    return f"{format_number(mean, digits)} ± {format_number(std, digits)}"


def to_text(table: Table) -> str:
    """Columns aligned with blanks, for a screen; the first to the left, the others to the right."""
    body = [*table.rows, *table.groups]
    widths = [max(len(row[i]) for row in [table.headings, *body]) for i in range(len(table.headings))]
    line = "-" * (sum(widths) + 2 * (len(widths) - 1))

    def align(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    lines = [align(table.headings), line, *map(align, table.rows)]
    if table.groups:
        lines += [line, *map(align, table.groups)]
    return "\n".join([*lines, *table.notes])


def to_markdown(table: Table) -> str:
    """A pipe table; notes follow as paragraphs."""

    def join(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"

    ruler = "|" + "|".join(["---", *["---:"] * (len(table.headings) - 1)]) + "|"
    bold = [[f"**{cell}**" if i == 0 else cell for i, cell in enumerate(row)] for row in table.groups]
    lines = [join(table.headings), ruler, *map(join, [*table.rows, *bold])]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """A tabular for the booktabs package, with notes as comments; paste it into a table environment."""

    def join(row: Sequence[str]) -> str:
        return " & ".join("".join(LATEX_SPECIAL.get(c, c) for c in cell) for cell in row) + r" \\"

    columns = "l" + "r" * (len(table.headings) - 1)
    lines = [*(f"% {note}" for note in table.notes), rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [join(table.headings), r"\midrule", *map(join, table.rows)]
    if table.groups:
        lines += [r"\midrule", *map(join, table.groups)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Comma-separated values; numbers with nine significant digits, NaN as an empty cell, infinity as `inf`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headings)
    writer.writerows([[_csv_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"

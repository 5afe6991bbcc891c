"""Formats tables as plain text, Markdown, LaTeX and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LATEX_ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"±": r"$\pm$", "∞": r"$\infty$", "<": "$<$", ">": "$>$"}
)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text cells."""

    headings: Sequence[str]
    """One per column."""
    rows: Sequence[Sequence[str]]
    """The body."""
    groups: Sequence[Sequence[str]] = ()
    """Rows below a second line, such as means."""
    notes: Sequence[str] = ()
    """Sentences below the table."""


def format_number(value: float, digits: int) -> str:
    """Format a number with fixed decimals; NaN becomes "-"."""
    return "-" if math.isnan(value) else f"{value:.{digits}f}".replace("inf", "∞")


def format_mean(mean: float, std: float, digits: int) -> str:
    """Format mean ± std; an std of NaN is left out."""
    return format_number(mean, digits) + ("" if math.isnan(std) else f" ± {format_number(std, digits)}")


def to_text(table: Table) -> str:
    """Format as aligned columns: the first left-aligned, the others right-aligned."""
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
    """Format as a Markdown table; notes follow as paragraphs."""

    def join(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |"

    ruler = "|" + "|".join(["---", *["---:"] * (len(table.headings) - 1)]) + "|"
    bold = [[f"**{cell}**" if i == 0 else cell for i, cell in enumerate(row)] for row in table.groups]
    lines = [join(table.headings), ruler, *map(join, [*table.rows, *bold])]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """Format as a `tabular` for the booktabs package; notes become comments."""

    def join(row: Sequence[str]) -> str:
        return " & ".join(cell.translate(LATEX_ESCAPES) for cell in row) + r" \\"

    columns = "l" + "r" * (len(table.headings) - 1)
    lines = [*(f"% {note}" for note in table.notes), rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [join(table.headings), r"\midrule", *map(join, table.rows)]
    if table.groups:
        lines += [r"\midrule", *map(join, table.groups)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Format as CSV: floats with nine significant digits, infinity as `inf`, NaN and missing values as an empty cell.

    Args:
        columns: the keys to write; others are left out.
        rows: value by column.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.9g}"

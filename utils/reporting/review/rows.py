"""The table of a review page from the report of a segmented case."""

from collections.abc import Iterable, Mapping
from typing import Any

from utils.config.preset import Preset
from utils.reporting.review.page import OrganRow

REPORT_COLUMNS = {"volume (ml)": "volume_ml", "confidence": "confidence", "plausibility": "plausibility"}
"""Entries of the report by heading; a column without any value is left out."""


def report_rows(organs: Mapping[str, Mapping[str, Any]], preset: Preset) -> list[OrganRow]:
    """One row per organ, those to look at first first.

    Args:
        organs: of `build_organ_report`.
        preset: of the model.
    """
    measured = {
        heading: key for heading, key in REPORT_COLUMNS.items() if any(key in organ for organ in organs.values())
    }
    rows = [
        OrganRow(
            name=organ.name,
            color=organ.color,
            label=organs[organ.name]["label"],
            values={heading: organs[organ.name].get(key) for heading, key in measured.items()},
            flags=organs[organ.name]["flags"],
        )
        for organ in preset.organs
    ]
    return by_attention(rows, "confidence")


def by_attention(rows: Iterable[OrganRow], heading: str) -> list[OrganRow]:
    """Sort rows by what to look at first: many flags, then low values of a column; organs without a value come last."""

    def urgency(row: OrganRow) -> tuple[int, bool, float]:
        value = row.values.get(heading)
        is_known = isinstance(value, float | int)
        return -len(row.flags), not is_known, value if is_known else 0.0

    return sorted(rows, key=urgency)

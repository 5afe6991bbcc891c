"""Which cases of a cohort are done, and one table of all of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.case_output import OutputFiles
from utils.files import read_json, write_text
from utils.preset import Preset
from utils.tables import to_csv

SUMMARY_COLUMNS = (
    "case",
    "organ",
    "num_voxels",
    "volume_ml",
    "components",
    "x_mm",
    "y_mm",
    "z_mm",
    "confidence",
    "peak",
    "plausibility",
    "flags",
)
SAME = ("ct", "settings")
"""What a report must have in common with this run for its case to be done."""


def finished_report(files: OutputFiles, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a case that was segmented before from the same CT with the same settings, or None.

    Args:
        files: of the case.
        run: what the report of this run would say of `SAME`.
    """
    if not (files.report.is_file() and files.label.is_file()):
        return None
    try:
        report = read_json(files.report)
    except ValueError:
        return None
    return report if all(report.get(key) == run[key] for key in SAME) else None


def write_summary(
    path: Path, reports: Mapping[str, Mapping[str, Any]], failures: Mapping[str, str], preset: Preset
) -> None:
    """Write a CSV with a row per case and organ, and one for every case that failed.

    Args:
        path: target.
        reports: case id to report.
        failures: case id to reason.
        preset: order of the organs.
    """
    rows = []
    for case_id in sorted({*reports, *failures}):
        if case_id in failures:
            rows.append([case_id, *[""] * (len(SUMMARY_COLUMNS) - 2), f"failed: {failures[case_id]}"])
            continue
        for name in preset.organ_names:
            organ = reports[case_id]["organs"][name]
            center = organ.get("center_xyz_mm", ["", "", ""])
            measured = [organ.get(key, "") for key in SUMMARY_COLUMNS[2:5]]
            judged = [organ.get(key, "") for key in SUMMARY_COLUMNS[8:11]]
            rows.append([case_id, name, *measured, *center, *judged, "; ".join(organ["flags"])])
    write_text(path, to_csv(SUMMARY_COLUMNS, rows))

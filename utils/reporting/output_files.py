"""The output files of a segmented case, and the summary of a cohort; each file appears complete or not at all."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.imaging.geometry import Geometry
from utils.io.color_table import segment_metadata
from utils.io.files import atomic_write, read_json, write_text
from utils.io.volumes import Volume, write_volume
from utils.reporting.tables import to_csv

FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
PROBABILITY_DECIMALS = 3
"""Further decimals are noise and do not compress."""


class OutputFiles:
    """Paths of the files of one case; the report is written last, so a case with a report is complete."""

    def __init__(self, folder: Path, case_id: str, format: str) -> None:
        """`folder` is the output folder of the cohort; `format` is one of `FORMATS`."""
        self.folder, self.format = folder, format
        self.report = folder / f"{case_id}.json"
        self.label = folder / f"{case_id}.{format}"
        self.overlay = folder / f"{case_id}.png"
        self.rtstruct = folder / f"{case_id}.rtstruct.dcm"
        self.masks = folder / f"{case_id}_masks"
        self.probabilities = folder / f"{case_id}_probabilities"

    def remove_temp_files(self) -> None:
        """Remove the report and the temporary files of a killed run, before the case is written again."""
        self.report.unlink(missing_ok=True)
        for path in (self.label, self.report, self.overlay, self.rtstruct):
            for partial in self.folder.glob(f".{path.name}.*.partial*"):
                partial.unlink(missing_ok=True)

    def write_label(self, label: Volume, preset: Preset) -> None:
        """Write the label map, with names and colors if the format can store them."""
        write_volume(self.label, label, segment_metadata(preset))

    def write_masks(self, label: Volume, preset: Preset) -> None:
        """Write one binary mask per organ; the mask of a missing organ is empty."""
        masks = ((label.array == value).astype(np.uint8) for value in range(1, len(preset.organs) + 1))
        self._write_per_organ(self.masks, masks, label.geometry, preset)

    def write_probabilities(self, probabilities: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        """Write one volume per organ of `probabilities`, (D, H, W) float32, 0..1; only one is in memory at a time."""
        rounded = (np.round(values, PROBABILITY_DECIMALS) for values in probabilities)
        self._write_per_organ(self.probabilities, rounded, geometry, preset)

    def _write_per_organ(self, folder: Path, arrays: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        with atomic_write(folder) as partial:
            partial.mkdir()
            for name, array in zip(preset.organ_names, arrays, strict=True):
                write_volume(partial / f"{name}.{self.format}", Volume(array=array, geometry=geometry))


CENTER_COLUMNS = ("x_mm", "y_mm", "z_mm")
SUMMARY_COLUMNS = ["case", "organ", "num_voxels", "volume_ml", "components", *CENTER_COLUMNS]
SUMMARY_COLUMNS += ["confidence", "peak", "plausibility", "flags"]


def load_if_up_to_date(files: OutputFiles, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a case that was segmented before, or None.

    Args:
        files: of the case.
        source: entries in which the report must agree with this run: the CT and the settings.
    """
    try:
        report = read_json(files.report)
    except UserError:  # missing or damaged
        return None
    is_same = all(report.get(key) == value for key, value in source.items())
    return report if is_same and files.label.is_file() else None


def write_summary(
    path: Path, reports: Mapping[str, Mapping[str, Any]], failures: Mapping[str, CaseFailure], preset: Preset
) -> None:
    """Write a CSV with one row per case and organ, in the preset's order, and one per failed case."""
    rows: list[dict[str, Any]] = []
    for case_id in sorted({*reports, *failures}):
        if case_id in failures:
            rows.append({"case": case_id, "flags": f"failed: {failures[case_id]}"})
            continue
        for name in preset.organ_names:
            organ = reports[case_id]["organs"][name]
            center = dict(zip(CENTER_COLUMNS, organ.get("center_xyz_mm", ()), strict=False))
            rows.append({**organ, **center, "case": case_id, "organ": name, "flags": "; ".join(organ["flags"])})
    write_text(path, to_csv(SUMMARY_COLUMNS, rows))

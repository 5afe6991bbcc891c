"""The files of one segmented case, each of which appears complete or not at all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.preset import Preset
from utils.errors import CaseFailure
from utils.imaging.geometry import Geometry
from utils.io.color_table import segment_metadata
from utils.io.files import atomic_write, read_json, write_text
from utils.io.volumes import Volume, write_volume
from utils.reporting.tables import to_csv

FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
PROBABILITY_DECIMALS = 3
"""Finer steps are noise, which does not compress."""


@dataclass(frozen=True, kw_only=True)
class OutputFiles:
    """Where the files of a case go.

    Attributes:
        folder: of the whole output.
        case_id: begins the names of all files.
        format: of volumes, one of `FORMATS`.
    """

    folder: Path
    case_id: str
    format: str

    @property
    def report(self) -> Path:
        """Written last: a case that has it is complete."""
        return self.folder / f"{self.case_id}.json"

    @property
    def label(self) -> Path:
        return self.folder / f"{self.case_id}.{self.format}"

    @property
    def overlay(self) -> Path:
        return self.folder / f"{self.case_id}.png"

    @property
    def rtstruct(self) -> Path:
        return self.folder / f"{self.case_id}.rtstruct.dcm"

    @property
    def masks(self) -> Path:
        return self.folder / f"{self.case_id}_masks"

    @property
    def probabilities(self) -> Path:
        return self.folder / f"{self.case_id}_probabilities"

    def remove_temp_files(self) -> None:
        """Remove the report and what a killed run left under temporary names, before the case is written again."""
        self.report.unlink(missing_ok=True)
        for path in (self.label, self.report, self.overlay, self.rtstruct):
            for remains in self.folder.glob(f".{path.name}.*.partial*"):
                remains.unlink(missing_ok=True)

    def write_label(self, label: Volume, preset: Preset) -> None:
        """The label map, with names and colors where the format holds them."""
        write_volume(self.label, label, segment_metadata(preset))

    def write_masks(self, label: Volume, preset: Preset) -> None:
        """One binary mask per organ; that of an organ not found is empty."""
        masks = ((label.array == value).astype(np.uint8) for value in range(1, len(preset.organs) + 1))
        self._write_per_organ(self.masks, masks, label.geometry, preset)

    def write_probabilities(self, probabilities: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        """One volume of probabilities per organ.

        Args:
            probabilities: (D, H, W) float32 per organ, made one at a time.
            geometry: of the CT.
            preset: the organs.
        """
        rounded = (np.round(values, PROBABILITY_DECIMALS) for values in probabilities)
        self._write_per_organ(self.probabilities, rounded, geometry, preset)

    def _write_per_organ(self, folder: Path, arrays: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        with atomic_write(folder) as partial:
            partial.mkdir()
            for name, array in zip(preset.organ_names, arrays, strict=True):
                write_volume(partial / f"{name}.{self.format}", Volume(array=array, geometry=geometry))


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
CACHE_KEYS = ("ct", "settings")
"""What a report must have in common with this run for its case to be done."""


def load_if_up_to_date(files: OutputFiles, run: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a case that was segmented before from the same CT with the same settings, or None.

    Args:
        files: of the case.
        run: what the report of this run would say of `CACHE_KEYS`.
    """
    if not (files.report.is_file() and files.label.is_file()):
        return None
    try:
        report = read_json(files.report)
    except ValueError:
        return None
    return report if all(report.get(key) == run[key] for key in CACHE_KEYS) else None


def write_summary(
    path: Path, reports: Mapping[str, Mapping[str, Any]], failures: Mapping[str, CaseFailure], preset: Preset
) -> None:
    """Write a CSV with a row per case and organ, and one for every case that failed.

    Args:
        path: target.
        reports: case id to report.
        failures: by case id.
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

"""The output files of a segmented case, which appear together or not at all, and the summary of a cohort."""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from utils.config.preset import Preset
from utils.errors import CaseFailure
from utils.imaging.geometry import Geometry
from utils.io.color_table import segment_metadata
from utils.io.files import move_all, remove_partials, staging_folder, write_json, write_text
from utils.io.own_files import checksum, files_at, read_record, require_own
from utils.io.volumes import Volume, volume_stem, write_volume
from utils.reporting.tables import to_csv

FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
PROBABILITY_DECIMALS = 3
"""Further decimals are noise and do not compress."""
REPORT_KEYS = ("ct", "settings", "organs")
PER_ORGAN_FOLDER = re.compile("(.+)_(?:masks|probabilities)")


class OutputFiles:
    """Paths of the files of one case.

    They appear together: they are written into a folder of their own (`staged`) and moved to their places at the end.
    The report lists the others with their checksums, by which `own_files` finds them again.
    """

    def __init__(self, folder: Path, case_id: str, format: str) -> None:
        """`folder` is the output folder of the cohort; `format` is one of `FORMATS`."""
        self.folder, self.case_id, self.format = folder, case_id, format
        self.report = folder / f"{case_id}.json"
        self.label = folder / f"{case_id}.{format}"
        self.overlay = folder / f"{case_id}.png"
        self.review = folder / f"{case_id}.html"
        self.rtstruct = folder / f"{case_id}.rtstruct.dcm"
        self.dicom_seg = folder / f"{case_id}.seg.dcm"
        self.masks = folder / f"{case_id}_masks"
        self.probabilities = folder / f"{case_id}_probabilities"

    def recorded_files(self) -> dict[Path, str | None]:
        """The files that the case's report lists, and their checksums; None in a report of an earlier release."""
        report = read_record(self.report, REPORT_KEYS)
        if report is None:
            return {}
        labels = {format: self.folder / f"{self.case_id}.{format}" for format in FORMATS}
        pictures, dicom = (self.overlay, self.review), (self.rtstruct, self.dicom_seg)
        others = (*pictures, *dicom, self.masks, self.probabilities)
        existing = [file for path in (*labels.values(), *others) for file in files_at(path)]
        if "files" not in report:
            own_label = labels.get(report["settings"].get("format"))
            return {path: None for path in existing if path == own_label or path not in labels.values()}
        names = {path: path.relative_to(self.folder).as_posix() for path in existing}
        return {path: report["files"][name] for path, name in names.items() if name in report["files"]}

    def own_files(self) -> set[Path]:
        """The files that an earlier run wrote for the case and that have not changed since, with the report."""
        recorded = self.recorded_files()
        own = {path for path, expected in recorded.items() if expected in (None, checksum(path))}
        return own | ({self.report} if read_record(self.report, REPORT_KEYS) else set())

    @contextmanager
    def staged(self) -> Iterator["OutputFiles"]:
        """A temporary folder for the case's new files, which `replace_by` moves; those of killed runs are removed."""
        pictures, dicom = (self.overlay, self.review), (self.rtstruct, self.dicom_seg)
        others = (self.report, self.label, *pictures, *dicom, self.masks, self.probabilities)
        for path in (self.folder / self.case_id, *others):
            remove_partials(path)
        with staging_folder(self.folder / self.case_id) as folder:
            yield OutputFiles(folder, self.case_id, self.format)

    def replace_by(self, staged: "OutputFiles", report: Mapping[str, Any]) -> dict[str, Any]:
        """Replace the case's own files by those of `staged`, and return the report, completed by their checksums.

        The old report goes last and the new one comes first: if the process is killed in between, a report still says
        which files are own.

        Raises:
            UserError: a file that is not the case's own is in the way, or another program has one open: nothing is
                replaced then.
        """
        written = files_at(staged.folder)
        checksums = {path.relative_to(staged.folder).as_posix(): checksum(path) for path in written}
        report = {**report, "files": checksums}
        write_json(staged.report, report)
        own = self.own_files()
        others = [path for path in staged.folder.iterdir() if path != staged.report]
        require_own((self.report, *(self.folder / path.name for path in others)), own)
        replaced = staged.folder / ".replaced"
        replaced.mkdir()
        old = sorted(own, key=lambda path: path == self.report)
        moves = [(path, replaced / str(number)) for number, path in enumerate(old)]
        moves += [(path, self.folder / path.name) for path in (staged.report, *others)]
        move_all(moves)
        for folder in (self.masks, self.probabilities):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        return report

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
        for name, array in zip(preset.organ_names, arrays, strict=True):
            write_volume(folder / f"{name}.{self.format}", Volume(array=array, geometry=geometry))


CENTER_COLUMNS = ("x_mm", "y_mm", "z_mm")
SUMMARY_COLUMNS = ["case", "patient_id", "organ", "num_voxels", "volume_ml", "components", *CENTER_COLUMNS]
SUMMARY_COLUMNS += ["confidence", "peak", "plausibility", "flags", "case_flags"]


def load_if_up_to_date(files: OutputFiles, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """The report of a case that was segmented before and has all of its files, or None.

    Args:
        files: of the case.
        source: entries in which the report must agree with this run: the CT and the settings.
    """
    report = read_record(files.report, REPORT_KEYS)
    if report is None or any(report.get(key) != value for key, value in source.items()):
        return None
    names = report.get("files", [files.label.name])
    return report if all((files.folder / name).is_file() for name in names) else None


def is_output(volume: Path) -> bool:
    """Whether a volume is a label map, a mask or a probability of a segmented case, by the report of that case."""
    inner = PER_ORGAN_FOLDER.fullmatch(volume.parent.name)
    folder, case_id = (volume.parent.parent, inner[1]) if inner else (volume.parent, volume_stem(volume))
    return volume in OutputFiles(folder, case_id, FORMATS[0]).recorded_files()


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """The reports of all segmented cases in an output folder, by case id."""
    found = {path.stem: read_record(path, REPORT_KEYS) for path in folder.glob("[!.]*.json")}
    return {case_id: report for case_id, report in found.items() if report}


def require_own_summary(path: Path) -> None:
    """Check that a summary can be written: the file is absent, or a summary of earlier segmentations by its columns.

    Raises:
        UserError: another table has this name.
    """
    start = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if path.is_file() else ""
    require_own([path], [path] if {"case", "organ", "flags"} <= set(start.split(",")) else [])


def write_summary(path: Path, reports: Mapping[str, Mapping[str, Any]], failures: Mapping[str, CaseFailure]) -> None:
    """Write a CSV with one row per case and organ, in the order of the reports, and one per failed case."""
    rows: list[dict[str, Any]] = []
    for case_id in sorted({*reports, *failures}):
        if case_id in failures:
            rows.append({"case": case_id, "flags": f"failed: {failures[case_id]}"})
            continue
        report = reports[case_id]
        for name, organ in report["organs"].items():
            center = dict(zip(CENTER_COLUMNS, organ.get("center_xyz_mm", ()), strict=False))
            row = {"case": case_id, "patient_id": report.get("patient_id"), "organ": name, **organ, **center}
            flags = {key: "; ".join(one.get(key, ())) for key, one in (("flags", organ), ("case_flags", report))}
            rows.append(row | flags)
    write_text(path, to_csv(SUMMARY_COLUMNS, rows))

"""Writes a self-contained page with every prepared case, for a person to check before training."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from PIL import Image

from data_preprocess.cases import CaseInfo
from data_preprocess.quality_control.measurements import CaseQuality, format_ml, read_quality
from data_preprocess.quality_control.outliers import Finding, check_cases, not_compared
from data_preprocess.splits import read_splits
from utils.config.preset import Preset
from utils.errors import CaseFailure, shorten
from utils.io.files import write_text
from utils.reporting.tables import Table

PICTURE_WIDTH_PX = 900
PICTURE_QUALITY = 80
TEMPLATE = Path(__file__).with_suffix(".html.j2")


class InspectedCase(NamedTuple):
    """A prepared case and the findings about it."""

    info: CaseInfo
    split: str
    quality: CaseQuality | None
    """None for a case of an early version, which was not measured."""
    findings: list[Finding]


def inspect_cases(folder: Path, infos: Sequence[CaseInfo], preset: Preset) -> list[InspectedCase]:
    """Compare all cases of a folder with each other.

    Raises:
        UserError: splits.json or a quality.json is damaged.
    """
    split_of = {case_id: name for name, case_ids in read_splits(folder).items() for case_id in case_ids}
    qualities = {info.case_id: read_quality(folder / info.case_id) for info in infos}
    known = {case_id: quality for case_id, quality in qualities.items() if quality is not None}
    findings = check_cases(known, preset.left_right_pairs)
    return [
        InspectedCase(info, split_of.get(info.case_id, "-"), qualities[info.case_id], findings.get(info.case_id, []))
        for info in infos
    ]


def summary_table(cases: Sequence[InspectedCase], preset: Preset) -> Table:
    """One row per organ: number of cases, voxels and volume as contoured, and its names in the raw data.

    The notes say what the scans are and what was not compared.
    """
    rows = []
    for name in preset.organ_names:
        organs = [case.quality.organs[name] for case in cases if case.quality and name in case.quality.organs]
        num_contoured = sum(name in case.info.organs for case in cases)
        voxels = _range([organ.num_voxels for organ in organs], "{:.0f}".format)
        volumes = _range([organ.volume_ml for organ in organs], format_ml)
        rows.append([name, str(num_contoured), *voxels, *volumes, _raw_names(name, cases)])
    headings = ["organ", "cases", "voxels min", "median", "max", "ml min", "median", "max", "called in the raw data"]
    qualities = {case.info.case_id: case.quality for case in cases if case.quality}
    return Table(
        headings=headings, rows=rows, notes=[*_scan_notes(cases), *not_compared(qualities, preset.organ_names)]
    )


def write_report_page(
    path: Path, cases: Sequence[InspectedCase], preset: Preset, failures: Mapping[str, CaseFailure]
) -> None:
    """Write the page into the folder of the cases: the table, failures, and every case, those with findings first."""
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.render(
        cases=sorted(cases, key=lambda case: (not case.findings, case.info.case_id)),
        num_to_check=sum(bool(case.findings) for case in cases),
        preset=preset,
        summary=summary_table(cases, preset),
        failures=failures,
        format_ml=format_ml,
        preview=lambda case: _data_url(path.parent / case.info.case_id / "preview.png"),
    )
    write_text(path, page)


def _scan_notes(cases: Sequence[InspectedCase]) -> list[str]:
    splits = ", ".join(f"{count} {name}" for name, count in sorted(Counter(case.split for case in cases).items()))
    patients = {case.info.patient or case.info.case_id for case in cases}
    spacing = _extremes([case.info.original.spacing_zyx_mm for case in cases])
    size = _extremes([case.info.original.size_zyx for case in cases])
    notes = [
        f"{len(cases)} cases of {len(patients)} patients: {splits}",
        f"raw spacing (z, y, x) {spacing} mm; raw size {size} voxels",
    ]
    without_ct = sum(not case.info.has_image for case in cases)
    unmeasured = sum(case.quality is None for case in cases)
    left_out = [case.info.case_id for case in cases for _ in case.info.excluded]
    if left_out:
        notes.append(f"structures left out by --exclude: {len(left_out)} in {len(set(left_out))} cases")
    if without_ct:
        notes.append(f"cases without CT: {without_ct}; only train_autoencoder.py can use them")
    if unmeasured:
        notes.append(f"cases of an early version, not measured: {unmeasured}; prepare them again")
    return notes


def _raw_names(organ: str, cases: Sequence[InspectedCase]) -> str:
    """The names under which an organ was found, the most frequent first, with their numbers of cases."""
    counts = Counter(case.info.structures[organ] for case in cases if organ in case.info.structures)
    listed = [f"{name} ({count})" for name, count in counts.most_common()]
    return shorten(listed) if listed else "-"


def _extremes(triples: Sequence[tuple[float, float, float]]) -> str:
    low, high = (" x ".join(f"{v:.4g}" for v in ends) for ends in (np.min(triples, axis=0), np.max(triples, axis=0)))
    return low if low == high else f"{low} to {high}"


def _range(values: Sequence[float], form: Callable[[float], str]) -> list[str]:
    """Minimum, median and maximum."""
    return [form(value) for value in np.quantile(values, (0, 0.5, 1))] if values else ["-"] * 3


def _data_url(path: Path) -> str:
    """A picture, smaller, as a data URL."""
    with Image.open(path) as picture:
        scale = min(1, PICTURE_WIDTH_PX / picture.width)
        small = picture.convert("RGB").resize([round(n * scale) for n in picture.size], Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "WEBP", quality=PICTURE_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()

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
from data_preprocess.quality_control.outliers import Finding, check_cases
from data_preprocess.splits import read_splits
from utils.config.preset import Preset
from utils.errors import CaseFailure
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
    folder: Path


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
        InspectedCase(
            info=info,
            split=split_of.get(info.case_id, "-"),
            quality=qualities[info.case_id],
            findings=findings.get(info.case_id, []),
            folder=folder / info.case_id,
        )
        for info in infos
    ]


def summary_table(cases: Sequence[InspectedCase], preset: Preset) -> Table:
    """One row per organ: number of cases, voxels and volume as contoured. The notes describe the scans."""
    rows = []
    for name in preset.organ_names:
        organs = [case.quality.organs[name] for case in cases if case.quality and name in case.quality.organs]
        num_contoured = sum(name in case.info.organs for case in cases)
        voxels = _range([organ.num_voxels for organ in organs], "{:.0f}".format)
        rows.append([name, str(num_contoured), *voxels, *_range([organ.volume_ml for organ in organs], format_ml)])
    headings = ["organ", "cases", "voxels min", "median", "max", "ml min", "median", "max"]
    return Table(headings=headings, rows=rows, notes=_scan_notes(cases))


def write_report_page(
    path: Path, cases: Sequence[InspectedCase], preset: Preset, failures: Mapping[str, CaseFailure]
) -> None:
    """Write the page: the table, failed cases, and a row per case, those with findings first.

    Args:
        path: of the page.
        cases: from `inspect_cases`.
        preset: organs and their colors.
        failures: case id to reason, of cases that could not be prepared.
    """
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True, undefined=jinja2.StrictUndefined)
    page = template.render(
        cases=sorted(cases, key=lambda case: (not case.findings, case.info.case_id)),
        num_to_check=sum(bool(case.findings) for case in cases),
        preset=preset,
        summary=summary_table(cases, preset),
        failures=failures,
        facts=_facts,
        format_ml=format_ml,
        picture=_picture,
    )
    write_text(path, page)


def _scan_notes(cases: Sequence[InspectedCase]) -> list[str]:
    counts = Counter(case.split for case in cases)
    patients = {case.info.patient or case.info.case_id for case in cases}
    spacings = np.array([case.info.original.spacing_zyx_mm for case in cases])
    sizes = np.array([case.info.original.size_zyx for case in cases])
    notes = [
        f"{len(cases)} cases of {len(patients)} patients: "
        + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
        f"raw spacing (z, y, x) {_extremes(spacings, '{:.3g}')} mm; raw size {_extremes(sizes, '{:.0f}')} voxels",
    ]
    without_ct = sum(not case.info.has_image for case in cases)
    unmeasured = sum(case.quality is None for case in cases)
    if without_ct:
        notes.append(f"cases without CT: {without_ct}; only train_autoencoder.py can use them")
    if unmeasured:
        notes.append(f"cases of an early version, not measured: {unmeasured}; prepare them again")
    return notes


def _extremes(values: np.ndarray, form: str) -> str:
    low, high = (" x ".join(form.format(v) for v in ends) for ends in (values.min(axis=0), values.max(axis=0)))
    return low if low == high else f"{low} to {high}"


def _range(values: Sequence[float], form: Callable[[float], str]) -> list[str]:
    if not values:
        return ["-"] * 3
    return [form(value) for value in (min(values), float(np.median(values)), max(values))]


def _facts(case: InspectedCase) -> list[str]:
    info = case.info
    size = " x ".join(map(str, info.original.size_zyx))
    spacing = " x ".join(f"{s:.3g}" for s in info.original.spacing_zyx_mm)
    facts = [f"{case.split}; raw {size} voxels of {spacing} mm (z, y, x); {info.source}"]
    if info.patient and info.patient != info.case_id:
        facts.append(f"patient {info.patient}")
    if case.quality and case.quality.body_hu is not None:
        low, high, median = case.quality.lowest_hu, case.quality.highest_hu, case.quality.body_hu
        facts.append(f"HU {low:.0f} to {high:.0f}, median of the body {median:.0f}")
    facts += info.notes
    if info.unmatched_structures:
        facts.append(f"not in the preset: {', '.join(info.unmatched_structures)}")
    return facts


def _picture(case: InspectedCase) -> str:
    """The preview, smaller, as a data URL."""
    with Image.open(case.folder / "preview.png") as picture:
        scale = min(1, PICTURE_WIDTH_PX / picture.width)
        small = picture.convert("RGB").resize([round(n * scale) for n in picture.size], Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "WEBP", quality=PICTURE_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()

"""A self-contained page that shows every prepared case, for a person to look at before training."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_preprocess.cases import CaseInfo, read_splits
from data_preprocess.quality_control.measurements import CaseQuality, format_ml, read_quality
from data_preprocess.quality_control.outliers import Finding, check_cases
from utils.config.preset import Preset
from utils.errors import CaseFailure
from utils.io.files import write_text
from utils.reporting.tables import Table

PICTURE_WIDTH_PX = 900
PICTURE_QUALITY = 80
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2em auto; max-width: 1500px;
  padding: 0 1.5em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse } th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th { font-weight: 600 } td:first-child, th:first-child { text-align: left }
.case { display: flex; gap: 1.5em; padding: 1.2em 0; border-top: 1px solid #ccc }
.case img { width: 900px; max-width: 60vw; height: auto; background: #000; align-self: flex-start }
.case h3 { margin: 0 0 .3em; font-size: 1.05em; overflow-wrap: anywhere } .case .facts { flex: 1; min-width: 20em }
.case td, .case th { padding: .1em .6em; font-size: .9em }
.marks { color: #b00020; font-weight: 600; margin: .5em 0; padding-left: 1.2em }
.red, .marked h3 { color: #b00020 } td.marked { color: #b00020; font-weight: 600 }
.quiet { color: #555; font-size: .9em } .swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em }
body:has(#only:checked) .case:not(.marked) { display: none }
"""


class InspectedCase(NamedTuple):
    """A prepared case and what is to be said about it."""

    info: CaseInfo
    split: str
    quality: CaseQuality | None
    """None for a case of an earlier version, of which nothing was measured."""
    marks: list[Finding]
    folder: Path


def inspect_cases(folder: Path, infos: Sequence[CaseInfo], preset: Preset) -> list[InspectedCase]:
    """Compare all cases of a folder with each other.

    Raises:
        ValueError: splits.json or a quality.json is damaged.
    """
    split_of = {case_id: name for name, case_ids in read_splits(folder).items() for case_id in case_ids}
    qualities = {info.case_id: read_quality(folder / info.case_id) for info in infos}
    known = {case_id: quality for case_id, quality in qualities.items() if quality is not None}
    marks = check_cases(known, preset.left_right_pairs)
    return [
        InspectedCase(
            info=info,
            split=split_of.get(info.case_id, "-"),
            quality=qualities[info.case_id],
            marks=marks.get(info.case_id, []),
            folder=folder / info.case_id,
        )
        for info in infos
    ]


def summary_table(cases: Sequence[InspectedCase], preset: Preset) -> Table:
    """Organs as rows: in how many cases, voxels and volume as contoured; notes say what the scans are like."""
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
    """Write the page: the table, failed cases, and a row per case, those to check first.

    It loads nothing: pictures are in it, and the browser is told to fetch nothing else.

    Args:
        path: of the page.
        cases: from `inspect_cases`.
        preset: for the organs' names and colors.
        failures: case id to reason, of cases that could not be prepared.
    """
    ordered = sorted(cases, key=lambda case: (not case.marks, case.info.case_id))
    num_marked = sum(bool(case.marks) for case in cases)
    parts = [
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>",
        "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
        "style-src 'unsafe-inline'\">",
        f"<title>{len(cases)} cases, {num_marked} to check</title><style>{STYLE}</style></head><body>",
        f"<h1>{len(cases)} cases for preset {escape(preset.name)}</h1>",
        f"<p><b class={'red' if num_marked else 'quiet'}>{num_marked} to check</b>. Marks compare a case with the "
        "others; a mark is a reason to look, not a fault. Slices show the head up and the patient's left on the right.",
        _table_html(summary_table(cases, preset)),
        _failures_html(failures),
        "<h2>Cases</h2><label><input type=checkbox id=only> only those to check</label>",
        *(_case_html(case, preset) for case in ordered),
        "</body></html>\n",
    ]
    write_text(path, "\n".join(parts))


def _scan_notes(cases: Sequence[InspectedCase]) -> list[str]:
    counts = {name: sum(case.split == name for case in cases) for name in dict.fromkeys(c.split for c in cases)}
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
        notes.append(f"{without_ct} cases have masks alone: they serve train_autoencoder.py only")
    if unmeasured:
        notes.append(f"{unmeasured} cases were prepared by an earlier version and not measured; prepare them again")
    return notes


def _extremes(values: np.ndarray, form: str) -> str:
    low, high = (" x ".join(form.format(v) for v in ends) for ends in (values.min(axis=0), values.max(axis=0)))
    return low if low == high else f"{low} to {high}"


def _range(values: Sequence[float], form: Callable[[float], str]) -> list[str]:
    if not values:
        return ["-"] * 3
    return [form(value) for value in (min(values), float(np.median(values)), max(values))]


def _table_html(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in table.headings)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in table.rows)
    notes = "".join(f"<p>{escape(note)}" for note in table.notes)
    return f"<table><tr>{head}{rows}</table>{notes}"


def _failures_html(failures: Mapping[str, CaseFailure]) -> str:
    if not failures:
        return ""
    items = "".join(f"<li>{escape(case_id)}: {escape(failure.reason)}" for case_id, failure in sorted(failures.items()))
    return f"<h2>{len(failures)} cases could not be prepared</h2><ul class=marks>{items}</ul>"


def _case_html(case: InspectedCase, preset: Preset) -> str:
    info = case.info
    marks = "".join(f"<li>{escape(str(mark))}" for mark in case.marks)
    size = " x ".join(map(str, info.original.size_zyx))
    spacing = " x ".join(f"{s:.3g}" for s in info.original.spacing_zyx_mm)
    facts = [f"{case.split}; raw {size} voxels of {spacing} mm (z, y, x); {info.source}"]
    if info.patient and info.patient != info.case_id:
        facts.append(f"patient {info.patient}")
    if case.quality and case.quality.body_hu is not None:
        quality = case.quality
        facts.append(f"HU {quality.lowest_hu:.0f} to {quality.highest_hu:.0f}, body's median {quality.body_hu:.0f}")
    facts += info.notes
    if info.unmatched_structures:
        facts.append(f"not in the preset: {', '.join(info.unmatched_structures)}")
    return (
        f'<div class="case{" marked" if marks else ""}"><img loading=lazy alt="{escape(info.case_id)}" '
        f'src="{_picture(case.folder / "preview.png")}"><div class=facts><h3>{escape(info.case_id)}</h3>'
        + (f"<ul class=marks>{marks}</ul>" if marks else "")
        + "".join(f"<p class=quiet>{escape(fact)}" for fact in facts)
        + _organs_html(case, preset)
        + "</div></div>"
    )


def _organs_html(case: InspectedCase, preset: Preset) -> str:
    marked = {mark.organ for mark in case.marks}
    rows = []
    for organ in preset.organs:
        found = case.quality.organs.get(organ.name) if case.quality else None
        cells = [format_ml(found.volume_ml), str(found.num_voxels)] if found else ["not contoured", ""]
        if found is None and organ.name in case.info.organs:
            cells = ["-", str(case.info.organs[organ.name].num_voxels)]
        swatch = f'<span class=swatch style="background:rgb{organ.color}"></span>'
        flag = " class=marked" if organ.name in marked else ""
        rows.append(f"<tr><td{flag}>{swatch}{escape(organ.name)}" + "".join(f"<td>{cell}" for cell in cells))
    return f"<table><tr><th>organ<th>ml<th>voxels{''.join(rows)}</table>"


def _picture(path: Path) -> str:
    """The preview, smaller, as an address that holds its own content."""
    with Image.open(path) as picture:
        scale = min(1, PICTURE_WIDTH_PX / picture.width)
        small = picture.convert("RGB").resize([round(n * scale) for n in picture.size], Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "WEBP", quality=PICTURE_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()

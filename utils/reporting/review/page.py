"""Writes the review page of a case: its CT, contours and measurements in one HTML file that needs nothing else."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from utils.io.files import printable, write_text
from utils.reporting.review.policy import source_hash
from utils.reporting.review.rating_scale import COLUMNS, SCALE
from utils.reporting.review.volumes import Triple, join_factor, join_image, join_labels, pack_bytes, pack_image

TEMPLATES = Path(__file__).with_name("template")
SCRIPTS = ("volume.js", "outline.js", "view.js", "pointer.js", "table.js", "rating.js", "page.js")
"""Parts of the page's one script, in this order."""

RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class OrganRow:
    """One organ of the table."""

    name: str
    color: RGB
    """0..255 each."""
    label: int
    """Its value in the label maps."""
    values: Mapping[str, float | str | None] = field(default_factory=dict)
    """By heading of the column. None is not measured; an infinite number is possible."""
    flags: Sequence[str] = ()
    is_compared: bool = True
    """False if the reference does not say where the organ is: then a predicted voxel is no difference."""


@dataclass(frozen=True, kw_only=True)
class CaseReview:
    """What the page of a case shows. All volumes have the shape (D, H, W) and point to head, back and left."""

    case_id: str | None
    """None keeps it out of the file: title and ratings then go by the file's own name."""
    image_hu: np.ndarray
    """Any numeric dtype: the part of the CT to show."""
    spacing_zyx_mm: Triple
    prediction: np.ndarray
    """uint8; 0 is background."""
    reference: np.ndarray | None = None
    """uint8; a reference is drawn with dashed lines."""
    heatmap: np.ndarray | None = None
    """0..1: the highest heatmap of the small organs."""
    organs: Sequence[OrganRow] = ()
    """In the order in which a person should look at them."""
    flags: Sequence[str] = ()
    """Doubts about the whole case."""
    notes: Sequence[str] = ()
    patient_id: str | None = None
    """Shown if given."""


def write_review_page(path: Path, review: CaseReview) -> None:
    """Write the review page of a case, atomically.

    Raises:
        ValueError: a volume's shape differs from that of the image, or a label has no organ.
    """
    _check(review)
    volumes, volume_facts = _pack_volumes(review)
    facts = {
        "case_id": None if review.case_id is None else printable(review.case_id),
        "patient_id": review.patient_id,
        "key": hashlib.sha256("".join(volumes.values()).encode()).hexdigest()[:24],
        "organs": [_organ_facts(organ) for organ in review.organs],
        "headings": list(dict.fromkeys(heading for organ in review.organs for heading in organ.values)),
        "flags": list(review.flags),
        "notes": list(review.notes),
        "scale": SCALE,
        "rating_columns": COLUMNS,
        **volume_facts,
    }
    write_text(path, render(facts, volumes))


def render(facts: Mapping[str, Any], volumes: Mapping[str, str]) -> str:
    """The page's text. Its policy allows the page's own script and style only, and no address.

    Args:
        facts: what JSON can hold.
        volumes: base64 by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        facts=facts,
        facts_json=_json_in_html(facts),
        volumes=volumes,
        script=script,
        style=style,
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src {source_hash(script)}",
                f"style-src {source_hash(style)}",
                "img-src data: blob:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
    )


def _check(review: CaseReview) -> None:
    shape = review.image_hu.shape
    for name in ("prediction", "reference", "heatmap"):
        volume = getattr(review, name)
        if volume is not None and volume.shape != shape:
            raise ValueError(f"{name}: expected the image's shape {shape}, got {volume.shape}")
    known = {organ.label for organ in review.organs}
    for name in ("prediction", "reference"):
        volume = getattr(review, name)
        labels = [] if volume is None else np.unique(volume[volume > 0]).tolist()
        unknown = set(labels) - known
        if unknown:
            raise ValueError(f"{name}: the labels {sorted(unknown)} belong to no organ")


def _pack_volumes(review: CaseReview) -> tuple[dict[str, str], dict[str, Any]]:
    """The packed volumes by name, and the grid on which they are shown."""
    factor = join_factor(review.image_hu.shape, review.spacing_zyx_mm)
    packed = pack_image(join_image(review.image_hu, factor))
    volumes = {"image": packed.text, "prediction": pack_bytes(join_labels(review.prediction, factor))}
    if review.reference is not None:
        volumes["reference"] = pack_bytes(join_labels(review.reference, factor))
    if review.heatmap is not None:
        heat = join_image(np.asarray(review.heatmap, dtype=np.float32), factor)
        volumes["heatmap"] = pack_bytes(np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8))
    depth, height, width = review.image_hu.shape
    slice_mm, row_mm, column_mm = review.spacing_zyx_mm
    grid = {
        "size_zyx": [depth, math.ceil(height / factor), math.ceil(width / factor)],
        "spacing_zyx_mm": [slice_mm, row_mm * factor, column_mm * factor],
        "joined": factor,
        "step_hu": packed.step_hu,
    }
    return volumes, grid


def _organ_facts(organ: OrganRow) -> dict[str, Any]:
    values = {heading: _finite(value) for heading, value in organ.values.items()}
    return {
        "name": printable(organ.name),
        "color": list(organ.color),
        "label": organ.label,
        "values": values,
        "flags": list(organ.flags),
        "compared": organ.is_compared,
    }


def _finite(value: float | str | None) -> float | str | None:
    """A value that JSON can hold."""
    if value is None or isinstance(value, str) or math.isfinite(value):
        return value if value is None or isinstance(value, str) else float(value)
    return None if math.isnan(value) else "infinite"


def _json_in_html(content: object) -> str:
    """JSON that no parser of HTML ends early or reads as markup."""
    escapes = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
    return json.dumps(content, ensure_ascii=True, allow_nan=False).translate(escapes)

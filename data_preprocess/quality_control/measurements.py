"""What is measured of a case while it is prepared, so that a person can be told what to look at before training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_preprocess.field_of_view import BODY_HU, CoarseBody
from utils.config.toml_dataclass import build
from utils.errors import UserError
from utils.imaging.masks import Mask, connected_components
from utils.io.files import read_json, write_json

NAME = "quality.json"
STRAY_SHARE = 0.01
"""Smaller pieces of an organ, relative to its largest, are brush strokes gone astray; they are not counted."""
STRAY_VOX = 3
"""Nor are pieces of up to so many voxels."""


@dataclass(frozen=True, kw_only=True)
class OrganQuality:
    """An organ as it was contoured, before nested organs were taken out of it."""

    num_voxels: int
    """In the raw data."""
    volume_ml: float
    center_mm: tuple[float, float, float]
    """Centroid (z, y, x) from the corner of the raw grid in LPS order."""
    num_pieces: int
    """Separate pieces, stray ones not counted."""
    outside_share: float
    """Share of its voxels outside of the body; 0 where there is no CT."""


@dataclass(frozen=True, kw_only=True)
class CaseQuality:
    """A case; the HU are None where there is no CT."""

    lowest_hu: float | None
    highest_hu: float | None
    body_hu: float | None
    """Median of the voxels that are denser than air, in the body's box."""
    organs: dict


def format_ml(volume_ml: float) -> str:
    """Three digits, more where there are more before the point."""
    return f"{volume_ml:.0f}" if volume_ml >= 100 else f"{volume_ml:.3g}"


def measure_case(masks: Mapping[str, Mask], image: np.ndarray | None, body: CoarseBody | None) -> CaseQuality:
    """Measure a raw case.

    Args:
        masks: organ name to mask.
        image: (D, H, W) HU, or None.
        body: of the image, or None.
    """
    organs = {name: _measure_organ(mask, body) for name, mask in masks.items()}
    if image is None:
        return CaseQuality(lowest_hu=None, highest_hu=None, body_hu=None, organs=organs)
    inside = image[body.box][:: body.stride[0], :: body.stride[1], :: body.stride[2]]
    return CaseQuality(
        lowest_hu=float(image.min()),
        highest_hu=float(image.max()),
        body_hu=float(np.median(inside[inside > BODY_HU])),
        organs=organs,
    )


def write_quality(folder: Path, quality: CaseQuality) -> None:
    """Write what was measured into a case's folder."""
    write_json(folder / NAME, asdict(quality))


def read_quality(folder: Path) -> CaseQuality | None:
    """Read what was measured; None for a case of an earlier version, which measured nothing.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    problems: list[str] = []
    quality = build(CaseQuality, read_json(path), problems)
    organs = {}
    if quality is not None:
        tables = quality.organs
        organs = {name: build(OrganQuality, tables[name], problems, f"organs.{name}.") for name in tables}
    if problems:
        raise UserError(f"{path}: is damaged; delete the case's folder and prepare it again: " + "; ".join(problems))
    return CaseQuality(**{**quality.__dict__, "organs": organs})


def _measure_organ(mask: Mask, body: CoarseBody | None) -> OrganQuality:
    spacing_mm = np.asarray(mask.geometry.spacing_zyx_mm)
    num_voxels = int(np.count_nonzero(mask.voxels))
    sizes = connected_components(mask.voxels, connectivity=3).sizes
    center_vox = np.argwhere(mask.voxels).mean(axis=0) + mask.corner_zyx
    return OrganQuality(
        num_voxels=num_voxels,
        volume_ml=float(num_voxels * spacing_mm.prod() / 1000),
        center_mm=tuple(((center_vox + 0.5) * spacing_mm).tolist()),
        num_pieces=int(np.count_nonzero((sizes > STRAY_VOX) & (sizes >= STRAY_SHARE * sizes.max()))) or 1,
        outside_share=body.share_outside(mask) if body else 0.0,
    )

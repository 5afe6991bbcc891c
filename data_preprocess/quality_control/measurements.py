"""Measures each case while it is prepared; `outliers` compares the cases."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data_preprocess.field_of_view import Body
from utils.config.toml_dataclass import build
from utils.errors import UserError
from utils.imaging.masks import Mask, connected_components
from utils.io.files import read_json, write_json

NAME = "quality.json"
MIN_COMPONENT_RATIO = 0.01
"""Components below this fraction of the organ's largest one are stray brush strokes and do not count."""
MIN_COMPONENT_VOX = 4
"""Components of fewer voxels do not count either."""
RENAMED_KEYS = {"num_pieces": "num_components", "outside_share": "fraction_outside"}
"""Keys of quality.json in cases of earlier versions."""


@dataclass(frozen=True, kw_only=True)
class OrganQuality:
    """An organ as contoured within the field of view, before nested organs were removed from it."""

    num_voxels: int
    """In the raw data."""
    volume_ml: float
    center_mm: tuple[float, float, float]
    """Centroid (z, y, x) from the corner of the raw grid in LPS order."""
    num_components: int
    """Connected components, without stray ones."""
    fraction_outside: float
    """Fraction of its voxels outside of the body; 0 without CT."""


@dataclass(frozen=True, kw_only=True)
class CaseQuality:
    """A case; the HU are None without CT."""

    lowest_hu: float | None = None
    highest_hu: float | None = None
    body_hu: float | None = None
    """Median of the body's voxels."""
    organs: dict


def format_ml(volume_ml: float) -> str:
    """Format a volume with three significant digits, or as a whole number from 100 ml."""
    return f"{volume_ml:.0f}" if volume_ml >= 100 else f"{volume_ml:.3g}"


def measure_case(masks: Mapping[str, Mask], image: np.ndarray | None, body: Body | None) -> CaseQuality:
    """Measure a raw case.

    Args:
        masks: organ name to mask, without its part below the field of view; empty masks are left out.
        image: (D, H, W) HU, or None.
        body: of the image, or None.
    """
    organs = {name: _measure_organ(mask, body) for name, mask in masks.items() if mask.voxels.size}
    if image is None:
        return CaseQuality(organs=organs)
    lowest_hu, highest_hu = float(image.min()), float(image.max())
    return CaseQuality(lowest_hu=lowest_hu, highest_hu=highest_hu, body_hu=body.median_hu(image), organs=organs)


def write_quality(folder: Path, quality: CaseQuality) -> None:
    """Write the measurements into a case's folder."""
    write_json(folder / NAME, asdict(quality))


def read_quality(folder: Path) -> CaseQuality | None:
    """Read the measurements of a case; None for a case of an early version, which has none.

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
        for name, table in quality.organs.items():
            renamed = {RENAMED_KEYS.get(key, key): value for key, value in table.items()}
            organs[name] = build(OrganQuality, renamed, problems, f"organs.{name}.")
    if problems:
        raise UserError(f"{path}: is damaged; delete the case's folder and prepare it again: " + "; ".join(problems))
    return replace(quality, organs=organs)


def _measure_organ(mask: Mask, body: Body | None) -> OrganQuality:
    spacing_mm = np.asarray(mask.geometry.spacing_zyx_mm)
    num_voxels = int(np.count_nonzero(mask.voxels))
    sizes = connected_components(mask.voxels, connectivity=3).sizes
    counted = (sizes >= MIN_COMPONENT_VOX) & (sizes >= MIN_COMPONENT_RATIO * sizes.max())
    center_vox = np.argwhere(mask.voxels).mean(axis=0) + mask.corner_zyx
    return OrganQuality(
        num_voxels=num_voxels,
        volume_ml=float(num_voxels * spacing_mm.prod() / 1000),
        center_mm=tuple(((center_vox + 0.5) * spacing_mm).tolist()),
        num_components=int(np.count_nonzero(counted)) or 1,
        fraction_outside=body.fraction_outside(mask) if body else 0.0,
    )

"""Box plots of scores."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.errors import UserError
from utils.evaluation.evaluate import CasePairs, Settings, aligned_masks
from utils.evaluation.metrics import COUNTED, METRICS, Metric, ScoreRow
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask, crop_to_common_box, resample_mask
from utils.io.files import atomic_write
from utils.io.segmentations import CaseFiles, OrganNameResolver, case_ct, open_structures, read_lps
from utils.reporting.overlay import RGB, render_case, save_png

COLORS = ("#4477aa", "#ee9944")
ROW_INCHES = 0.34
WIDTH_INCHES = 8.0


def write_box_plots(folder: Path, sides: Mapping[str, Sequence[ScoreRow]], organs: Sequence[str]) -> None:
    """Write <metric>.png for every metric: a box per organ, its cases as dots, missed organs counted at the margin.

    Args:
        folder: target.
        sides: name in the legend to scores; one prediction, or two that are compared.
        organs: from top to bottom; organs without a scored case are left out.
    """
    counted = {name: [row for row in rows if row.status in COUNTED] for name, rows in sides.items()}
    shown = [organ for organ in organs if any(row.organ == organ for rows in counted.values() for row in rows)]
    for metric in METRICS:
        figure = draw_box_plot(counted, shown, metric)
        picture = io.BytesIO()
        figure.savefig(picture, dpi=120)
        with atomic_write(folder / f"{metric.key}.png") as partial:
            partial.write_bytes(picture.getvalue())


def draw_box_plot(sides: Mapping[str, Sequence[ScoreRow]], organs: Sequence[str], metric: Metric) -> Figure:
    """Draw one metric.

    Args:
        sides: name to scores that count.
        organs: from top to bottom.
        metric: what to draw; values that are not finite are counted in the margin.
    """
    height = 1.2 + ROW_INCHES * len(organs) * (1 + 0.5 * (len(sides) - 1))
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    for side, (name, rows) in enumerate(sides.items()):
        _draw_side(
            axes, rows, organs, metric, COLORS[side], offset=side - (len(sides) - 1) / 2, height=0.7 / len(sides)
        )
        axes.plot([], [], color=COLORS[side], linewidth=6, alpha=0.5, label=name)
    if len(sides) > 1:
        for i in range(len(organs) - 1):
            axes.axhline(i + 0.5, color="0.85", linewidth=0.6)
    axes.set_yticks(range(len(organs)), organs)
    axes.set_ylim(len(organs) - 0.4, -0.6)
    axes.set_xlabel(metric.heading)
    axes.grid(axis="x", linewidth=0.4)
    _set_limits(axes, metric)
    if len(sides) > 1:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(sides), frameon=False)
    return figure


def _draw_side(
    axes: Axes,
    rows: Sequence[ScoreRow],
    organs: Sequence[str],
    metric: Metric,
    color: str,
    *,
    offset: float,
    height: float,
) -> None:
    """Boxes, dots and counts of one prediction, `offset` boxes below the middle of each organ's line."""
    places = [i + offset * height for i in range(len(organs))]
    values = [[getattr(row.scores, metric.key) for row in rows if row.organ == organ] for organ in organs]
    finite = [[value for value in own if math.isfinite(value)] for own in values]
    line = {"color": color, "linewidth": 1.0}
    axes.boxplot(
        finite,
        positions=places,
        widths=0.8 * height,
        orientation="horizontal",
        manage_ticks=False,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": f"{color}40", "edgecolor": color},
        medianprops=line | {"linewidth": 2.0},
        whiskerprops=line,
        capprops=line,
    )
    for place, own, kept in zip(places, values, finite, strict=True):
        axes.plot(kept, [place] * len(kept), ".", color=color, markersize=3, alpha=0.6)
        if len(own) > len(kept):
            text = f"{len(own) - len(kept)} of {len(own)} infinite "
            axes.text(1, place, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7)


def _set_limits(axes: Axes, metric: Metric) -> None:
    """Shares reach from 0 to 1, distances start at 0, errors have a line at 0."""
    if metric.better > 0:
        axes.set_xlim(-0.02, 1.02)
    elif metric.better < 0:
        axes.set_xlim(left=0)
    else:
        axes.axvline(0, color="black", linewidth=0.8)


MARGIN_MM = 30.0
"""Shown around the two masks, so that a person sees where they lie."""
COLOR: RGB = (255, 190, 60)


def draw_worst(
    folder: Path,
    ct_folder: Path,
    pairs: CasePairs,
    places: Iterable[tuple[str, str]],
    settings: Settings,
) -> dict[str, str]:
    """Write <case>_<organ>.png for the given places, prediction solid, reference dashed.

    Args:
        folder: target.
        ct_folder: holds a CT per case, by name.
        pairs: files of both sides by case.
        places: (case id, organ).
        settings: of the evaluation.

    Returns:
        "case, organ" to the reason, for pictures that could not be drawn.
    """
    wanted: dict[str, list[str]] = {}
    for case_id, organ in dict.fromkeys(places):
        wanted.setdefault(case_id, []).append(organ)
    failures = {}
    for case_id, organs in wanted.items():
        try:
            _draw_case(folder, case_ct(ct_folder, case_id), pairs[case_id], organs, settings)
        except (ValueError, OSError) as error:
            failures[f"overlay of {case_id}"] = str(error)
    return failures


def _draw_case(
    folder: Path, ct_path: Path, pair: tuple[CaseFiles, CaseFiles], organs: Sequence[str], settings: Settings
) -> None:
    ct = read_lps(ct_path)
    naming = OrganNameResolver(settings.preset)
    prediction, reference = (open_structures(files, naming) for files in pair)
    for organ in organs:
        masks = aligned_masks(naming.key(organ), prediction, reference, resample=settings.resample)
        picture = draw_organ(ct.array, ct.geometry, *masks, organ)
        save_png(folder / f"{pair[1].case_id}_{organ.replace(' ', '_')}.png", picture)


def draw_organ(image: np.ndarray, geometry: Geometry, prediction: Mask, reference: Mask, name: str) -> np.ndarray:
    """Draw one organ and its surroundings.

    Args:
        image: (D, H, W), HU.
        geometry: of the image; masks of another grid are carried over, which for a picture is exact enough.
        prediction: drawn solid.
        reference: drawn dashed, on the prediction's grid.
        name: for the legend.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        UserError: the masks lie outside of the image.
    """
    masks = [
        mask if mask.geometry.matches(geometry) else resample_mask(mask, geometry) for mask in (prediction, reference)
    ]
    filled = [mask for mask in masks if mask.voxels.size]
    if not filled:
        raise UserError(f"{name}: lies outside of the CT, or is thinner than its voxels; is it the CT of this case?")
    start = np.min([mask.corner_zyx for mask in filled], axis=0)
    joined = crop_to_common_box(*masks)
    margin = np.ceil(MARGIN_MM / np.asarray(geometry.spacing_zyx_mm)).astype(int)
    low = np.maximum(start - margin, 0)
    high = np.minimum(start + joined[0].shape + margin, geometry.size_zyx)
    labels = [np.zeros(high - low, dtype=np.uint8) for _ in joined]
    inner = tuple(slice(a, a + n) for a, n in zip(start - low, joined[0].shape, strict=True))
    for label, mask in zip(labels, joined, strict=True):
        label[inner] = mask
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    options = {"spacing_zyx_mm": geometry.spacing_zyx_mm, "colors": [COLOR], "names": [name]}
    return render_case(image[box], labels[0], reference=labels[1] if labels[1].any() else None, **options)

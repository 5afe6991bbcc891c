"""Box plots of the scores, and overlays of each organ's worst case."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.errors import CaseFailure, UserError
from utils.evaluation.aggregate import WorstCase
from utils.evaluation.evaluate import EvaluationSettings, load_aligned_masks
from utils.evaluation.matching import CasePair, find_cts, missing_ct
from utils.evaluation.metrics import COUNTED, METRICS, Metric, ScoreRow
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask, bounding_box, resample_mask
from utils.io.files import atomic_write
from utils.io.segmentations import OrganNameResolver, open_structures
from utils.io.volumes import read_lps
from utils.reporting.overlay import RGB, render_case, save_png
from utils.runtime.process_pool import run_cases

PLOT_COLORS = ("#4477aa", "#ee9944")
INFINITE_MARGIN = 0.2
"""Fraction of the axis at its right for the numbers of infinite values."""
MARGIN_MM = 30.0
"""Shown around an organ, so that a reader sees where it lies."""
OVERLAY_COLOR: RGB = (255, 190, 60)


def write_box_plots(folder: Path, predictions: Mapping[str, Sequence[ScoreRow]], organs: Sequence[str]) -> None:
    """Write <metric>.png for every metric, with the scores of one or two predictions by their name in the legend.

    Organs are plotted from top to bottom; those without a counted case are left out.
    """
    counted = {name: [row for row in rows if row.status in COUNTED] for name, rows in predictions.items()}
    shown = [organ for organ in organs if any(row.organ == organ for rows in counted.values() for row in rows)]
    for metric in METRICS:
        with atomic_write(folder / f"{metric.key}.png", suffix=".png") as partial_path:
            plot_metric(counted, shown, metric).savefig(partial_path, dpi=120)


def plot_metric(predictions: Mapping[str, Sequence[ScoreRow]], organs: Sequence[str], metric: Metric) -> Figure:
    """Plot a box and a dot per case for every organ; the number of infinite values stands at the right margin."""
    num = len(predictions)
    figure = Figure(figsize=(8.0, 1.2 + 0.34 * len(organs) * (1 + num) / 2), layout="constrained")
    axes = figure.subplots()
    height = 0.7 / num
    for i, (name, rows) in enumerate(predictions.items()):
        values = [[getattr(row.scores, metric.key) for row in rows if row.organ == organ] for organ in organs]
        _plot_boxes(axes, values, np.arange(len(organs)) + (i - (num - 1) / 2) * height, PLOT_COLORS[i], height)
        axes.plot([], [], color=PLOT_COLORS[i], linewidth=6, alpha=0.5, label=name)
    axes.set_yticks(range(len(organs)), organs)
    axes.set_ylim(len(organs) - 0.4, -0.6)
    axes.set_xlabel(metric.heading)
    axes.grid(axis="x", linewidth=0.4)
    if metric.direction > 0:
        axes.set_xlim(-0.02, 1.02)
    elif metric.direction < 0:
        right = axes.get_xlim()[1] * (1 + INFINITE_MARGIN * bool(axes.texts))
        axes.set_xlim(-0.01 * right, right)  # a box at 0 is visible
    else:
        axes.axvline(0, color="black", linewidth=0.8)
    if num > 1:
        for i in range(len(organs) - 1):
            axes.axhline(i + 0.5, color="0.85", linewidth=0.6)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=num, frameon=False)
    return figure


def _plot_boxes(
    axes: Axes, values: Sequence[Sequence[float]], positions: np.ndarray, color: str, height: float
) -> None:
    """Plot one prediction: a box, dots and the number of infinite values for every organ."""
    finite = [[value for value in own if math.isfinite(value)] for own in values]
    line = {"color": color, "linewidth": 1.0}
    axes.boxplot(
        finite,
        positions=positions,
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
    for position, own, kept in zip(positions, values, finite, strict=True):
        axes.plot(kept, [position] * len(kept), ".", color=color, markersize=3, alpha=0.6)
        if len(own) > len(kept):
            text = f"{len(own) - len(kept)} of {len(own)} infinite "
            axes.text(1, position, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7)


def write_overlays(
    folder: Path,
    ct_folder: Path,
    pairs: Mapping[str, CasePair],
    worst: Iterable[WorstCase],
    settings: EvaluationSettings,
    num_workers: int,
) -> dict[str, CaseFailure]:
    """Write <case>_<organ>.png for every worst case, on the CT that `find_cts` finds in `ct_folder`.

    Returns:
        The cases that failed.
    """
    organs: dict[str, set[str]] = {}
    for case in worst:
        organs.setdefault(case.case_id, set()).add(case.organ)
    cts = find_cts(ct_folder, pairs)
    items = {case_id: (pairs[case_id], cts[case_id], sorted(organs[case_id])) for case_id in organs if case_id in cts}
    task = partial(_write_case_overlays, folder=folder, settings=settings)
    missing = {case_id: CaseFailure(missing_ct(ct_folder, case_id)) for case_id in organs if case_id not in cts}
    return missing | run_cases(task, items, num_workers, "overlays").failures


def _write_case_overlays(
    item: tuple[CasePair, Path, Sequence[str]], folder: Path, settings: EvaluationSettings
) -> None:
    pair, ct_path, organs = item
    case_id = pair.reference.case_id
    ct = read_lps(ct_path)
    resolver = OrganNameResolver(settings.preset)
    prediction, reference = (open_structures(files, resolver) for files in pair)
    for organ in organs:
        masks = load_aligned_masks(resolver.key(organ), prediction, reference, resample=settings.resample)
        overlay = render_organ(ct.array, ct.geometry, *masks, organ)
        save_png(folder / f"{case_id}_{organ.replace(' ', '_')}.png", overlay)


def render_organ(image: np.ndarray, geometry: Geometry, prediction: Mask, reference: Mask, name: str) -> np.ndarray:
    """Render one organ with its surroundings, the prediction with solid and the reference with dashed lines.

    Args:
        image: (D, H, W), HU.
        geometry: of the image; masks on another grid are resampled to it.
        prediction: one of the masks may be empty.
        reference: the other.
        name: of the organ, for the legend.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        UserError: both masks lie outside the image.
    """
    prediction, reference = (resample_mask(mask, geometry).dense() for mask in (prediction, reference))
    box = bounding_box(prediction | reference)
    if box is None:
        raise UserError(
            f"{name}: lies outside the CT, or is smaller than a voxel of it; check that it is the CT of this case"
        )
    margins = [math.ceil(MARGIN_MM / spacing) for spacing in geometry.spacing_zyx_mm]
    box = tuple(slice(max(0, axis.start - n), axis.stop + n) for axis, n in zip(box, margins, strict=True))
    return render_case(
        image[box],
        prediction[box].astype(np.uint8),
        reference=reference[box].astype(np.uint8) if reference.any() else None,
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        colors=[OVERLAY_COLOR],
        names=[name],
    )

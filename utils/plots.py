"""Box plots of scores."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import replace_atomically
from utils.scores import COUNTED, METRICS, Metric, ScoreRow

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
        with replace_atomically(folder / f"{metric.key}.png") as partial:
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

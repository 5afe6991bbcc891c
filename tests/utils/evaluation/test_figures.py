"""utils/evaluation/figures.py: box plots and overlays."""

import math

import numpy as np
import pytest
from PIL import Image

from utils.evaluation.figures import OVERLAY_COLOR, plot_metric, render_organ, write_box_plots
from utils.evaluation.metrics import METRICS, OrganScores, ScoreRow, Status
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask, empty_mask

ORGANS = ("brainstem", "chiasm")


def make(case_id, organ, value, status=Status.SCORED):
    scores = OrganScores(**dict.fromkeys(OrganScores.__dataclass_fields__, value))
    return ScoreRow(case_id=case_id, organ=organ, status=status, tolerance_mm=2.0, scores=scores)


ROWS = [make(f"c{i}", organ, 0.5 + 0.1 * i) for i in range(4) for organ in ORGANS]
ROWS.append(make("c4", "chiasm", math.inf, Status.MISSED))


def test_boxes_dots_and_missed_organs():
    axes = plot_metric({"prediction": ROWS}, ORGANS, METRICS[1]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ORGANS)
    assert [text.get_text().strip() for text in axes.texts] == ["1 of 5 infinite"]
    assert len(axes.patches) == 2
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert list(dots[0].get_xdata()) == pytest.approx([0.5, 0.6, 0.7, 0.8])


def test_two_predictions_have_a_box_each_and_a_legend():
    figure = plot_metric({"prediction": ROWS, "other": ROWS}, ORGANS, METRICS[0])
    assert len(figure.axes[0].patches) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["prediction", "other"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("other", [[], ROWS[:1], [make("c4", "chiasm", math.inf, Status.MISSED)]])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_empty_constant_and_infinite_groups_are_plotted(other, metric, tmp_path):
    figure = plot_metric({"prediction": ROWS, "other": other}, ORGANS, metric)
    figure.savefig(tmp_path / "plot.png")
    assert len(figure.axes[0].patches) == 4


def test_boxes_at_zero_and_beside_the_number_of_infinite_values_are_visible():
    rows = [make(f"c{i}", organ, value) for i in range(3) for organ, value in (("brainstem", 0.0), ("chiasm", 1.0))]
    left, right = plot_metric({"prediction": [*rows, ROWS[-1]]}, ORGANS, METRICS[1]).axes[0].get_xlim()
    assert left < 0
    assert right > 1.15


def test_a_picture_per_metric(tmp_path):
    write_box_plots(tmp_path, {"prediction": ROWS}, (*ORGANS, "mandible"))
    assert {path.name for path in tmp_path.iterdir()} == {f"{metric.key}.png" for metric in METRICS}
    with Image.open(tmp_path / "dice.png") as picture:
        assert min(picture.size) > 100


GRID = Geometry(size_zyx=(20, 60, 50), spacing_zyx_mm=(3.0, 2.0, 2.0))
IMAGE = np.zeros(GRID.size_zyx, dtype=np.int16)


def box(low, high):
    voxels = np.zeros(GRID.size_zyx, dtype=bool)
    voxels[low:high, 20:30, 20:30] = True
    return crop_mask(voxels, (0, 0, 0), GRID)


def has_outline(picture):
    return bool((picture[:400] == OVERLAY_COLOR).all(axis=-1).any())


def test_the_prediction_has_its_color():
    picture = render_organ(IMAGE, GRID, box(5, 9), box(6, 10), "brainstem")
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert has_outline(picture)


def test_a_missed_organ_shows_the_reference_only():
    assert not has_outline(render_organ(IMAGE, GRID, empty_mask(GRID), box(6, 10), "brainstem"))


def test_masks_outside_the_ct_are_refused():
    far = Geometry(size_zyx=GRID.size_zyx, spacing_zyx_mm=GRID.spacing_zyx_mm, origin_xyz_mm=(1e4, 0.0, 0.0))
    with pytest.raises(ValueError, match="outside the CT"):
        render_organ(IMAGE, far, box(5, 9), box(6, 10), "brainstem")

"""utils/plots.py: a box per organ, a picture per metric."""

import math

import pytest
from PIL import Image

from utils.plots import draw_box_plot, write_box_plots
from utils.scores import METRICS, OrganScores, ScoreRow, Status

ORGANS = ("brainstem", "chiasm")


def make(case_id, organ, value, status=Status.SCORED):
    scores = OrganScores(**dict.fromkeys(OrganScores.__dataclass_fields__, value))
    return ScoreRow(case_id=case_id, organ=organ, status=status, tolerance_mm=2.0, scores=scores)


ROWS = [make(f"c{i}", organ, 0.5 + 0.1 * i) for i in range(4) for organ in ORGANS]
ROWS.append(make("c4", "chiasm", math.inf, Status.MISSED))


def test_boxes_dots_and_missed_organs():
    axes = draw_box_plot({"prediction": ROWS}, ORGANS, METRICS[1]).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ORGANS)
    assert [text.get_text().strip() for text in axes.texts] == ["1 of 5 infinite"]
    assert len(axes.patches) == 2
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert list(dots[0].get_xdata()) == pytest.approx([0.5, 0.6, 0.7, 0.8])


def test_two_predictions_have_a_box_each_and_a_legend():
    figure = draw_box_plot({"prediction": ROWS, "other": ROWS}, ORGANS, METRICS[0])
    assert len(figure.axes[0].patches) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["prediction", "other"]


def test_a_picture_per_metric(tmp_path):
    write_box_plots(tmp_path, {"prediction": ROWS}, (*ORGANS, "mandible"))
    assert {path.name for path in tmp_path.iterdir()} == {f"{metric.key}.png" for metric in METRICS}
    with Image.open(tmp_path / "dice.png") as picture:
        assert min(picture.size) > 100

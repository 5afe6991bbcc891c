"""What a review page draws."""

import numpy as np
import pytest

from tests.review_page.driver import (
    COLORS,
    PLANES,
    count,
    on_screen,
    pixels,
    position,
    press,
    settle,
    show_slice,
    toggle,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("plane", PLANES)
def test_ten_voxels_of_a_plane_are_those_of_ct_and_label_map(plane, page, review):
    toggle(page, "outlines", "reference", "crosshair", "fill")
    page.evaluate("() => { opacity.value = 100; opacity.dispatchEvent(new Event('input')); }")
    rng = np.random.default_rng(1)
    inside = rng.permutation(np.argwhere(review.prediction > 0))[:6]
    outside = rng.permutation(np.argwhere(review.prediction == 0))[:4]
    for voxel in map(tuple, np.concatenate([inside, outside]).tolist()):
        show_slice(page, plane, voxel[PLANES[plane][0]])
        page.mouse.move(*on_screen(page, plane, voxel))
        text = page.inner_text("#under-cursor")
        label, hu = int(review.prediction[voxel]), int(review.image_hu[voxel])
        name = next((organ.name for organ in review.organs if organ.label == label), "–")
        assert text.startswith(f"{hu} HU · prediction {name}, reference ")
        assert page.get_attribute("#under-cursor", "data-voxel") == ",".join(map(str, voxel))
        gray = 255 * np.clip((hu - 40) / 400 + 0.5, 0, 1)
        expected = COLORS[name] if label else (gray, gray, gray)
        x, y = map(round, position(page, plane, voxel))
        near = pixels(page, plane)[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].astype(int)
        assert np.abs(near - expected).max(axis=-1).min() <= 4, (voxel, near, expected)


def test_the_patients_left_is_at_the_right(open_page, review):
    page = open_page(review)
    page.evaluate(
        """() => {
            window.written = [];
            const write = CanvasRenderingContext2D.prototype.fillText;
            CanvasRenderingContext2D.prototype.fillText = function (text, x, y) {
                window.written.push([this.canvas.parentElement.id, text, x, y]);
                write.call(this, text, x, y);
            };
        }"""
    )
    press(page, "c")
    written = {(plane, text): (x, y) for plane, text, x, y in page.evaluate("() => window.written")}
    for plane, (left, right, top, bottom) in {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}.items():
        assert written[plane, left][0] < written[plane, right][0]
        assert written[plane, top][1] < written[plane, bottom][1]
    for plane in ("axial", "coronal"):  # the left parotid has the largest x
        drawn = np.abs(pixels(page, plane).astype(int) - COLORS["parotid_left"]).max(axis=-1) < 24
        assert np.nonzero(drawn)[1].mean() > 0.6 * drawn.shape[1]


def test_toggles_show_and_hide(page):
    press(page, "j")  # the brainstem
    color = COLORS["brainstem"]
    assert count(page, "axial", color) > 50
    toggle(page, "outlines")
    assert count(page, "axial", color) == 0
    toggle(page, "fill")
    page.evaluate("() => { opacity.value = 100; opacity.dispatchEvent(new Event('input')); }")
    settle(page)
    filled = count(page, "axial", color)
    page.evaluate("() => { opacity.value = 0; opacity.dispatchEvent(new Event('input')); }")
    settle(page)
    assert filled > 3000 > 10 > count(page, "axial", color)

    before = pixels(page, "axial")
    toggle(page, "reference")
    assert (pixels(page, "axial") != before).any()
    toggle(page, "reference")
    np.testing.assert_array_equal(pixels(page, "axial"), before)
    for name in ("crosshair", "heatmap"):
        before = pixels(page, "sagittal")
        toggle(page, name)
        assert (pixels(page, "sagittal") != before).any()


def test_prediction_is_solid_and_reference_dashed(page):
    press(page, "j", "c")
    show_slice(page, "axial", 10)
    toggle(page, "reference")
    solid = count(page, "axial", COLORS["brainstem"])
    toggle(page, "reference", "outlines")
    light = [round(value + 0.55 * (255 - value)) for value in COLORS["brainstem"]]
    dashed = count(page, "axial", light)
    assert 0.3 * solid < dashed < 0.9 * solid * (8 + 12) / (8 + 8)  # the reference is 12 voxels high, not 8


def test_the_difference_is_filled_in_two_colors(page):
    press(page, "j", "d")
    show_slice(page, "axial", 16)  # without a reference
    only_predicted = pixels(page, "axial")
    show_slice(page, "axial", 10)  # the reference is larger
    only_reference = pixels(page, "axial")
    for picture, first, second in ((only_predicted, 0, 1), (only_reference, 1, 0)):
        reddish = (picture[..., 0].astype(int) - picture[..., 1] > 60) & (picture[..., 2].astype(int) > picture[..., 1])
        bluish = (picture[..., 2].astype(int) - picture[..., 0] > 60) & (picture[..., 1] > picture[..., 0])
        amounts = int(reddish.sum()), int(bluish.sum())
        assert amounts[first] > 1000
        assert amounts[first] > 2 * amounts[second]


def test_organs_are_shown_hidden_and_alone(page):
    press(page, "j")
    page.click("text=brainstem")
    page.get_by_label("show brainstem", exact=True).uncheck()
    settle(page)
    assert count(page, "axial", COLORS["brainstem"]) == 0
    page.get_by_label("show brainstem", exact=True).check()
    show_slice(page, "axial", 9)  # brainstem and parotid
    assert count(page, "axial", COLORS["parotid_left"]) > 50
    page.get_by_label("show only brainstem").click()
    settle(page)
    assert count(page, "axial", COLORS["parotid_left"]) == 0
    assert count(page, "axial", COLORS["brainstem"]) > 50
    press(page, "s")
    assert count(page, "axial", COLORS["parotid_left"]) > 50
    page.get_by_label("show all organs").uncheck()
    settle(page)
    assert count(page, "axial", COLORS["brainstem"]) == 0

"""What the controls of a review page do."""

import numpy as np
import pytest

from tests.review_page.driver import cursor, on_screen, pixels, press, settle

pytestmark = pytest.mark.slow


def test_organs_flags_and_differences_are_reached(page, review):
    assert review.prediction[cursor(page)] == 3  # what to look at first
    page.click("button.name:has-text('brainstem')")
    settle(page)
    assert np.abs(np.subtract(cursor(page), (12, 21.5, 15.5))).max() <= 0.5
    page.click("text=Next flag")
    settle(page)
    assert review.prediction[cursor(page)] == 2
    press(page, "n")
    assert review.prediction[cursor(page)] == 3
    press(page, "j", "x")
    differs = (review.prediction == 1) != (review.reference == 1)
    assert cursor(page)[0] == differs.sum(axis=(1, 2)).argmax()
    assert differs[cursor(page)]


def test_keys_do_what_the_help_says(page):
    start = np.array(cursor(page))
    for keys, change in [
        (["ArrowUp"], (1, 0, 0)),
        (["ArrowDown", "ArrowDown"], (-1, 0, 0)),
        (["Home"], (-start[0], 0, 0)),
        (["PageUp"], (10 - start[0], 0, 0)),
        (["End"], (19 - start[0], 0, 0)),
    ]:
        wanted = {"Home": "End", "End": "Home"}  # the last slice in the direction of the wheel is the lowest
        press(page, *(wanted.get(key, key) for key in keys))
        np.testing.assert_array_equal(cursor(page), start + change)
    page.focus("#sagittal canvas")
    press(page, "ArrowDown")
    assert cursor(page)[2] == start[2] + 1
    for name in ("Bone", "Brain", "Lung", "Soft tissue"):
        press(page, "w")
        assert page.locator("#windows [aria-pressed=true]").inner_text() == name
    for key, name in {"o": "outlines", "e": "reference", "f": "fill", "d": "difference", "h": "heatmap"}.items():
        before = page.get_attribute(f"[data-toggle={name}]", "aria-pressed")
        press(page, key)
        assert page.get_attribute(f"[data-toggle={name}]", "aria-pressed") != before
    press(page, "v")
    assert not page.get_by_label("show parotid_left", exact=True).is_checked()
    press(page, "4")
    assert page.locator(".selected .rating").inner_text() == "4"
    press(page, "0")
    assert page.locator(".selected .rating").inner_text() == "–"
    press(page, "m")
    assert page.locator("#axial").is_hidden()
    press(page, "m", "?")
    assert page.locator("#help").is_visible()
    page.uncheck("#use-keys")
    page.click("#help button")
    press(page, "4")
    assert page.locator(".selected .rating").inner_text() == "–"


def test_the_mouse_moves_slices_cross_hair_window_and_picture(page):
    page.mouse.click(*on_screen(page, "axial", (0, 5, 22)))
    settle(page)
    assert cursor(page)[1:] == (5, 22)
    z = cursor(page)[0]
    page.mouse.wheel(0, 100)
    settle(page)
    assert cursor(page)[0] == z - 1

    before = pixels(page, "axial")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    settle(page)
    assert (pixels(page, "axial") != before).any()
    assert cursor(page)[0] == z - 1
    voxel = page.get_attribute("#under-cursor", "data-voxel")
    page.mouse.move(*on_screen(page, "axial", (0, 5, 22)))
    assert page.get_attribute("#under-cursor", "data-voxel") == voxel  # zoomed around the pointer
    press(page, "r")
    page.mouse.down(button="middle")
    page.mouse.move(*on_screen(page, "axial", (0, 15, 12)), steps=3)
    page.mouse.up(button="middle")
    settle(page)
    page.mouse.move(*on_screen(page, "axial", (0, 15, 12)))
    assert page.get_attribute("#under-cursor", "data-voxel").endswith("5,22")  # the picture moved with the pointer
    page.mouse.down(button="right")
    page.mouse.move(*on_screen(page, "axial", (0, 15, 18)), steps=3)
    page.mouse.up(button="right")
    settle(page)
    assert "width 400" not in page.inner_text("#window-now")


def test_fingers_scroll_point_and_zoom(open_page, review):
    page = open_page(review, has_touch=True)
    x, y = on_screen(page, "axial", (0, 5, 22))
    page.touchscreen.tap(x, y)
    settle(page)
    assert cursor(page)[1:] == (5, 22)
    z = cursor(page)[0]
    session = page.context.new_cdp_session(page)

    def touch(kind, *points):
        places = [{"x": px, "y": py, "id": i} for i, (px, py) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (x, y))
    for moved in range(20, 121, 20):
        touch("touchMove", (x, y + moved))
    touch("touchEnd")
    settle(page)
    assert cursor(page)[0] < z
    assert cursor(page)[1:] == (5, 22)
    before = pixels(page, "axial")
    touch("touchStart", (x - 20, y + 80), (x + 20, y + 80))
    touch("touchMove", (x - 60, y + 80), (x + 60, y + 80))
    touch("touchEnd")
    settle(page)
    assert (pixels(page, "axial") != before).mean() > 0.05
    assert cursor(page)[1:] == (5, 22)


def test_the_table_begins_with_what_to_look_at_and_can_be_sorted(page):
    names = page.locator("button.name")
    assert names.all_inner_texts() == ["parotid_left", "brainstem", "mandible"]
    page.click("th button:has-text('Dice')")
    assert names.all_inner_texts() == ["brainstem", "parotid_left", "mandible"]  # without a value last
    page.click("th button:has-text('Dice')")
    assert names.all_inner_texts() == ["parotid_left", "brainstem", "mandible"]
    assert page.locator("[aria-sort=descending]").count() == 1
    page.click("th button:has-text('Dice')")
    assert page.locator("[aria-sort]").count() == 0
    assert page.inner_text("#case-flags") == "impossible arrangement"


def test_every_control_has_a_name(page):
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, canvas, output")]
            .filter((one) => !(one.ariaLabel || one.innerText?.trim() || one.labels?.length || one.title))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [1920, 1280, 390])
def test_nothing_is_cut_off_and_text_is_readable(theme, width, open_page, review):
    page = open_page(review, color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 844})
    settle(page)
    assert page.get_attribute("html", "data-theme") == theme
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    contrasts = page.evaluate(
        """() => {
            const parse = (text) => text.match(/[\\d.]+/g).map(Number);
            const luminance = ([r, g, b]) => [r, g, b].map((value) => value / 255)
                .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
                .reduce((total, value, i) => total + value * [0.2126, 0.7152, 0.0722][i], 0);
            const backOf = (one) => {
                for (; one; one = one.parentElement) {
                    const color = parse(getComputedStyle(one).backgroundColor);
                    if (color.length === 3 || color[3] > 0.99) return color;
                }
                return [255, 255, 255];
            };
            return [...document.querySelectorAll("body *")]
                .filter((one) => one.checkVisibility() && !one.closest("script, style, :disabled"))
                .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
                .map((one) => {
                    const [a, b] = [luminance(parse(getComputedStyle(one).color)), luminance(backOf(one))];
                    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), one.outerHTML.slice(0, 80)];
                });
        }"""
    )
    assert len(contrasts) > 30
    assert min(contrasts)[0] >= 4.5, min(contrasts)

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.reporting.overlay import PANEL_PX, SHOWN_WIDTH_PX, SlicePlane, choose_slices, render_case, save_png

SPACING = (2.5, 1.0, 2.0)
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255))
NAMES = ("first", "second", "third", "fourth")
STYLE = {"spacing_zyx_mm": SPACING, "colors": COLORS, "names": NAMES}


@pytest.fixture
def image() -> np.ndarray:
    return np.full((12, 40, 18), 40, np.int16)  # 30 x 40 x 36 mm


@pytest.fixture
def label(image: np.ndarray) -> np.ndarray:
    label = np.zeros(image.shape, np.uint8)
    label[2:5, 10:20, 3:9] = 1
    label[9:12, 30:40, 12:18] = 2  # at the border
    return label


def has_color(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(axis=-1).any())


def test_pixels_are_isotropic_and_the_tallest_panel_has_its_height(image: np.ndarray):
    picture = render_case(image, None, **STYLE)
    assert picture.dtype == np.uint8
    px_per_mm = PANEL_PX / 40
    gap = picture.shape[0] - PANEL_PX
    width = 36 * px_per_mm + 36 * px_per_mm + 40 * px_per_mm + 2 * gap  # axial, coronal, sagittal
    assert picture.shape == (PANEL_PX + gap, width, 3)


def letter_height(picture: np.ndarray, color: tuple[int, int, int], top: int) -> int:
    rows = np.flatnonzero((np.abs(picture[top:].astype(int) - color).max(axis=-1) < 40).any(axis=1))
    return int(rows[-1] - rows[0]) + 1


def test_names_stay_readable_in_a_wide_picture_that_is_shown_smaller():
    heights = []
    for columns in (10, 200):  # 1060 and 12000 px wide
        label = np.zeros((4, 20, columns), np.uint8)
        label[1, 2, 2] = 1
        picture = render_case(
            np.zeros(label.shape, np.int16), label, spacing_zyx_mm=(1, 1, 1), colors=COLORS, names=NAMES
        )
        height = letter_height(picture, COLORS[0], top=2 * PANEL_PX // 2 + 6)
        heights.append(height / picture.shape[1] * SHOWN_WIDTH_PX)
    assert min(heights) > 8  # px of the letters of "first"
    assert heights[1] == pytest.approx(heights[0], rel=0.15)


def test_organs_are_outlined_in_their_colors(image: np.ndarray, label: np.ndarray):
    picture = render_case(image, label, **STYLE)
    assert has_color(picture[:PANEL_PX], COLORS[0])
    assert has_color(picture[:PANEL_PX], COLORS[1])
    assert not has_color(picture, COLORS[2])


def test_window_maps_to_black_and_white():
    image = np.full((4, 6, 8), -500, np.int16)
    image[:, :, 4:] = 900
    picture = render_case(image, None, **STYLE, window_hu=(-100, 100))
    axial = picture[PANEL_PX // 2, : 16 * PANEL_PX // 10]
    assert axial[200].max() == 0
    assert axial[-60].min() == 255


def test_head_is_up_and_left_is_on_the_right(image: np.ndarray):
    image[9:] = 240
    assert SlicePlane(1, 0).extract(image)[0, 0] == 240
    assert SlicePlane(1, 0).extract(image)[-1, 0] == 40
    assert SlicePlane(2, 3).extract(image).shape == (12, 40)
    np.testing.assert_array_equal(SlicePlane(0, 10).extract(image), image[10])


def test_reference_and_heatmap_are_drawn(image: np.ndarray, label: np.ndarray):
    without_reference = render_case(image, label, **STYLE)
    reference = np.roll(label, 2, axis=1)
    heatmap = np.zeros(image.shape, np.float32)
    heatmap[3, 15, 6] = 1
    with_reference = render_case(image, label, **STYLE, reference=reference)
    light_red = (255, 191, 191)
    assert has_color(with_reference, light_red)
    assert not has_color(without_reference, light_red)
    warm = render_case(image, None, **STYLE, heatmap=heatmap).astype(int)
    assert (warm[..., 0] > warm[..., 2] + 80).any()


def test_slices_go_through_the_organs(label: np.ndarray):
    ((axial, coronal, sagittal),) = choose_slices(label, None, label.shape)
    assert [plane.axis for plane in (axial, coronal, sagittal)] == [0, 1, 2]
    assert label[axial.index].any()
    assert label[:, coronal.index].any()
    assert label[:, :, sagittal.index].any()


def test_second_row_shows_what_the_first_misses(image: np.ndarray, label: np.ndarray):
    label[2:5, 30:40, 3:9] = 3
    label[2:5, 25:28, 3:9] = 4
    first, second = choose_slices(label, None, label.shape)
    assert set(np.unique(label[first[0].index])) == {0, 1, 3, 4}
    assert set(np.unique(label[second[0].index])) == {0, 2}
    assert render_case(image, label, **STYLE).shape[0] > 2 * PANEL_PX


def test_slices_without_organs():
    shape = (4, 6, 8)
    heatmap = np.zeros(shape)
    heatmap[3, 1, 7] = 0.4
    assert choose_slices(None, None, shape) == [[SlicePlane(0, 2), SlicePlane(1, 3), SlicePlane(2, 4)]]
    assert choose_slices(np.zeros(shape, np.uint8), heatmap, shape) == [
        [SlicePlane(0, 3), SlicePlane(1, 1), SlicePlane(2, 7)]
    ]


def test_empty_label_map_is_drawn(image: np.ndarray):
    picture = render_case(image, np.zeros(image.shape, np.uint8), **STYLE)
    assert not any(has_color(picture, color) for color in COLORS)


@pytest.mark.parametrize("name", ["label", "reference", "heatmap"])
def test_other_shape_is_refused(image: np.ndarray, name: str):
    volumes = {"label": None, name: np.zeros((12, 40, 19), np.uint8)}
    with pytest.raises(ValueError, match=name):
        render_case(image, **volumes, **STYLE)


def test_label_without_color_is_refused(image: np.ndarray, label: np.ndarray):
    label[0, 0, 0] = 5
    with pytest.raises(ValueError, match="label 5"):
        render_case(image, label, **STYLE)


def test_png_round_trip(tmp_path: Path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    save_png(tmp_path / "new" / "picture.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "picture.png")), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["picture.png"]

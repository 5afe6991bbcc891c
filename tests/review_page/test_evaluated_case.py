"""The pages of evaluate.py --review in a browser."""

import numpy as np
import pytest

import evaluate
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.color_table import write_color_table
from utils.io.volumes import Volume, write_volume

pytestmark = pytest.mark.slow
PRESET = load_preset("phantom")
GRID = Geometry(size_zyx=(20, 30, 36), spacing_zyx_mm=(3.0, 2.0, 1.5))
BOXES = {
    "pred": {"brainstem": ((8, 14), (10, 16), (14, 22)), "mandible": ((2, 6), (4, 9), (10, 26))},
    "ref": {"brainstem": ((8, 14), (10, 16), (18, 26)), "chiasm": ((15, 17), (8, 10), (16, 18))},
}


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """The folder of the scores: half of the brainstem fits, the chiasm is missed, the mandible was not contoured."""
    folder = tmp_path_factory.mktemp("evaluated")
    for side, boxes in BOXES.items():
        labels = np.zeros(GRID.size_zyx, dtype=np.uint8)
        for name, box in boxes.items():
            labels[tuple(slice(*ends) for ends in box)] = PRESET.organ_names.index(name) + 1
        write_volume(folder / side / "p1.mha", Volume(array=labels, geometry=GRID))
        write_color_table(folder / side, PRESET)
    z, y, x = np.indices(GRID.size_zyx)
    write_volume(
        folder / "ct" / "p1_0000.mha", Volume(array=(10 * z + 3 * y + 4 * x - 100).astype(np.int16), geometry=GRID)
    )
    options = {"prediction": "pred", "reference": "ref", "review": "ct", "output": "scores"}
    arguments = [item for name, path in options.items() for item in (f"--{name}", str(folder / path))]
    assert evaluate.main([*arguments, "--preset", "phantom", "--workers", "1"]) == 0
    return folder / "scores"


@pytest.fixture
def page(browser, scores):
    """The page of the case, reached from the list of pages."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    asked, problems = [], []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((scores / "review" / "index.html").as_uri())
    page.get_by_role("link", name="p1").click()
    page.wait_for_selector("body[data-ready]")
    yield page
    context.close()
    assert not problems
    assert {url for url in asked if not url.startswith(("file:", "blob:"))} == set()


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_the_table_begins_with_the_organ_to_look_at_and_shows_the_scores(page):
    assert page.inner_text("h1") == "p1"
    assert texts(page, "#case-flags li") == ["missed: chiasm"]
    assert texts(page, "#organs button.name") == ["chiasm", "brainstem", "mandible"]
    dice = texts(page, "#organs thead button").index("Dice") + 2  # a box and a button stand before the name
    rows = page.locator("#organs tbody tr:first-child").all()  # a second row has the flags
    assert [row.locator("td, th").nth(dice).inner_text() for row in rows] == ["0.00", "0.50", "–"]
    assert texts(page, "#organs thead + tbody .flags li") == ["missed"]


def select(page, organ):
    """Select an organ and return what the page says about its central voxel."""
    page.get_by_role("button", name=organ, exact=True).click()
    return page.inner_text("#under-cursor").split(" · ")[1]


def test_both_contours_lie_where_they_lie_in_the_files(page):
    assert select(page, "chiasm") == "prediction –, reference chiasm"
    assert select(page, "mandible") == "prediction mandible, reference –"
    assert "prediction brainstem" in select(page, "brainstem")


def test_an_organ_that_was_not_contoured_is_no_difference(page):
    select(page, "mandible")
    page.get_by_role("button", name="Largest difference").click()
    assert page.inner_text("#spoken") == "the reference does not have this organ"
    select(page, "brainstem")
    page.get_by_role("button", name="Largest difference").click()
    differences = ("prediction brainstem, reference –", "prediction –, reference brainstem")
    assert page.inner_text("#under-cursor").split(" · ")[1] in differences

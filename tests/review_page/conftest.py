"""A small case, and its page in a real browser."""

import shutil

import numpy as np
import pytest

from tests.review_page.driver import COLORS, SIZE, SPACING, settle
from utils.reporting.review.page import CaseReview, OrganRow, write_review_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def z_y_x():
    return np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij")


def box(z, y, x):
    mask = np.zeros(SIZE, dtype=bool)
    mask[slice(*z), slice(*y), slice(*x)] = True
    return mask


@pytest.fixture(scope="session")
def review():
    """Three organs of different shape; the reference of the brainstem ends three slices earlier and is shifted."""
    z, y, x = z_y_x()
    prediction = np.zeros(SIZE, dtype=np.uint8)
    prediction[box((8, 17), (18, 26), (12, 20))] = 1
    prediction[box((2, 6), (4, 12), (6, 24))] = 2
    prediction[box((6, 12), (10, 20), (23, 28))] = 3
    reference = np.where(prediction == 1, 0, prediction).astype(np.uint8)
    reference[box((8, 14), (18, 26), (12, 20)) | box((10, 11), (14, 26), (12, 20))] = 1
    organs = [
        OrganRow(
            name="parotid_left", color=COLORS["parotid_left"], label=3, flags=["low confidence"], values={"Dice": 1.0}
        ),
        OrganRow(name="brainstem", color=COLORS["brainstem"], label=1, values={"Dice": 0.75}),
        OrganRow(name="mandible", color=COLORS["mandible"], label=2, flags=["unusual volume"], values={"Dice": None}),
    ]
    return CaseReview(
        case_id="case_7",
        image_hu=(5 * z + 3 * y + 4 * x - 120).astype(np.int16),
        spacing_zyx_mm=SPACING,
        prediction=prediction,
        reference=reference,
        heatmap=np.exp(-((z - 4) ** 2 + (y - 8) ** 2 + (x - 15) ** 2) / 20.0),
        organs=organs,
        flags=["impossible arrangement"],
    )


@pytest.fixture(scope="session")
def browser():
    """Chromium, driven by playwright; without one of them the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: see requirements-test.txt")
    if BROWSER is None:
        pytest.skip("no Chromium on this machine")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=BROWSER, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """A function that writes a page, opens it and returns it; nothing may be requested, and nothing may go wrong."""
    asked, problems, contexts = [], [], []

    def open_review(review, **options):
        write_review_page(tmp_path / "case_7.html", review)
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto((tmp_path / "case_7.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        settle(page)
        return page

    open_review.asked, open_review.problems = asked, problems
    yield open_review
    for context in contexts:
        context.close()
    assert not problems
    assert {url for url in asked if not url.startswith(("file:", "blob:"))} == set()


@pytest.fixture
def page(open_page, review):
    return open_page(review)

"""The list of review pages in a browser: it sorts, filters and leads to the pages, and asks for nothing."""

import math

import pytest

from utils.reporting.review.index import IndexCell, IndexRow, write_index

pytestmark = pytest.mark.slow
HOSTILE = "<img src=x onerror=document.title='hacked'>"
ROWS = [
    ("p10", ["missed: larynx"], "0.000 larynx", 0.0, "∞ mm larynx", math.inf),
    ("p2", [], "0.700 brainstem", 0.7, "9.5 mm mandible", 9.5),
    ("p1", [], "0.810 mandible", 0.81, "12.1 mm brainstem", 12.1),
    ("p3", ["failed"], "", None, "", None),
    (HOSTILE, [HOSTILE], "0.500 larynx", 0.5, HOSTILE, 20.0),
]


@pytest.fixture
def index(tmp_path):
    rows = []
    for case_id, flags, low, low_order, far, far_order in ROWS:
        page = None if case_id == "p3" else f"{case_id}.html"
        cells = [IndexCell(low, low_order), IndexCell(far, far_order)]
        rows.append(IndexRow(case_id=case_id, page=page, flags=flags, cells=cells))
        if page:
            title = f"page of {'it' if case_id == HOSTILE else case_id}"
            (tmp_path / page).write_text(f"<title>{title}</title>", encoding="utf-8")
    write_index(tmp_path / "index.html", "Evaluated cases", ["lowest Dice", "largest HD95"], rows)
    return tmp_path / "index.html"


@pytest.fixture
def open_index(browser, index):
    """A function that opens the list with options of the browser's context; nothing may be requested or go wrong."""
    asked, problems, contexts = [], [], []

    def open_it(**options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options}))
        page = contexts[-1].new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text))
        page.goto(index.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not problems
    assert {url for url in asked if not url.startswith("file:")} == set()


def cases(page):
    """The cases that are seen, from top to bottom."""
    rows = page.locator("tbody tr").all()
    return [row.locator("td").first.inner_text().removesuffix(" (no page)") for row in rows if row.is_visible()]


def test_flagged_cases_come_first_and_every_column_sorts_both_ways(open_index):
    page = open_index()
    assert cases(page) == ["p3", "p10", HOSTILE, "p2", "p1"]
    expected = {
        "case": [HOSTILE, "p1", "p2", "p3", "p10"],  # numbers in names by their value
        "lowest Dice": ["p10", HOSTILE, "p2", "p1", "p3"],
        "largest HD95": ["p2", "p1", HOSTILE, "p10", "p3"],
    }
    for heading, order in expected.items():
        button = page.get_by_role("button", name=heading)
        button.click()
        assert cases(page) == order
        button.press("Enter")
        unknown = [case for case in order if case == "p3" and heading != "case"]  # without a value: last again
        assert cases(page) == [case for case in order[::-1] if case not in unknown] + unknown
        assert page.locator("th[aria-sort]").all_inner_texts() == [heading]
        assert page.get_attribute("th[aria-sort]", "aria-sort") == "descending"


def test_only_flagged_cases_are_shown_on_request(open_index):
    page = open_index()
    page.get_by_label("only flagged cases").check()
    assert cases(page) == ["p3", "p10", HOSTILE]


def test_links_lead_to_the_pages_and_names_stay_text(open_index):
    page = open_index()
    assert page.locator("img").count() == 0
    assert page.title() == "Evaluated cases: 3 of 5 flagged"
    for case_id, title in (("p10", "page of p10"), (HOSTILE, "page of it")):
        page.get_by_role("link", name=case_id).click()
        assert page.title() == title
        page.go_back()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_list_fits_the_screen_in_light_and_dark(open_index, width):
    darkness = []
    for scheme in ("light", "dark"):
        page = open_index(viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        darkness.append(sum(map(int, color.removeprefix("rgb(").removesuffix(")").split(","))))
    assert darkness[0] > 700 > 150 > darkness[1]

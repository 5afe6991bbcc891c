"""What a review page keeps and saves, and what it never does."""

import csv
import io

import numpy as np
import pytest

from tests.review_page.driver import press, settle
from utils.config.preset import load_preset
from utils.evaluation.ratings import COLUMNS, read_ratings
from utils.io.segmentations import OrganNameResolver
from utils.reporting.review.page import CaseReview, OrganRow, write_review_page

HOSTILE = "</script><img src=x onerror=document.title='hacked'>"
pytestmark = pytest.mark.slow


def test_ratings_are_kept_and_saved(page, tmp_path):
    page.fill("#rater", "Dr. B, second")
    page.locator("#rater").blur()
    press(page, "k", "2")
    page.fill("#comment", '=HYPERLINK("x"), too\nwide')
    page.locator("#comment").blur()
    press(page, "k", "5")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    settle(page)
    assert page.locator("td.rating").all_inner_texts() == ["–", "5", "2"]
    assert page.input_value("#rater") == "Dr. B, second"

    with page.expect_download() as download:
        page.click("text=Save ratings")
    assert download.value.suggested_filename == "ratings_case_7_Dr._B_second.csv"
    download.value.save_as(tmp_path / "ratings.csv")
    content = (tmp_path / "ratings.csv").read_bytes()
    assert content.startswith(b"case,organ,rating,comment,rater,date\r\n")
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert rows[0] == list(COLUMNS)
    assert [row[:5] for row in rows[1:]] == [
        ["case_7", "brainstem", "5", "", "Dr. B, second"],
        ["case_7", "mandible", "2", '\'=HYPERLINK("x"), too\nwide', "Dr. B, second"],
    ]
    ratings = read_ratings([tmp_path / "ratings.csv"], OrganNameResolver(load_preset("openkbp")))
    assert {rating.organ: rating.value for rating in ratings} == {"brainstem": 5, "mandible": 2}


def test_pages_of_other_content_have_other_ratings(page, review, tmp_path):
    press(page, "3")
    other = CaseReview(**{**vars(review), "prediction": np.roll(review.prediction, 1, axis=0)})
    write_review_page(tmp_path / "other.html", other)
    page.goto((tmp_path / "other.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    assert page.locator("td.rating").all_inner_texts() == ["–"] * 3


def test_a_page_without_a_name_goes_by_its_file(open_page, review):
    page = open_page(CaseReview(**{**vars(review), "case_id": None, "reference": None, "heatmap": None}))
    assert page.title() == "case_7"
    assert page.inner_text("h1") == "case_7"
    for name in ("reference", "difference", "heatmap"):
        assert page.locator(f"[data-toggle={name}]").is_hidden()
    assert page.locator("#largest-difference").is_hidden()


def test_hostile_names_do_nothing(open_page, review):
    organs = [OrganRow(**{**vars(organ), "name": HOSTILE, "flags": [HOSTILE]}) for organ in review.organs[:1]]
    organs += review.organs[1:]
    values = {"case_id": HOSTILE, "organs": organs, "flags": [HOSTILE], "notes": [HOSTILE]}
    page = open_page(CaseReview(**{**vars(review), **values}))
    assert page.title() == HOSTILE
    assert page.inner_text("h1") == HOSTILE
    assert page.locator("img").count() == 0
    with page.expect_download() as download:
        page.click("text=Save ratings")
    assert download.value.suggested_filename == "ratings_script_img_src_x_onerror_document.title_hacked_.csv"


def test_the_policy_refuses_addresses_and_foreign_code(open_page, review):
    page = open_page(review)
    refused = page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            const code = document.createElement("script");
            code.textContent = "document.title = 'hacked'";
            document.body.append(code);
            new Image().src = "https://127.0.0.1:9/picture.png";
            await fetch("https://127.0.0.1:9/").catch(() => {});
            await new Promise((done) => setTimeout(done, 100));
            return refused;
        }"""
    )
    assert {"script-src-elem", "img-src", "connect-src"} <= set(refused)
    assert page.title() == "case_7"
    assert all("Content Security Policy" in problem for problem in open_page.problems)
    open_page.problems.clear()
    open_page.asked.clear()  # they did not leave the browser


def test_a_page_that_asks_for_something_would_be_noticed(browser, tmp_path):
    (tmp_path / "page.html").write_text('<img src="http://127.0.0.1:9/picture.png">', encoding="utf-8")
    asked = []
    with browser.new_context() as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
    assert "http://127.0.0.1:9/picture.png" in asked

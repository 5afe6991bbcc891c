"""page.py: one file that names no address and, unless asked, no case."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from utils.reporting.review.page import CaseReview, OrganRow, write_review_page

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def review():
    prediction = np.zeros((4, 6, 5), dtype=np.uint8)
    prediction[1:3, 2:4, 1:4] = 3
    return CaseReview(
        case_id="pt_7",
        patient_id="4711",
        image_hu=np.zeros(prediction.shape, dtype=np.int16),
        spacing_zyx_mm=(3.0, 2.0, 1.5),
        prediction=prediction,
        organs=[OrganRow(name="cord", color=(1, 2, 3), label=3, values={"HD95 (mm)": float("inf"), "Dice": None})],
    )


def write(folder, review):
    write_review_page(folder / "page.html", review)
    return (folder / "page.html").read_text(encoding="utf-8")


def facts(text):
    return json.loads(re.search(r'id="facts">(.*?)</script>', text)[1])


def test_the_page_is_one_file_without_addresses(review, tmp_path):
    text = write(tmp_path, review)
    assert not re.search(r"https?:|<link|<iframe|url\(|@import|\bfetch\(|XMLHttpRequest", text)
    assert "default-src 'none'; script-src 'sha256-" in html.unescape(text)
    assert "unsafe" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_case_and_patient_are_named_only_if_they_are_given(review, tmp_path):
    assert "<title>pt_7</title>" in write(tmp_path, review)
    assert facts(write(tmp_path, review))["patient_id"] == "4711"
    text = write(tmp_path, replace(review, case_id=None, patient_id=None))
    assert "pt_7" not in text
    assert "4711" not in re.sub(r'<script type="text/plain".*?</script>', "", text)


def test_names_cannot_add_markup(review, tmp_path):
    organs = [replace(review.organs[0], name=HOSTILE, flags=[HOSTILE])]
    text = write(tmp_path, replace(review, case_id=HOSTILE, organs=organs, flags=[HOSTILE], notes=[HOSTILE]))
    assert "<img" not in text
    assert facts(text)["organs"][0]["name"] == HOSTILE
    assert facts(text)["case_id"] == HOSTILE


def test_values_that_json_cannot_hold_are_text(review, tmp_path):
    assert facts(write(tmp_path, review))["organs"][0]["values"] == {"HD95 (mm)": "infinite", "Dice": None}


def test_ratings_belong_to_the_content_not_to_the_name(review, tmp_path):
    key = facts(write(tmp_path, review))["key"]
    assert facts(write(tmp_path, replace(review, case_id="another")))["key"] == key
    moved = np.roll(review.prediction, 1, axis=0)
    assert facts(write(tmp_path, replace(review, prediction=moved)))["key"] != key


def test_volumes_that_do_not_fit_are_refused(review, tmp_path):
    with pytest.raises(ValueError, match="reference: expected the image's shape"):
        write(tmp_path, replace(review, reference=review.prediction[1:]))
    with pytest.raises(ValueError, match=r"prediction: the labels \[3\] belong to no organ"):
        write(tmp_path, replace(review, organs=[]))
    assert not list(tmp_path.iterdir())

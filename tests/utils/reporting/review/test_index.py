"""utils/reporting/review/index.py: the list of review pages."""

import base64
import hashlib
import math
import re
from html.parser import HTMLParser

import pytest

from utils.errors import CaseFailure, UserError
from utils.reporting.review.index import (
    SEGMENTED_COLUMNS,
    IndexCell,
    IndexRow,
    require_own_index,
    segmented_rows,
    unusual_volumes,
    write_index,
)

HOSTILE = "<img src=x onerror=alert(1)>\"'&.?#%"


class TableReader(HTMLParser):
    """The rows of the page as text, the links, and the names of all elements."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.links, self.elements, self.in_cell = [], [], set(), False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True
        elif tag == "a":
            self.links.append(dict(attributes)["href"])

    def handle_endtag(self, tag):
        self.in_cell &= tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def organ(confidence=0.9, volume_ml=30.0, flags=()):
    known = {} if confidence is None else {"confidence": confidence}
    return {**known, "volume_ml": volume_ml, "flags": list(flags)}


REPORTS = {
    "p1": {"case_flags": [], "organs": {"brainstem": organ(0.7), "larynx": organ(0.8)}},
    "p2": {"case_flags": [], "organs": {"brainstem": organ(0.6, 200, ["unusual volume"]), "larynx": organ(0.5)}},
    "p3": {"case_flags": ["only 1 of 3"], "organs": {"brainstem": organ(), "larynx": organ(None, 0, ["not found"])}},
    "p4": {"organs": {"brainstem": organ(0.95, 100)}},  # of an early version; a volume without a flag is cut off
}


@pytest.fixture
def page(tmp_path):
    for name in ("p1", "p2", "p4"):
        (tmp_path / f"{name}.html").touch()
    rows = segmented_rows(tmp_path, REPORTS, {"p5": CaseFailure("damaged")}, names=True)
    write_index(tmp_path / "index.html", "Segmented cases", SEGMENTED_COLUMNS, rows)
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_flagged_cases_stand_first_with_links_to_their_pages(page):
    shown = TableReader(page)
    volumes = "brainstem 200 ml, expected 3 to 70"
    assert shown.rows == [
        ["case", "flags", "lowest confidence", "unusual volumes"],
        ["p5(no page)", "failed: damaged", "", ""],
        ["p2", "unusual volume: brainstem", "0.50 larynx", volumes],
        ["p3(no page)", "only 1 of 3not found: larynx", "0.90 brainstem", ""],
        ["p1", "", "0.70 brainstem", ""],
        ["p4", "", "0.95 brainstem", ""],
    ]
    assert shown.links == ["p2.html", "p1.html", "p4.html"]
    assert "<title>Segmented cases: 3 of 5 flagged</title>" in page


def test_a_case_that_failed_is_not_named_without_names(tmp_path):
    failures = {"Miller_Anna": CaseFailure("/data/Miller_Anna.nii.gz: damaged")}
    write_index(tmp_path / "index.html", "x", SEGMENTED_COLUMNS, segmented_rows(tmp_path, {}, failures, names=False))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Miller" not in text
    assert TableReader(text).rows[1][:2] == ["(not named)(no page)", "failed: see the summary"]


def test_names_from_files_are_text_and_links_lead_to_their_files(tmp_path):
    row = IndexRow(case_id=HOSTILE, page=f"{HOSTILE}.html", flags=[HOSTILE], cells=[IndexCell(HOSTILE, math.inf)])
    write_index(tmp_path / "index.html", HOSTILE, [HOSTILE], [row])
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    shown = TableReader(text)
    assert shown.rows[1][:3] == [HOSTILE] * 3
    assert shown.links == ["%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%27%26.%3F%23%25.html"]
    assert "img" not in shown.elements
    assert 'data-order="Infinity"' in text  # as the script reads it


def test_only_the_style_and_the_script_of_the_page_may_run(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for element in ("style", "script"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"https?://| src=| on\w+=", page)


def test_a_page_of_this_program_is_replaced_and_no_other(tmp_path, page):
    require_own_index(tmp_path / "index.html", ["p1"])
    require_own_index(tmp_path / "absent.html", ["p1"])
    (tmp_path / "index.html").write_text("<title>mine</title>", encoding="utf-8")
    with pytest.raises(UserError, match=r"index.html: not written by this command"):
        require_own_index(tmp_path / "index.html", ["p1"])
    with pytest.raises(UserError, match="case Index: its page would be"):
        require_own_index(tmp_path / "new" / "index.html", ["p1", "Index"])


def test_unusual_volumes_name_what_is_expected():
    volumes = {"Brainstem": 2.5, "larynx": 30.0, "spleen": 9000.0, "mandible": 0.0, "parotid_left": 150.0}
    cell = unusual_volumes(volumes)
    assert cell == ("Brainstem 2.5 ml, expected 3 to 70; parotid_left 150 ml, expected 2.5 to 120", 2)
    assert unusual_volumes({"larynx": 30.0}) == ("", 0)

"""utils/evaluation/rating_report.py: tables and files of ratings."""

import csv
import json

import pytest

from tests.utils.evaluation.test_report import make
from utils.errors import UserError
from utils.evaluation.metrics import Status
from utils.evaluation.rating_report import (
    FILES,
    RatingReport,
    rating_table,
    remove_rating_files,
    require_own_rating_files,
    write_rating_report,
)
from utils.evaluation.ratings import Rating

SCORES = [make("p1", "brainstem", 0.5, 4.0), make("p2", "brainstem", 0.9, 2.0), make("p3", "brainstem", 0.7, 3.0)]
SCORES += [make("p1", "chiasm", 0.0, float("inf"), Status.MISSED), make("p2", "chiasm", 0, 0, Status.NOT_CONTOURED)]


def rate(case_id, organ, value, rater, comment=""):
    fields = {"case_id": case_id, "organ": organ, "value": value, "rater": rater, "comment": comment}
    return Rating(**fields, date="2026-11-27", place="")


RATINGS = [
    *(rate(case_id, "brainstem", value, "A") for case_id, value in (("p1", 2), ("p2", 5), ("p3", 4))),
    *(rate(case_id, "brainstem", value, "B", "top, too low") for case_id, value in (("p1", 3), ("p2", 5))),
    rate("p1", "chiasm", 1, "A"),
    rate("p2", "chiasm", 4, "A"),
]


def report(rows=SCORES, organs=("chiasm", "brainstem", "mandible")):
    return RatingReport(RATINGS, rows, organs, {"ratings": "r.csv"})


def test_the_table_shows_distribution_dice_and_agreement():
    table = rating_table(report())
    kappa = 1 - 0.5 / ((1 + 9 + 4 + 0) / 4)  # of 2, 5 and 3, 5
    assert list(table.headings) == [
        *("rated by people", "structures", "ratings", "1", "2", "3", "4", "5", "acceptable"),
        *("Dice at 1", "Dice at 2", "Dice at 3", "Dice at 4", "Dice at 5", "rated twice", "kappa"),
    ]
    assert table.rows == [
        ["chiasm", "2", "2", "1", "0", "0", "1", "0", "50 %", "0.000", "-", "-", "-", "-", "0", "-"],
        [
            "brainstem",
            "3",
            "5",
            "0",
            "1",
            "1",
            "1",
            "2",
            "60 %",
            "-",
            "0.500",
            "0.500",
            "0.700",
            "0.900",
            "2",
            f"{kappa:.2f}",
        ],
    ]
    assert table.groups[0][:9] == ["all organs", "5", "7", "1", "1", "1", "2", "2", "57 %"]
    assert "Ratings by rater: A 5, B 2." in table.notes
    assert "Ratings of structures without a Dice: 1." in table.notes


def test_without_scores_there_is_no_dice_and_organs_are_sorted():
    table = rating_table(report(rows=(), organs=None))
    assert not [heading for heading in table.headings if "Dice" in heading]
    assert [row[0] for row in table.rows] == ["brainstem", "chiasm"]
    assert not [note for note in table.notes if "Dice" in note]


def test_the_files_hold_every_rating_with_its_scores_and_the_summary(tmp_path):
    write_rating_report(tmp_path, report(), markdown=True, latex=True)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    with (tmp_path / "rated_structures.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(RATINGS)
    assert rows[3] == {
        **{"case": "p1", "organ": "brainstem", "rating": "3", "comment": "top, too low", "rater": "B"},
        **{"date": "2026-11-27", "dice": "0.5", "hd95_mm": "4", "surface_dice": "0.25"},
    }
    assert (rows[5]["dice"], rows[6]["dice"]) == ("0", "")
    with (tmp_path / "rating_summary.csv").open(encoding="utf-8") as file:
        chiasm, brainstem, total = csv.DictReader(file)
    assert (chiasm["num_1"], chiasm["median_dice_1"], chiasm["kappa"]) == ("1", "0", "")
    assert (brainstem["acceptable"], brainstem["num_rated_twice"]) == ("0.6", "2")
    assert total["num_ratings"] == "7"
    content = json.loads((tmp_path / "ratings.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["raters"] == {"A": 5, "B": 2}
    assert content["organs"][1]["counts"] == {"1": 0, "2": 1, "3": 1, "4": 1, "5": 2}

    write_rating_report(tmp_path, report())
    assert {path.name for path in tmp_path.iterdir()} == set(FILES) - {"ratings.md", "ratings.tex"}
    remove_rating_files(tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_of_others_and_the_ratings_themselves_are_not_replaced(tmp_path):
    (tmp_path / "rating_summary.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not written by this command"):
        require_own_rating_files(tmp_path, [])
    remove_rating_files(tmp_path)
    assert (tmp_path / "rating_summary.csv").read_text(encoding="utf-8") == "mine"
    write_rating_report(tmp_path / "own", report())
    require_own_rating_files(tmp_path / "own", [tmp_path / "r.csv"])
    with pytest.raises(UserError, match="would be replaced"):
        require_own_rating_files(tmp_path / "own", [tmp_path / "own" / "rated_structures.csv"])

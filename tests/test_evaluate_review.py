"""evaluate.py --review and --ratings from the command line."""

import pytest

import evaluate
from tests.test_evaluate import REPORT, read_scores, run, write_label
from utils.config.preset import load_preset
from utils.io.color_table import write_color_table
from utils.runtime.command_line import run_main


def write_review_case(folder):
    for side in ("ref", "pred", "ct"):
        write_label(folder / side / "a.mha", {1: (0, 4)})


def test_pages_of_the_cases_are_written_beside_the_scores(tmp_path, caplog):
    write_review_case(tmp_path)
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "b.mha", {1: (0, 4)})
    assert run(tmp_path, "--preset", "phantom", "--review", tmp_path / "ct") == 0
    assert {path.name for path in (tmp_path / "scores" / "review").iterdir()} == {"a.html", "index.html"}
    assert "no page of b" in caplog.text
    (tmp_path / "scores" / "review" / "ratings.csv").write_text("mine", encoding="utf-8")
    assert run(tmp_path, "--preset", "phantom", "--review", tmp_path / "ct") == 0
    assert (tmp_path / "scores" / "review" / "ratings.csv").read_text(encoding="utf-8") == "mine"
    (tmp_path / "scores" / "summary.json").unlink()
    assert run(tmp_path, "--preset", "phantom", "--review", tmp_path / "ct") == 2


def test_a_bug_in_a_page_is_shown_with_file_and_line(tmp_path, monkeypatch, caplog):
    write_review_case(tmp_path)
    monkeypatch.setattr("utils.evaluation.review.write_review_page", lambda *_: 1 / 0)
    assert run(tmp_path, "--preset", "phantom", "--review", tmp_path / "ct") == 1
    assert "error: page of a: bug: ZeroDivisionError" in caplog.text
    assert read_scores(tmp_path)


def test_a_case_that_is_named_like_the_list_of_pages_is_an_error(tmp_path, capsys):
    for side in ("ref", "pred", "ct"):
        write_label(tmp_path / side / "Index.mha", {1: (0, 4)})
    assert run(tmp_path, "--preset", "phantom", "--review", tmp_path / "ct") == 2
    assert "case Index: its page would be" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def write_ratings(folder, rows):
    text = "case,organ,rating,comment,rater,date\n" + "".join(f"{row},,AB,2026-11-27\n" for row in rows)
    (folder / "ratings.csv").write_text(text, encoding="utf-8")
    return folder / "ratings.csv"


def test_ratings_are_tabulated_beside_dice_or_alone(tmp_path, capsys):
    for name in ("a", "b"):
        write_label(tmp_path / "ref" / f"{name}.mha", {1: (0, 4)})
        write_label(tmp_path / "pred" / f"{name}_0000.mha", {1: (2, 6)})
    ratings = write_ratings(tmp_path, ["a,brainstem,4", "b_0000,Brainstem,2"])
    assert run(tmp_path, "--preset", "phantom", "--ratings", ratings) == 0
    scores, _, table = capsys.readouterr().out.partition("\n\nrated by people")
    assert scores.startswith("organ")
    assert " ".join(table.splitlines()[2].split()) == "brainstem 2 2 0 1 0 1 0 50 % - 0.500 - 0.500 - 0 -"
    files = {"ratings.json", "rating_summary.csv", "rated_structures.csv"}
    assert {path.name for path in (tmp_path / "scores").iterdir()} == REPORT | files
    assert run(tmp_path, "--preset", "phantom") == 0  # without ratings: their tables go
    assert {path.name for path in (tmp_path / "scores").iterdir()} == REPORT

    assert run_main(evaluate.main, ["--ratings", str(ratings), "--output", str(tmp_path / "scores"), "--markdown"]) == 0
    assert {path.name for path in (tmp_path / "scores").iterdir()} == REPORT | files | {"ratings.md"}
    assert "Dice" not in capsys.readouterr().out.partition("rated by people")[2]


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ("z,brainstem,4", (), "ratings.csv line 2: unknown case 'z'; the cases are a;"),
        ("a,heart,4", (), "ratings.csv line 2: unknown organ 'heart'; the organs are brainstem, "),
        ("a,heart,4", ("--preset", "phantom"), "ratings.csv line 2: unknown organ 'heart'; the organs are brainstem, "),
        ("a,brainstem,7", (), "ratings.csv line 2: expected a rating from 1"),
    ],
)
def test_wrong_ratings_are_one_line_and_nothing_is_written(tmp_path, capsys, row, options, message):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.mha", {1: (1, 3)})
        write_color_table(tmp_path / side, load_preset("phantom"))
    assert run(tmp_path, "--ratings", write_ratings(tmp_path, [row]), *options) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert message in error[0]
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("given", [("--prediction", "pred"), ("--ratings", "r.csv", "--review", "x"), ()])
def test_one_side_alone_is_an_error(capsys, given):
    with pytest.raises(SystemExit, match="2"):
        evaluate.main([*given, "--output", "scores"])
    assert "--prediction and --reference" in capsys.readouterr().err

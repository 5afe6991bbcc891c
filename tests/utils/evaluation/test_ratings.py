"""utils/evaluation/ratings.py: rating files."""

import pytest

from utils.config.preset import load_preset
from utils.errors import UserError
from utils.evaluation.matching import CasePair
from utils.evaluation.ratings import match_organs, match_ratings, read_ratings
from utils.io.segmentations import CaseFiles, OrganNameResolver

HEADER = "case,organ,rating,comment,rater,date\n"
ANY, PHANTOM = OrganNameResolver(None), OrganNameResolver(load_preset("phantom"))


def write(folder, rows, name="ratings.csv", header=HEADER, encoding="utf-8"):
    path = folder / name
    path.write_text(header + rows, encoding=encoding)
    return path


def shown(ratings):
    return [(rating.case_id, rating.organ, rating.value, rating.rater) for rating in ratings]


def test_a_file_of_the_review_page(tmp_path):
    path = write(
        tmp_path, 'p1,brainstem,4,"a, ""b""\nc",AB,2026-11-27T18:00:00Z\np1,mandible,,,AB,\n\np1,lens left,2,,AB,\n'
    )
    first, second = read_ratings([path], ANY)
    assert shown([first, second]) == [("p1", "brainstem", 4, "AB"), ("p1", "lens left", 2, "AB")]
    assert first.comment == 'a, "b"\nc'
    assert second.place == f"{path} line 6"  # the comment has two lines, and line 5 is empty


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_file_that_excel_saved_in_another_country(tmp_path, encoding, newline):
    text = 'case;organ;rating;comment;rater;date\np1;brainstem;4,0;"zu groß; unten";Müller;27.11.2026\n'
    (tmp_path / "r.csv").write_bytes(text.replace("\n", newline).encode(encoding))
    (rating,) = read_ratings([tmp_path / "r.csv"], ANY)
    assert (rating.value, rating.comment, rating.rater) == (4, "zu groß; unten", "Müller")


def test_texts_that_the_page_guards_against_spreadsheets_are_as_entered(tmp_path):
    (rating,) = read_ratings([write(tmp_path, "'-7,brainstem,4,'=1+1,'A',\n")], ANY)
    assert (rating.case_id, rating.comment, rating.rater) == ("-7", "=1+1", "'A'")


def test_a_folder_of_files_and_a_preset_that_names_organs(tmp_path):
    write(tmp_path, "p1,Brainstem,4.0,,AB,\n", "one.csv")
    write(tmp_path, "p2,brain_stem,5,,ab ,\n", "two.CSV")
    (tmp_path / "note.txt").write_text("x", encoding="utf-8")
    assert shown(read_ratings([tmp_path], PHANTOM)) == [("p1", "brainstem", 4, "AB"), ("p2", "brainstem", 5, "AB")]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (
            "case,organ,rating\n",
            "p1,brainstem,4\n",
            "line 1: expected the columns case,organ,rating,comment,rater,date",
        ),
        ("", "", "line 1: expected the columns .* got nothing"),
        (
            HEADER,
            "p1,brainstem,4,,A,\np1,mandible,7,,A,\n",
            r"line 3: expected a rating from 1 \(unusable\) to 5 .*'7'",
        ),
        (HEADER, "p1,brainstem,3.5,,A,\n", "line 2: expected a rating .* got '3.5'"),
        (HEADER, "p1,brainstem,good,,A,\n", "line 2: expected a rating .* got 'good'"),
        (HEADER, "p1,heart,4,,A,\n", "line 2: unknown organ 'heart'; the organs are brainstem, chiasm, "),
        (HEADER, "p1,brainstem,4,a,b,A,\n", "line 2: expected 6 cells, got 7; .* double quotes"),
        (HEADER, ",brainstem,4,,A,\n", "line 2: a rating without a case"),
        (HEADER, "p1,,4,,A,\n", "line 2: a rating without an organ"),
        (HEADER, 'p1,brainstem,4,"open,A,\np2,brainstem,4,,A,\n', "line 2: not a row of a CSV file"),
        (HEADER, "p1,brainstem,,,A,\n", "no organ is rated"),
    ],
)
def test_errors_name_file_and_line(tmp_path, header, rows, message):
    path = write(tmp_path, rows, header=header)
    with pytest.raises(UserError, match=message) as raised:
        read_ratings([path], PHANTOM)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_other_encodings_and_missing_files_are_errors(tmp_path):
    path = write(tmp_path, "p1,brainstem,4,groß,A,\n", encoding="cp1252")
    with pytest.raises(UserError, match="expected UTF-8 text"):
        read_ratings([path], ANY)
    with pytest.raises(UserError, match="no such file"):
        read_ratings([tmp_path / "x.csv"], ANY)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found none"):
        read_ratings([tmp_path / "empty"], ANY)


def test_the_last_rating_of_a_rater_counts_whatever_the_order_of_files(tmp_path):
    old = write(tmp_path, "p1,brainstem,2,,AB,2026-11-26\n", "old.csv")
    new = write(tmp_path, "p1,Brainstem,4,,ab,2026-11-27T08:00:00+01:00\n", "new.csv")
    for files in ([old, new], [new, old]):
        assert [rating.value for rating in read_ratings(files, ANY)] == [4]
    assert len(read_ratings([old, old], ANY)) == 1


@pytest.mark.parametrize("rater", ["AB", ""])
def test_different_ratings_that_no_date_orders_are_an_error(tmp_path, rater):
    rows = f"p1,brainstem,2,,{rater},27.11.2026\np1,brainstem,4,,{rater},28.11.2026\n"
    with pytest.raises(UserError, match=r"line 2 and .* line 3: ratings 2 and 4 .* remove one"):
        read_ratings([write(tmp_path, rows)], ANY)


def pairs_of(**references):
    return {
        reference: CasePair(CaseFiles(case_id=prediction), CaseFiles(case_id=reference))
        for reference, prediction in references.items()
    }


def test_cases_are_named_by_either_side_or_without_the_endings_of_programs(tmp_path):
    rows = "p1,a,1,,A,\np2_0000,a,2,,A,\np3_masks,a,3,,A,\nonly,a,4,,A,\n"
    ratings = read_ratings([write(tmp_path, rows)], ANY)
    matched = match_ratings(ratings, pairs_of(p1="p1_masks", p2="p2", p3="p3"), ["only"], ANY)
    assert sorted(shown(matched)) == [
        ("only", "a", 4, "A"),
        ("p1", "a", 1, "A"),
        ("p2", "a", 2, "A"),
        ("p3", "a", 3, "A"),
    ]


def test_a_case_that_is_named_twice_is_rated_twice(tmp_path):
    rows = "p1,a,1,,A,2026-01-02\np1_masks,a,3,,A,2026-01-01\np1,a,5,,B,\n"
    matched = match_ratings(read_ratings([write(tmp_path, rows)], ANY), pairs_of(p1="p1_masks"), [], ANY)
    assert sorted(shown(matched)) == [("p1", "a", 1, "A"), ("p1", "a", 5, "B")]


@pytest.mark.parametrize("case_id", ["p9", "p1_masks"])
def test_an_unknown_case_is_an_error_that_lists_the_cases(tmp_path, case_id):
    path = write(tmp_path, f"{case_id},a,1,,A,\n")
    with pytest.raises(UserError, match=f"line 2: unknown case '{case_id}'; the cases are p1, p1_0000"):
        match_ratings(read_ratings([path], ANY), pairs_of(p1="p1", p1_0000="p1_0000"), [], ANY)


def test_organs_get_the_spelling_of_the_evaluation(tmp_path):
    ratings = read_ratings([write(tmp_path, "p1,Lens-Lt,1,,A,\np2,lens_left,2,,A,\n")], ANY)
    assert [rating.organ for rating in match_organs(ratings, ["Lens_L"], ANY)] == ["Lens_L", "Lens_L"]
    assert {rating.organ for rating in match_organs(ratings, None, ANY)} == {"Lens-Lt"}
    with pytest.raises(UserError, match="line 2: unknown organ 'Lens-Lt'; the organs are chiasm"):
        match_organs(ratings, ["chiasm"], ANY)

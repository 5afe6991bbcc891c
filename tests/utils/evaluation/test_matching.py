"""utils/evaluation/matching.py: which files belong to one case."""

import logging

import pytest

from utils.errors import UserError
from utils.evaluation.matching import find_cts, match_cases
from utils.io.segmentations import CaseFiles


def test_cases_match_by_name_and_single_ones_always():
    assert matched("x", "y") == {"y": "x"}
    assert matched("ab", "bc") == {"b": "b"}
    with pytest.raises(ValueError, match=r"predictions are a, b, references are c"):
        matched("ab", "c")


def files(*names):
    return {name: CaseFiles(case_id=name) for name in names}


def matched(predictions, references):
    pairs = match_cases(files(*predictions), files(*references))
    return {name: pair.prediction.case_id for name, pair in pairs.items()}


def test_folders_of_masks_and_images_of_nnunet_meet_their_case(caplog):
    with caplog.at_level(logging.INFO):
        assert matched(("p1_masks", "p2_0000", "p3"), ("p1", "p2", "p3_0000")) == {
            "p1": "p1_masks",
            "p2": "p2_0000",
            "p3_0000": "p3",
        }
    assert caplog.messages == ["compared under different names: p1_masks with p1, p2_0000 with p2, p3 with p3_0000"]


def test_equal_names_come_first():
    assert matched(("pt_0000", "pt_0001", "a", "a_0000"), ("pt_0000", "pt_0001", "a")) == {
        name: name for name in ("pt_0000", "pt_0001", "a")
    }


@pytest.mark.parametrize(
    ("predictions", "references"),
    [(("p1_masks", "p1_0000"), ("p1", "p2")), (("p1_masks", "p2"), ("p1", "p1_0000"))],
)
def test_several_candidates_for_a_case_are_refused(predictions, references):
    with pytest.raises(UserError, match="may all be case p1; give both sides the same names"):
        matched(predictions, references)


def test_several_names_of_a_case_that_the_other_side_lacks_are_no_trouble():
    assert matched(("p1_masks", "p1_0000", "p2"), ("p2", "p3")) == {"p2": "p2"}


def cts(folder, predictions, references, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    found = find_cts(folder, match_cases(files(*predictions), files(*references)))
    return {case_id: path.relative_to(folder).as_posix() for case_id, path in found.items()}


def test_cts_match_cases_as_predictions_match_references(tmp_path):
    names = ("p1_0000.nii.gz", "p2/ct.nrrd", "p3.mha", "p4/a.mha", "p4/b.mha", "p5.nii.gz")
    assert cts(tmp_path, ("p1", "p2", "p3_masks", "p4"), ("p1", "p2", "p3", "p4"), *names) == {
        "p1": "p1_0000.nii.gz",
        "p2": "p2/ct.nrrd",
        "p3": "p3.mha",
    }


def test_a_ct_may_have_the_name_of_the_prediction(tmp_path):
    assert cts(tmp_path, ("scan_7",), ("observer",), "scan_7.mha", "scan_8.mha") == {"observer": "scan_7.mha"}
    assert cts(tmp_path, ("a",), ("b",), "a.mha", "b.mha") == {"b": "b.mha"}


def test_a_single_ct_belongs_to_a_single_case_whatever_their_names(tmp_path):
    assert cts(tmp_path, ("p1",), ("p1",), "image.mha") == {"p1": "image.mha"}
    assert cts(tmp_path, ("p1", "p2"), ("p1", "p2")) == {}


def test_two_cts_of_a_case_are_an_error(tmp_path):
    with pytest.raises(UserError, match="CTs p1_0000, p1_masks and .* p1 may all be case p1"):
        cts(tmp_path, ("p1",), ("p1",), "p1_0000.mha", "p1_masks.mha")

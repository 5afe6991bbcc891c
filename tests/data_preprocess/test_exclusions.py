"""exclusions.py: the list of structures that are left out, and what prepare does with it."""

import shutil

import pytest

from data_preprocess import prepare
from data_preprocess.case_index import read_index
from data_preprocess.cases import read_case_info
from data_preprocess.exclusions import read_exclusions
from data_preprocess.quality_control.measurements import read_quality
from tests.data_preprocess.small_case import write_masks
from utils.config.preset import CONFIG_FOLDER, load_preset
from utils.errors import UserError
from utils.runtime.command_line import run_main

PRESET = load_preset("pddca")


@pytest.fixture
def raw(tmp_path):
    """Two cases with brainstem, mandible and both parotids."""
    for name in ("p1", "p2"):
        write_masks(tmp_path / "raw" / name)
    return tmp_path / "raw"


def run(raw, output, text=None, *options):
    """Prepare with `text` as the list."""
    arguments = ["--source", "masks", "--preset", "pddca", "--input", raw, "--output", output, "--workers", "1"]
    if text is not None:
        path = raw.parent / "left_out.csv"
        path.write_text(text, encoding="utf-8")
        arguments += ["--exclude", path]
    return run_main(prepare.main, [str(argument) for argument in [*arguments, *options]])


def test_a_structure_that_is_left_out_counts_as_not_contoured(raw, tmp_path, caplog):
    text = 'case,organ,reason\np1,Parotid_L,"on the wrong side, mirrored"\n\np1, mandible, of another patient\n'
    with caplog.at_level("INFO"):
        assert run(raw, tmp_path / "cases", text) == 0
    left_out, complete = (read_case_info(tmp_path / "cases" / name) for name in ("p1", "p2"))
    assert sorted(left_out.organs) == ["brainstem", "parotid_right"]
    assert left_out.excluded == {"parotid_left": "on the wrong side, mirrored", "mandible": "of another patient"}
    assert len(complete.organs) == 4
    assert complete.excluded == {}
    indexed, _ = read_index(tmp_path / "cases", ["p1", "p2"])
    assert sorted(indexed.organs) == ["brainstem", "parotid_right"]
    assert sorted(read_quality(tmp_path / "cases" / "p1").organs) == ["brainstem", "parotid_right"]
    assert "structures left out by --exclude: 2 in 1 cases" in caplog.text
    page = (tmp_path / "cases" / "report.html").read_text(encoding="utf-8")
    assert "parotid_left: left out: on the wrong side, mirrored" in page
    assert page.count("<td>left out<td>") == 2


def test_a_structure_without_contour_is_noted(raw, tmp_path):
    assert run(raw, tmp_path / "cases", "case,organ,reason\np1,optic_chiasm,too small\n") == 0
    info = read_case_info(tmp_path / "cases" / "p1")
    assert info.notes[0] == "chiasm: listed in --exclude, but not contoured"
    assert info.excluded == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,organ,reason\n", "expected the header case,organ,reason, got 'id,organ,reason'"),
        ("", "expected the header case,organ,reason, got ''"),
        ("case,organ,reason\np1,mandible\n", "line 2: expected case, organ and reason, got 'p1,mandible'"),
        ("case,organ,reason\np1,mandible, \n", "line 2: expected case, organ and reason"),
        ("case,organ,reason\np1,mandible,a, b\n", "put quotes around a reason with commas"),
        (
            "case,organ,reason\n\np9,mandible,x\n",
            "line 3: there is no case p9 in the raw data (p1, p2); correct the id",
        ),
        ("case,organ,reason\np1,jaw,x\n", "line 2: jaw is no organ of preset pddca (brainstem, "),
        ("case,organ,reason\np1,Parotid_L,x\np1,parotid_left,y\n", "line 3: parotid_left of p1 is listed twice"),
    ],
)
def test_mistakes_in_the_list_are_told_before_any_work(text, message, raw, tmp_path, capsys):
    assert run(raw, tmp_path / "cases", text) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "left_out.csv" in line
    assert not (tmp_path / "cases").exists()


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--exclude .*nowhere.csv: no such file"):
        read_exclusions(tmp_path / "nowhere.csv", PRESET, [])


def test_prepared_cases_are_not_changed_silently(raw, tmp_path, capsys):
    """A structure that is left out later is still in the prepared case."""
    cases, text = tmp_path / "cases", "case,organ,reason\np1,mandible,x\n"
    assert run(raw, cases) == 0
    assert run(raw, cases, text) == 2
    assert "p1 was prepared with structures that" in capsys.readouterr().err
    shutil.rmtree(cases / "p1")
    assert run(raw, cases, text) == 0
    assert "mandible" not in read_case_info(cases / "p1").organs
    assert run(raw, cases, text) == 0


def test_a_case_of_which_nothing_is_left_fails_by_name(raw, tmp_path, caplog):
    organs = ("brainstem", "mandible", "parotid_left", "parotid_right")
    text = "case,organ,reason\n" + "".join(f"p1,{organ},x\n" for organ in organs)
    assert run(raw, tmp_path / "cases", text) == 1
    assert "p1: --exclude leaves out all of its structures; move the case out" in caplog.text
    assert not (tmp_path / "cases" / "p1").exists()


def test_the_list_for_openkbp_names_training_patients_and_its_organs():
    """The patients of train-pats are 1 to 200; test patients are never left out."""
    training = [f"pt_{number}" for number in range(1, 201)]
    excluded = read_exclusions(CONFIG_FOLDER / "openkbp_excluded.csv", load_preset("openkbp"), training)
    assert excluded["pt_18"]["larynx"] == "outside the body"

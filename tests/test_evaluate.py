"""evaluate.py from the command line."""

import csv
import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import surface_distance

import evaluate
from tests.posix import FORK_ONLY
from utils.config.preset import load_preset
from utils.evaluation.metrics import METRICS
from utils.imaging.geometry import Geometry
from utils.io.color_table import write_color_table
from utils.io.files import write_json
from utils.io.volumes import Volume, read_volume, write_volume
from utils.runtime.command_line import run_main

SHAPE, SPACING = (6, 8, 10), (3.0, 2.0, 1.0)
REPORT = {"scores.csv", "summary.csv", "summary.json", *(f"{metric.key}.png" for metric in METRICS)}


def write_label(path, boxes, spacing=SPACING):
    """A label map with one box per label: {label: (start, stop) along x}."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    for label, (start, stop) in boxes.items():
        array[1:5, 2:6, start:stop] = label
    write_volume(path, Volume(array=array, geometry=Geometry(size_zyx=SHAPE, spacing_zyx_mm=spacing)))


def run(folder, *options):
    arguments = ["--prediction", folder / "pred", "--reference", folder / "ref", "--output", folder / "scores"]
    return run_main(evaluate.main, [str(item) for item in (*arguments, "--workers", 1, *options)])


def read_scores(folder):
    with (folder / "scores" / "scores.csv").open(encoding="utf-8") as file:
        return {(row["case"], row["organ"]): row for row in csv.DictReader(file)}


def test_uncontoured_organs_are_skipped_and_missed_ones_counted(tmp_path, capsys):
    write_label(tmp_path / "ref" / "a.nii.gz", {1: (0, 4), 2: (6, 8)})
    write_label(tmp_path / "pred" / "a.nrrd", {1: (2, 6), 3: (8, 9)})
    assert run(tmp_path, "--preset", "phantom") == 0

    scores = read_scores(tmp_path)
    assert float(scores["a", "brainstem"]["dice"]) == pytest.approx(0.5)
    assert float(scores["a", "brainstem"]["hd95_mm"]) == pytest.approx(2.0)
    assert scores["a", "chiasm"]["status"] == "missed"
    assert (scores["a", "chiasm"]["dice"], scores["a", "chiasm"]["hd95_mm"]) == ("0", "inf")
    assert scores["a", "mandible"]["status"] == "not contoured"
    shown = capsys.readouterr().out
    assert "mean of small" in shown
    assert "Not contoured (not scored): mandible 1" in shown
    assert {path.name for path in (tmp_path / "scores").iterdir()} == REPORT


def test_color_tables_name_the_labels(tmp_path):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.mha", {3: (1, 3)})
        write_color_table(tmp_path / side, load_preset("phantom"))
    assert run(tmp_path) == 0
    assert read_scores(tmp_path)["a", "mandible"]["dice"] == "1"


@pytest.mark.slow
def test_tolerance_of_the_command_line_is_used_and_recorded(tmp_path):
    write_label(tmp_path / "ref" / "a.mha", {1: (0, 4)})
    write_label(tmp_path / "pred" / "a.mha", {1: (1, 5)})
    found = []
    for tolerance in ("0.5", "brainstem=1"):
        assert run(tmp_path, "--preset", "phantom", "--tolerance", tolerance) == 0
        found.append(float(read_scores(tmp_path)["a", "brainstem"]["surface_dice"]))
    assert 0 < found[0] < found[1] == 1
    origin = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))["origin"]
    assert origin["tolerances"]["brainstem"] == {"value_mm": 1.0, "source": "command line"}
    assert origin["tolerances"]["chiasm"]["source"] == "preset phantom"


def test_results_are_written_even_if_no_one_reads_the_table(tmp_path, monkeypatch):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.mha", {1: (0, 4)})
    reader, writer = os.pipe()
    os.close(reader)  # as `| true` does
    monkeypatch.setattr(sys, "stdout", os.fdopen(writer, "w", buffering=1, encoding="utf-8"))
    assert run(tmp_path, "--preset", "phantom") == 0
    assert {path.name for path in (tmp_path / "scores").iterdir()} == REPORT


@pytest.mark.slow
def test_different_grids_are_an_error_that_prints_both_unless_resampled(tmp_path, caplog):
    for name in ("a", "b"):
        write_label(tmp_path / "ref" / f"{name}.mha", {1: (1, 3)})
    write_label(tmp_path / "pred" / "a.mha", {1: (1, 3)}, spacing=(3.0, 2.0, 1.5))
    write_label(tmp_path / "pred" / "b.mha", {1: (1, 3)})
    assert run(tmp_path, "--preset", "phantom") == 1
    assert "spacing 3 x 2 x 1.5 mm" in caplog.text
    assert "spacing 3 x 2 x 1 mm" in caplog.text
    assert {case for case, _ in read_scores(tmp_path)} == {"b"}
    assert run(tmp_path, "--preset", "phantom", "--resample") == 0
    assert {case for case, _ in read_scores(tmp_path)} == {"a", "b"}


def test_cases_of_one_side_alone_are_named(tmp_path, caplog, capsys):
    for name in ("a", "b"):
        write_label(tmp_path / "ref" / f"{name}.mha", {1: (1, 3)})
    for name in ("a", "z"):
        write_label(tmp_path / "pred" / f"{name}.mha", {1: (1, 3)})
    assert run(tmp_path, "--preset", "phantom") == 1
    assert "b: has a reference but no prediction" in caplog.text
    assert "Failed cases (not in the table): b." in capsys.readouterr().out
    assert "z: has a prediction but no reference" in caplog.text


def test_many_cases_of_one_side_alone_are_one_line_with_their_number(tmp_path, caplog, capsys):
    write_label(tmp_path / "ref" / "a.mha", {1: (1, 3)})
    for name in "abcdefg":
        write_label(tmp_path / "pred" / f"{name}.mha", {1: (1, 3)})
    assert run(tmp_path, "--preset", "phantom") == 0
    assert caplog.text.count("no reference") == 1
    assert "b, c, d, e, ... (6 cases): has a prediction but no reference, not scored" in caplog.text
    (tmp_path / "ref").rename(tmp_path / "few")
    (tmp_path / "pred").rename(tmp_path / "ref")
    (tmp_path / "few").rename(tmp_path / "pred")
    assert run(tmp_path, "--preset", "phantom") == 1
    assert "error: b, c, d, e, ... (6 cases): has a reference but no prediction" in caplog.text
    assert "Failed cases (not in the table): b, c, d, e, ... (6 cases)." in capsys.readouterr().out


def test_the_output_folder_of_nnunet_names_its_labels(tmp_path):
    names = load_preset("phantom").organ_names
    order = {"background": 0, **{name: value for value, name in enumerate(reversed(names), 1)}}
    for case in ("a", "b"):
        write_label(tmp_path / "ref" / f"{case}.nii.gz", {1: (0, 4), 3: (6, 8)})
        write_label(tmp_path / "pred" / f"{case}.nii.gz", {order["brainstem"]: (0, 4), order["mandible"]: (6, 8)})
    write_color_table(tmp_path / "ref", load_preset("phantom"))
    for name, content in (("dataset.json", {"labels": order}), ("plans.json", {})):
        write_json(tmp_path / "pred" / name, content)
    for options in ((), ("--preset", "phantom"), ("--preset", "tcia_hn")):
        assert run(tmp_path, *options) == 0
        scores = read_scores(tmp_path)
        assert (scores["a", "brainstem"]["dice"], scores["b", "mandible"]["dice"]) == ("1", "1")


def test_label_maps_without_names_beside_references_in_another_order_are_refused(tmp_path, capsys):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.nii.gz", {1: (0, 4), 3: (6, 8)})
    write_color_table(tmp_path / "ref", load_preset("openkbp"))
    assert run(tmp_path, "--preset", "phantom") == 2
    error = capsys.readouterr().err
    assert f"{Path('pred') / 'a.nii.gz'}: its values have no names" in error
    assert "ref names them in another order than --preset: mandible is 3 in the preset, and 7 there" in error
    assert error.count("\n") == 1
    assert run(tmp_path, "--preset", "openkbp") == 0


@pytest.mark.slow
def test_comparison_with_itself_says_identical_and_finds_a_planted_shift(tmp_path, capsys):
    for i in range(8):
        write_label(tmp_path / "ref" / f"c{i}.mha", {1: (2, 8 - i % 3)})
        write_label(tmp_path / "pred" / f"c{i}.mha", {1: (2, 8 - i % 3)})
        write_label(tmp_path / "other" / f"c{i}.mha", {1: (3, 9 - i % 3)})
    options = ("--preset", "phantom", "--markdown", "--latex", "--compare")
    assert run(tmp_path, *options, tmp_path / "pred") == 0
    assert "identical" in capsys.readouterr().out
    assert run(tmp_path, *options, tmp_path / "other") == 0
    with (tmp_path / "scores" / "comparison.csv").open(encoding="utf-8") as file:
        rows = {row["metric"]: row for row in csv.DictReader(file)}
    assert float(rows["dice"]["p_corrected"]) == pytest.approx(2 / 2**8)
    assert 0 < float(rows["dice"]["interval_low"]) < float(rows["dice"]["mean_difference"])
    assert float(rows["hd95_mm"]["mean_difference"]) == pytest.approx(-1)
    assert "brainstem" in (tmp_path / "scores" / "comparison_dice.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_worst_cases_are_rendered_on_their_ct(tmp_path, caplog):
    for name in ("a", "b"):
        write_label(tmp_path / "ref" / f"{name}.mha", {1: (1, 3)})
        write_label(tmp_path / "pred" / f"{name}.mha", {1: (1, 3) if name == "b" else (3, 5)})
    write_label(tmp_path / "ct" / "a.nii.gz", {40: (0, 10)})
    assert run(tmp_path, "--preset", "phantom", "--overlay", tmp_path / "ct") == 0
    assert [path.name for path in (tmp_path / "scores" / "overlays").iterdir()] == ["a_brainstem.png"]
    (tmp_path / "ct" / "a.nii.gz").rename(tmp_path / "ct" / "z.nii.gz")
    assert run(tmp_path, "--preset", "phantom", "--overlay", tmp_path / "ct") == 0
    assert "no overlay of a" in caplog.text


def fail_on_four_voxels(prediction, reference, spacing_zyx_mm):
    return np.zeros(3).reshape(2) if reference.sum() == 4 * 4 * 4 else 0.0  # a bug: ValueError from numpy


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=FORK_ONLY)])
def test_a_bug_in_a_metric_is_shown_with_file_and_line_and_the_other_cases_are_scored(
    workers, tmp_path, monkeypatch, caplog, capsys
):
    for name, stop in (("a", 3), ("b", 4), ("c", 5)):
        for side in ("ref", "pred"):
            write_label(tmp_path / side / f"{name}.mha", {1: (0, stop)})
    monkeypatch.setattr("utils.evaluation.surface.centroid_distance_mm", fail_on_four_voxels)
    assert run(tmp_path, "--preset", "phantom", "--workers", workers) == 1
    assert "error: b: bug: ValueError: cannot reshape array" in caplog.text
    line = fail_on_four_voxels.__code__.co_firstlineno + 1
    assert f'{__file__}", line {line}, in fail_on_four_voxels' in caplog.text
    assert 'surface.py", line ' in caplog.text
    assert {case for case, _ in read_scores(tmp_path)} == {"a", "c"}
    assert "Failed cases (not in the table): b." in capsys.readouterr().out


def test_a_bug_in_the_only_case_is_not_a_user_error(tmp_path, monkeypatch, caplog):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "b.mha", {1: (0, 4)})
    monkeypatch.setattr("utils.evaluation.surface.centroid_distance_mm", fail_on_four_voxels)
    assert run(tmp_path, "--preset", "phantom") == 1
    assert "in fail_on_four_voxels" in caplog.text


def test_a_bug_in_an_overlay_is_shown_with_file_and_line(tmp_path, monkeypatch, caplog):
    for side in ("ref", "pred", "ct"):
        write_label(tmp_path / side / "a.mha", {1: (0, 4)})
    monkeypatch.setattr("utils.evaluation.figures.render_case", lambda *_, **__: 1 / 0)
    assert run(tmp_path, "--preset", "phantom", "--overlay", tmp_path / "ct") == 1
    assert "error: overlay of a: bug: ZeroDivisionError" in caplog.text
    assert f'{__file__}", line ' in caplog.text
    assert read_scores(tmp_path)


MISTAKES = {
    "no folder": "no such file or folder",
    "no names": "its values have no names",
    "nothing matches": "no case occurs on both sides",
    "output is a file": "expected a folder, but a file is in its place",
    "no CT folder": "no such folder; --overlay expects",
    "no folder of CTs for pages": "no such folder; --review expects",
    "tolerance": "expected millimeters",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_with_status_2_and_write_nothing(mistake, tmp_path, capsys):
    for name in ("a", "b"):
        write_label(tmp_path / "ref" / f"{name}.mha", {1: (1, 3)})
        if mistake != "no folder":
            write_label(tmp_path / "pred" / f"{name * 2 if mistake == 'nothing matches' else name}.mha", {1: (1, 3)})
    options = {
        "no names": (),
        "no CT folder": ("--preset", "phantom", "--overlay", tmp_path / "gone"),
        "no folder of CTs for pages": ("--preset", "phantom", "--review", tmp_path / "gone"),
        "tolerance": ("--preset", "phantom", "--tolerance", "much"),
    }
    if mistake == "output is a file":
        (tmp_path / "scores").write_text("", encoding="utf-8")
    assert run(tmp_path, *options.get(mistake, ("--preset", "phantom"))) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert MISTAKES[mistake] in error
    assert error.count("\n") == 1
    assert not (tmp_path / "scores").is_dir()


@pytest.mark.parametrize("name", ["summary.csv", "summary.json", "scores.md", "dice.png", "overlays/a_brainstem.png"])
def test_files_of_others_are_neither_replaced_nor_removed(name, tmp_path, capsys):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.mha", {1: (1, 3)})
    write_label(tmp_path / "ct" / "a.mha", {1: (1, 3)})
    path = tmp_path / "scores" / name
    path.parent.mkdir(parents=True)
    path.write_text("{}", encoding="utf-8")
    assert run(tmp_path, "--preset", "phantom", "--overlay", tmp_path / "ct") == 2
    assert f"scores/{name}: not written by this command" in capsys.readouterr().err
    assert [file for file in (tmp_path / "scores").rglob("*") if file.is_file()] == [path]
    assert path.read_text(encoding="utf-8") == "{}"


def test_a_report_replaces_its_own_tables_and_leaves_others(tmp_path):
    for side in ("ref", "pred"):
        write_label(tmp_path / side / "a.mha", {1: (1, 3)})
    assert run(tmp_path, "--preset", "phantom", "--markdown") == 0
    for name in ("scores.xlsx", "comparison.docx"):
        (tmp_path / "scores" / name).write_text("somebody's", encoding="utf-8")
    assert run(tmp_path, "--preset", "phantom") == 0
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {*REPORT, "scores.xlsx", "comparison.docx"}


@pytest.mark.parametrize(
    ("contoured", "organ", "predicted", "options", "reason"),
    [
        (False, "brainstem", "brainstem", ("--preset", "phantom"), "no organ has a voxel in any reference"),
        (True, "spleen", "spleen", ("--preset", "phantom"), "no organ of the preset is contoured; found spleen"),
        (True, "brainstem", "spleen", (), "no contoured organ has a predicted mask; give --preset"),
    ],
)
def test_nothing_to_score_is_said_and_nothing_is_written(
    contoured, organ, predicted, options, reason, tmp_path, capsys
):
    for side, name in (("ref", organ), ("pred", predicted)):
        for case in ("a", "b"):
            write_label(tmp_path / side / f"{case}.nii.gz", {1: (1, 3)} if contoured else {})
        (tmp_path / side / "organs.ctbl").write_text(f"0 background 0 0 0 0\n1 {name} 1 2 3 255\n", encoding="utf-8")
    assert run(tmp_path, *options) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: nothing to score: ")
    assert reason in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert not (tmp_path / "scores").exists()


def test_when_every_case_fails_nothing_is_written(tmp_path):
    write_label(tmp_path / "ref" / "a.mha", {1: (1, 3)})
    write_label(tmp_path / "pred" / "a.mha", {1: (1, 3)}, spacing=(3.0, 2.0, 1.5))
    assert run(tmp_path, "--preset", "phantom") == 2
    assert not (tmp_path / "scores").exists()


@pytest.mark.slow
def test_two_observers_get_the_scores_of_the_package(real_data, tmp_path):
    case, organs = "0522c0331", ("Lens-Rt", "Brainstem", "Parotid-Lt")
    for side, observer in (("pred", "radiographer"), ("ref", "oncologist")):
        (tmp_path / side / case).mkdir(parents=True)
        for organ in organs:
            source = real_data / "tcia-hn" / "test" / observer / case / "segmentations" / f"{organ}.nrrd"
            shutil.copy(source, tmp_path / side / case)
    assert run(tmp_path) == 0
    for organ in organs:
        prediction, reference = (read_volume(tmp_path / side / case / f"{organ}.nrrd") for side in ("pred", "ref"))
        spacing = reference.geometry.spacing_zyx_mm
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            distances = surface_distance.compute_surface_distances(reference.array > 0, prediction.array > 0, spacing)
        row = read_scores(tmp_path)[case, organ]
        expected = {
            "dice": surface_distance.compute_dice_coefficient(reference.array > 0, prediction.array > 0),
            "hd95_mm": surface_distance.compute_robust_hausdorff(distances, 95),
            "assd_mm": np.mean(surface_distance.compute_average_surface_distance(distances)),
            "surface_dice": surface_distance.compute_surface_dice_at_tolerance(distances, float(row["tolerance_mm"])),
        }
        for key, value in expected.items():
            assert float(row[key]) == pytest.approx(value, abs=1e-6)

"""utils/reporting/output_files.py: files of a case that appear complete or not at all, and the summary of a cohort."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from tests.posix import held_by_another_program
from utils.errors import CaseFailure, UserError
from utils.imaging.geometry import Geometry
from utils.io.files import write_json
from utils.io.own_files import checksum
from utils.io.volumes import Volume, read_volume
from utils.reporting.output_files import (
    OutputFiles,
    is_output,
    load_if_up_to_date,
    read_reports,
    require_own_summary,
    write_summary,
)

SOURCE = {"ct": "in/pt.nii.gz", "settings": {"overlap": 0.25, "checkpoint_sha256": "ab", "format": "nii.gz"}}
OLD_REPORT = {**SOURCE, "organs": {}}


@pytest.fixture
def files(tmp_path):
    return OutputFiles(folder=tmp_path, case_id="pt", format="nii.gz")


def write(files, texts):
    """Write a case with the given content by attribute name; in a folder of masks, of one mask."""
    with files.staged() as staged:
        for name, text in texts.items():
            path = getattr(staged, name)
            path = path / "chiasm.nii.gz" if name in ("masks", "probabilities") else path
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return files.replace_by(staged, {**SOURCE, "organs": {}})


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_case_is_up_to_date_only_with_the_same_ct_and_settings(files):
    assert load_if_up_to_date(files, SOURCE) is None
    report = write(files, {"label": "labels", "masks": "mask"})
    assert load_if_up_to_date(files, SOURCE) == report
    assert load_if_up_to_date(files, {**SOURCE, "ct": "elsewhere/pt.nii.gz"}) is None
    assert load_if_up_to_date(files, {**SOURCE, "settings": {**SOURCE["settings"], "overlap": 0.5}}) is None
    (files.masks / "chiasm.nii.gz").unlink()
    assert load_if_up_to_date(files, SOURCE) is None
    files.report.write_text("{ half", encoding="utf-8")
    assert load_if_up_to_date(files, SOURCE) is None


def test_a_case_of_an_earlier_release_is_up_to_date_with_its_label_map(files):
    write_json(files.report, OLD_REPORT)
    assert load_if_up_to_date(files, SOURCE) is None
    files.label.write_bytes(b"")
    assert load_if_up_to_date(files, SOURCE) == OLD_REPORT


def test_a_case_that_is_written_again_loses_its_earlier_files_and_no_others(files, tmp_path):
    write(files, {"label": "first", "masks": "mask", "overlay": "picture"})
    for name in ("pt.nrrd", "pt_2.nii.gz", "pt_masks/tumor.nii.gz", "organs.ctbl"):
        (tmp_path / name).write_text("somebody's", encoding="utf-8")
    write(files, {"label": "second", "probabilities": "0.5"})
    kept = {"pt.nrrd", "pt_2.nii.gz", "pt_masks/tumor.nii.gz", "organs.ctbl"}
    assert names_in(tmp_path) == {"pt.nii.gz", "pt.json", "pt_probabilities/chiasm.nii.gz", *kept}
    assert files.label.read_text(encoding="utf-8") == "second"


@pytest.mark.parametrize("name", ["pt.nii.gz", "pt.json", "pt_masks/chiasm.nii.gz", "pt_masks/tumor.nii.gz"])
def test_somebody_elses_file_is_not_replaced(name, files, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("somebody's", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{Path(name).name}: not written by this command.*move it away"):
        write(files, {"label": "labels", "masks": "mask"})
    assert names_in(tmp_path) == {name}
    assert (tmp_path / name).read_text(encoding="utf-8") == "somebody's"


def test_a_corrected_label_map_is_not_replaced(files, tmp_path):
    write(files, {"label": "labels", "overlay": "picture"})
    files.label.write_text("corrected by hand", encoding="utf-8")
    assert files.own_files() == {files.report, files.overlay}
    with pytest.raises(UserError, match=r"pt\.nii\.gz: not written by this command, or changed since"):
        write(files, {"label": "other labels"})
    assert files.label.read_text(encoding="utf-8") == "corrected by hand"
    assert names_in(tmp_path) == {"pt.nii.gz", "pt.png", "pt.json"}


def test_files_of_an_earlier_release_are_the_cases_own(files, tmp_path):
    write_json(files.report, OLD_REPORT)
    for name in ("pt.nii.gz", "pt.png", "pt.mha"):
        (tmp_path / name).write_text("old", encoding="utf-8")
    assert files.own_files() == {files.report, files.label, files.overlay}
    assert is_output(files.label)
    assert not is_output(tmp_path / "pt.mha")


def test_a_report_names_no_file_of_another_case_or_folder(files, tmp_path):
    outside = tmp_path.parent / "outside.nii.gz"
    for path in (outside, tmp_path / "pt_2.nii.gz"):
        path.write_text("x", encoding="utf-8")
    names = {f"../{outside.name}": checksum(outside), "pt_2.nii.gz": checksum(outside)}
    write_json(files.report, {**OLD_REPORT, "files": names})
    assert files.own_files() == {files.report}


def test_outputs_are_told_from_cts(files, tmp_path):
    write(files, {"label": "labels", "masks": "mask", "probabilities": "0.5"})
    (tmp_path / "ct.nii.gz").write_text("a CT", encoding="utf-8")
    write_json(tmp_path / "ct.json", {"Modality": "CT"})  # as dcm2niix writes
    found = [path for path in tmp_path.rglob("*.nii.gz") if is_output(path)]
    assert sorted(found) == [files.label, files.masks / "chiasm.nii.gz", files.probabilities / "chiasm.nii.gz"]


@pytest.mark.parametrize("num_moved", range(4))
def test_a_process_killed_while_it_moves_files_can_be_repeated(num_moved, files, tmp_path, monkeypatch):
    write(files, {"label": "first", "masks": "first", "overlay": "first"})
    second = {"label": "second", "masks": "second", "overlay": "second"}
    moves = []

    def move_some(source, target):
        if Path(source).parent.name.endswith(".partial") and Path(target).parent == tmp_path:
            moves.append(target)
            if len(moves) > num_moved:
                raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", move_some)
    with pytest.raises(KeyboardInterrupt):
        write(files, second)
    assert len(moves) == num_moved + 1
    assert load_if_up_to_date(files, SOURCE) is None
    monkeypatch.undo()
    report = write(files, second)
    assert load_if_up_to_date(files, SOURCE) == report
    assert names_in(tmp_path) == {"pt.json", "pt.nii.gz", "pt.png", "pt_masks/chiasm.nii.gz"}
    for path in (files.label, files.masks / "chiasm.nii.gz"):
        assert path.read_text(encoding="utf-8") == "second"


@pytest.mark.parametrize("held", ["pt.nii.gz", "pt.png", "pt.json", "pt_masks/chiasm.nii.gz"])
def test_nothing_is_replaced_while_a_viewer_has_a_file_open(held, files, tmp_path):
    first = write(files, {"label": "first", "masks": "first", "overlay": "first"})
    message = f"{Path(held).name}: cannot be replaced"
    with held_by_another_program([tmp_path / held]), pytest.raises(UserError, match=message):
        write(files, {"label": "second", "masks": "second"})
    assert load_if_up_to_date(files, SOURCE) == first
    assert files.own_files() == {tmp_path / name for name in names_in(tmp_path)}
    for path in (files.overlay, files.masks / "chiasm.nii.gz"):
        assert path.read_text(encoding="utf-8") == "first"
    write(files, {"label": "second"})
    assert names_in(tmp_path) == {"pt.json", "pt.nii.gz"}
    assert not files.masks.exists()


@pytest.mark.parametrize("case_id", ["pt", "HN [1]", "a*", "p?"])
def test_temp_files_of_a_killed_run_are_removed_and_those_of_other_cases_are_not(case_id, tmp_path):
    files = OutputFiles(tmp_path, case_id, "nii.gz")
    for name in ("nii.gz.77.partial.nii.gz", "json.77.partial", "png.5.partial.png", "rtstruct.dcm.8.partial.dcm"):
        (tmp_path / f".{case_id}.{name}").write_text("", encoding="utf-8")
    for name in (f".{case_id}.77.partial", f".{case_id}_masks.77.partial", f".{case_id}_probabilities.77.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "chiasm.nii.gz").write_text("half", encoding="utf-8")
    others = {f"{case_id}_2.json", f".{case_id}_2.nii.gz.77.partial.nii.gz", f".{case_id}.1.77.partial"}
    for name in others:
        (tmp_path / name).write_text("", encoding="utf-8")
    write(files, {"label": "labels"})
    assert {path.name for path in tmp_path.iterdir()} == {*others, files.label.name, files.report.name}


def test_masks_are_one_file_per_organ(files, tiny_preset):
    label = np.zeros((4, 5, 6), dtype=np.uint8)
    label[1, 2, 3] = 3
    geometry = Geometry(size_zyx=(4, 5, 6), spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(1.0, 2.0, 3.0))
    files.write_masks(Volume(array=label, geometry=geometry), tiny_preset)
    assert {path.name for path in files.masks.iterdir()} == {f"{name}.nii.gz" for name in tiny_preset.organ_names}
    mandible = read_volume(files.masks / "mandible.nii.gz")
    np.testing.assert_array_equal(mandible.array, label == 3)
    assert mandible.geometry.matches(geometry)
    assert not read_volume(files.masks / "chiasm.nii.gz").array.any()


def test_half_written_masks_never_get_their_final_name(files, tiny_preset):
    geometry = Geometry(size_zyx=(1, 1, 1), spacing_zyx_mm=(1.0, 1.0, 1.0))

    def break_off():
        yield np.zeros((1, 1, 1), dtype=np.float32)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"), files.staged() as staged:
        staged.write_probabilities(break_off(), geometry, tiny_preset)
    assert list(files.folder.iterdir()) == []


def test_the_summary_has_a_row_per_organ_and_one_per_failure(tmp_path, tiny_preset):
    organ = {"num_voxels": 5, "volume_ml": 0.25, "components": 2, "center_xyz_mm": [1.5, -2.0, 3.0], "peak": 0.75}
    missing = {"num_voxels": 0, "volume_ml": 0.0, "components": 0, "flags": ["not found"]}
    organs = dict.fromkeys(tiny_preset.organ_names, missing)
    organs["chiasm"] = {**organ, "flags": ["low confidence", "implausible shape"]}
    write_summary(tmp_path / "summary.csv", {"b": {"organs": organs}}, {"a": CaseFailure("is truncated, really")})
    rows = list(csv.DictReader((tmp_path / "summary.csv").open(encoding="utf-8")))
    assert [(row["case"], row["organ"]) for row in rows] == [("a", ""), *(("b", n) for n in tiny_preset.organ_names)]
    assert rows[0]["flags"] == "failed: is truncated, really"
    chiasm = rows[1 + tiny_preset.organ_names.index("chiasm")]
    assert (chiasm["num_voxels"], chiasm["components"], chiasm["x_mm"], chiasm["y_mm"]) == ("5", "2", "1.5", "-2")
    assert (chiasm["peak"], chiasm["plausibility"]) == ("0.75", "")
    assert chiasm["flags"] == "low confidence; implausible shape"


def test_a_summary_is_replaced_and_another_table_of_this_name_is_not(tmp_path):
    path = tmp_path / "summary.csv"
    require_own_summary(path)
    write_summary(path, {}, {"a": CaseFailure("is truncated")})
    require_own_summary(path)
    for header in ("organ,n,scored,missed", "patient,date", ""):  # the first is that of evaluate.py
        path.write_text(f"{header}\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"summary\.csv: not written by this command"):
            require_own_summary(path)


def test_reports_are_told_from_other_json_files(files, tmp_path):
    report = write(files, {"label": "labels"})
    write_json(tmp_path / "ct.json", {"Modality": "CT"})
    (tmp_path / "damaged.json").write_text("{", encoding="utf-8")
    assert read_reports(tmp_path) == {"pt": report}

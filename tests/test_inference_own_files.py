"""inference.py replaces what it wrote itself and nothing else, and does not take it for a CT."""

import csv
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import inference
from models.focusnet import build_network
from tests.dicom_files import ct_slices, save_all
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import save_checkpoint
from utils.io.color_table import write_color_table
from utils.io.volumes import Volume, read_volume, write_volume
from utils.runtime import device
from utils.runtime.command_line import run_main

TINY = (
    "networks.width=0.1",
    "grid.crop_size_vox=[8,24,20]",
    "grid.roi_size_vox=[4,12,8]",
    "grid.spacing_zyx_mm=[12.0,8.0,8.0]",
)
PRESET = load_preset("phantom", TINY)
SIZE, SPACING = (18, 30, 28), (8.0, 6.0, 6.5)


def head():
    """A ball of soft tissue in air."""
    z, y, x = (axis - (n - 1) / 2 for axis, n in zip(np.ogrid[:18, :30, :28], SIZE, strict=True))
    inside = (z * SPACING[0]) ** 2 + (y * SPACING[1]) ** 2 + (x * SPACING[2]) ** 2 < 60**2
    array = np.where(inside, 40, -1000).astype(np.int16)
    return Volume(array=array, geometry=Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(path, stage="backbone", preset=PRESET, networks={"s_net": build_network("s_net", PRESET)})
    return path


@pytest.fixture
def run(checkpoint, caplog):
    """A function that segments a path into a folder and returns the exit status."""
    caplog.set_level(logging.INFO)

    def segment(source, output, *options):
        arguments = ["--checkpoint", checkpoint, "--input", source, "--output", output, "--precision", "fp32", *options]
        return run_main(inference.main, [str(argument) for argument in arguments])

    return segment


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(run, capsys, source, output, *options):
    """The message of a run that has status 2 and changes and adds no file."""
    before = contents(output)
    assert run(source, output, *options) == 2
    assert contents(output) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("given", ["folder", "file"])
def test_a_ct_in_the_output_folder_is_not_replaced(given, run, tmp_path, capsys):
    write_volume(tmp_path / "ct.nii.gz", head())
    source = tmp_path if given == "folder" else tmp_path / "ct.nii.gz"
    assert "ct.nii.gz but no organs.ctbl" in refusal(run, capsys, source, tmp_path)
    write_color_table(tmp_path / "table", PRESET)
    (tmp_path / "table" / "organs.ctbl").rename(tmp_path / "organs.ctbl")
    assert "ct.nii.gz: not written by this command" in refusal(run, capsys, source, tmp_path)


def test_reference_label_maps_are_not_replaced(run, tmp_path, capsys):
    write_volume(tmp_path / "ct" / "p1.nii.gz", head())
    write_color_table(tmp_path / "labels", PRESET)
    write_volume(tmp_path / "labels" / "p1.nii.gz", Volume(array=np.ones(SIZE, np.uint8), geometry=head().geometry))
    message = refusal(run, capsys, tmp_path / "ct", tmp_path / "labels")
    file = Path("labels") / "p1.nii.gz"
    assert f"{file}: not written by this command, or changed since, so nothing is replaced; move it" in message


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--masks", "p1_masks/tumor.nii.gz"),
        ("--probabilities", "p1_probabilities/brainstem.nii.gz"),
        ("--rtstruct", "p1.rtstruct.dcm"),
        ("--save-overlay", "p1.png"),
        ("--tta", "p1.json"),
        ("--tta", "summary.csv"),
    ],
)
def test_no_file_of_anybody_else_is_replaced(option, name, run, tmp_path, capsys):
    save_all(ct_slices(head(), patient="p1"), tmp_path / "p1")
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("somebody's", encoding="utf-8")
    assert f"{name}: not written by this command" in refusal(run, capsys, tmp_path / "p1", tmp_path / "out", option)


def test_a_corrected_label_map_is_kept(run, tmp_path, capsys):
    write_volume(tmp_path / "ct" / "p1.nii.gz", head())
    assert run(tmp_path / "ct", tmp_path / "out") == 0
    capsys.readouterr()
    write_volume(tmp_path / "out" / "p1.nii.gz", Volume(array=np.ones(SIZE, np.uint8), geometry=head().geometry))
    assert run(tmp_path / "ct", tmp_path / "out") == 0  # it is finished
    assert "p1.nii.gz: not written by this command" in refusal(run, capsys, tmp_path / "ct", tmp_path / "out", "--tta")
    assert read_volume(tmp_path / "out" / "p1.nii.gz").array.all()


def test_with_other_settings_a_case_replaces_its_own_files(run, tmp_path, caplog):
    write_volume(tmp_path / "ct" / "p1.nii.gz", head())
    assert run(tmp_path / "ct", tmp_path / "out", "--masks") == 0
    assert run(tmp_path / "ct", tmp_path / "out", "--save-overlay", "--format", "nrrd") == 0
    names = {"p1.nrrd", "p1.png", "p1.json", "organs.ctbl", "summary.csv"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert run(tmp_path / "ct", tmp_path / "out", "--save-overlay", "--format", "nrrd") == 0
    assert "found 1 CTs; 1 are already segmented" in caplog.text
    report = json.loads((tmp_path / "out" / "p1.json").read_text(encoding="utf-8"))
    assert sorted(report["files"]) == ["p1.nrrd", "p1.png"]


def test_another_measured_precision_does_not_repeat_a_case(checkpoint, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    write_volume(tmp_path / "ct" / "p1.nii.gz", head())
    command = ["--checkpoint", checkpoint, "--input", tmp_path / "ct", "--output", tmp_path / "out", "--device", "cpu"]

    def segmented_in(measured, *options):
        monkeypatch.setattr(device, "best_float_precision", lambda device: measured)
        assert run_main(inference.main, [str(word) for word in (*command, *options)]) == 0
        return json.loads((tmp_path / "out" / "p1.json").read_text(encoding="utf-8"))["precision"]

    assert segmented_in("bf16") == "bf16"
    assert segmented_in("fp32") == "bf16"
    assert "found 1 CTs; 1 are already segmented" in caplog.text
    assert segmented_in("bf16", "--precision", "fp32") == "fp32"


def test_a_dicom_folder_can_be_its_own_output(run, tmp_path, caplog):
    save_all(ct_slices(head(), patient="p1"), tmp_path / "p1")
    before = contents(tmp_path / "p1")
    options = ("--masks", "--rtstruct")
    assert run(tmp_path / "p1", tmp_path / "p1", *options) == 0
    after = contents(tmp_path / "p1")
    assert before.items() <= after.items()
    assert run(tmp_path / "p1", tmp_path / "p1", *options) == 0
    assert "found 1 CTs; 1 are already segmented" in caplog.text
    assert contents(tmp_path / "p1") == after


def test_what_inference_wrote_is_no_ct(run, tmp_path, caplog, capsys):
    for name in ("p1/ct.nii.gz", "p2/ct.nii.gz"):
        write_volume(tmp_path / "all" / name, head())
    for _ in range(2):
        assert run(tmp_path / "all", tmp_path / "all" / "out", "--masks", "--probabilities") == 0
    assert "found 2 CTs; 2 are already segmented" in caplog.text
    message = refusal(run, capsys, tmp_path / "all" / "out", tmp_path / "other")
    assert "out: holds outputs of inference, but no CT; give the folder of the CTs" in message


def test_the_summary_lists_all_cases_of_the_folder(run, tmp_path):
    for name in ("p1", "p2", "p3"):
        write_volume(tmp_path / "ct" / f"{name}.nii.gz", head())
        assert run(tmp_path / "ct" / f"{name}.nii.gz", tmp_path / "out") == 0
    with (tmp_path / "out" / "summary.csv").open(encoding="utf-8") as file:
        assert list(dict.fromkeys(row["case"] for row in csv.DictReader(file))) == ["p1", "p2", "p3"]


def test_pages_are_listed_with_those_of_earlier_runs_and_their_list_is_replaced(run, tmp_path):
    for name in ("a", "b&c"):
        write_volume(tmp_path / "in" / f"{name}.mha", head())
    assert run(tmp_path / "in" / "a.mha", tmp_path / "out", "--review") == 0
    assert run(tmp_path / "in" / "b&c.mha", tmp_path / "out", "--review") == 0
    (tmp_path / "in" / "d.mha").write_text("not a CT", encoding="utf-8")
    assert run(tmp_path / "in", tmp_path / "out", "--review") == 1
    index = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert re.findall('href="(.*?)"', index) == ["a.html", "b%26c.html"]
    assert index.count("failed: see the summary") == 1
    assert str(tmp_path) not in index  # the reason names a file
    assert run(tmp_path / "in", tmp_path / "out", "--review", "--review-names") == 1
    assert str(tmp_path / "in" / "d.mha") in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_an_index_of_somebody_else_is_not_replaced(run, tmp_path, capsys):
    write_volume(tmp_path / "a.mha", head())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("<title>mine</title>", encoding="utf-8")
    assert "index.html: not written by this command" in refusal(
        run, capsys, tmp_path / "a.mha", tmp_path / "out", "--review"
    )
    write_volume(tmp_path / "index.mha", head())
    message = refusal(run, capsys, tmp_path / "index.mha", tmp_path / "new", "--review")
    assert "case index: its page would be" in message


def test_a_review_page_names_the_case_only_if_asked_and_is_replaced(run, tmp_path):
    write_volume(tmp_path / "in" / "pt_0815.nii.gz", head())
    out = tmp_path / "out"
    assert run(tmp_path / "in", out, "--review") == 0
    page = (out / "pt_0815.html").read_text(encoding="utf-8")
    assert "pt_0815" not in page
    assert "parotid_left" in page
    assert run(tmp_path / "in", out, "--review", "--review-names") == 0
    assert "<title>pt_0815</title>" in (out / "pt_0815.html").read_text(encoding="utf-8")
    assert run(tmp_path / "in", out) == 0
    assert not (out / "pt_0815.html").exists()
    (out / "pt_0815.html").write_text("of somebody else", encoding="utf-8")
    assert run(tmp_path / "in", out, "--review") == 2
    assert (out / "pt_0815.html").read_text(encoding="utf-8") == "of somebody else"

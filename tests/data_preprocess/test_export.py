"""export.py: raw cases as NIfTI on their own grid."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from data_preprocess import export
from data_preprocess.export import export_case, nifti_files
from data_preprocess.sources.base import RawCase
from data_preprocess.sources.openkbp import list_cases, read_case
from tests.data_preprocess.small_case import write_masks
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask
from utils.io.volumes import Volume
from utils.runtime.command_line import run_main


def run(openkbp, output, *options):
    arguments = ["--source", "openkbp", "--input", openkbp, "--output", output, "--workers", "1", *options]
    return run_main(export.main, [str(argument) for argument in arguments])


def test_geometry_is_kept(tiny_preset, tmp_path):
    image = np.arange(3 * 5 * 4, dtype=np.int16).reshape(3, 5, 4) - 30
    mask = np.zeros(image.shape, dtype=bool)
    mask[2, 4, 1] = True
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=(2.5, 1.5, 0.5), origin_xyz_mm=(-7.0, 8.0, 90.0))
    raw = RawCase(
        case_id="pt_7",
        volume=Volume(array=image, geometry=geometry),
        masks={"Mandible": crop_mask(mask, (0, 0, 0), geometry)},
        source="",
    )
    assert export_case(raw, tiny_preset, nifti_files(tmp_path, "pt_7")).missing == [
        n for n in tiny_preset.organ_names if n != "mandible"
    ]
    for kind, expected in (("images", image), ("labels", mask * np.uint8(3))):
        read = sitk.ReadImage(str(tmp_path / kind / "pt_7.nii.gz"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(read), expected)
        assert read.GetSize() == (4, 5, 3)
        np.testing.assert_allclose(read.GetSpacing(), (0.5, 1.5, 2.5))
        np.testing.assert_allclose(read.GetOrigin(), (-7.0, 8.0, 90.0), atol=1e-6)
        np.testing.assert_allclose(read.GetDirection(), np.eye(3).ravel(), atol=1e-9)
    assert sitk.ReadImage(str(tmp_path / "labels" / "pt_7.nii.gz")).GetPixelID() == sitk.sitkUInt8


def test_command_writes_every_case_and_skips_it_the_second_time(openkbp, tmp_path):
    output = tmp_path / "nifti"
    assert run(openkbp, output) == 0
    files = sorted(path.relative_to(output).as_posix() for path in output.glob("*/*"))
    cases = ("pt_1", "pt_2", "pt_201")
    assert files == [
        *(f"images/{case}.nii.gz" for case in cases),
        "labels/organs.ctbl",
        *(f"labels/{case}.nii.gz" for case in cases),
    ]
    assert "4 parotid_left 255 130 60 255" in (output / "labels" / "organs.ctbl").read_text(encoding="utf-8")

    label = sitk.ReadImage(str(output / "labels" / "pt_1.nii.gz"))
    np.testing.assert_allclose(label.GetSpacing(), (4.0, 4.0, 2.5))
    np.testing.assert_allclose(label.GetDirection(), np.eye(3).ravel(), atol=1e-9)
    raw = read_case(list_cases(openkbp)[0])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label) == 4, raw.masks["LeftParotid"].dense())
    image = sitk.GetArrayFromImage(sitk.ReadImage(str(output / "images" / "pt_1.nii.gz")))
    np.testing.assert_array_equal(image, raw.volume.array)

    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*.nii.gz")}
    assert run(openkbp, output) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*.nii.gz")} == before


def test_failing_case_does_not_stop_the_others(openkbp, tmp_path, caplog):
    (openkbp / "provided-data" / "train-pats" / "pt_2" / "ct.csv").unlink()
    assert run(openkbp, tmp_path / "nifti") == 1
    assert "pt_2: holds no ct.csv" in caplog.text.replace(str(openkbp), "")
    assert sorted(path.name for path in (tmp_path / "nifti" / "images").iterdir()) == ["pt_1.nii.gz", "pt_201.nii.gz"]


def test_only_one_split(openkbp, tmp_path):
    assert run(openkbp, tmp_path / "nifti", "--split", "test") == 0
    assert [path.name for path in (tmp_path / "nifti" / "images").iterdir()] == ["pt_201.nii.gz"]


def test_wrong_path_is_one_line_and_status_2(tmp_path, capsys):
    assert run(tmp_path / "nowhere", tmp_path / "nifti") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "nowhere: does not exist; expected a folder" in lines[0]
    assert not (tmp_path / "nifti").exists()


def test_the_test_cases_of_prepared_cases_are_exported(openkbp, tmp_path):
    (tmp_path / "cases").mkdir()
    splits = {"train": ["pt_1"], "val": ["pt_201"], "test": ["pt_2"]}  # the data set itself calls pt_201 a test case
    (tmp_path / "cases" / "splits.json").write_text(json.dumps(splits), encoding="utf-8")
    assert run(openkbp, tmp_path / "nifti", "--split", "test", "--cases", tmp_path / "cases") == 0
    assert [path.name for path in (tmp_path / "nifti" / "images").iterdir()] == ["pt_2.nii.gz"]


def test_notes_on_a_case_are_said(openkbp, tmp_path, caplog):
    """Without them a contour that was left out would look like a success."""
    (openkbp / "provided-data" / "validation-pats" / "pt_201" / "Mandible.csv").write_text(",data\n", encoding="utf-8")
    with caplog.at_level("INFO"):
        assert run(openkbp, tmp_path / "nifti", "--split", "test") == 0
    assert "pt_201: Mandible: the mask is empty, so it counts as not contoured" in caplog.text


def export_masks(raw, output, *options):
    """Export tiny cases of masks with the preset pddca."""
    arguments = ["--source", "masks", "--preset", "pddca", "--input", raw, "--output", output, "--workers", "1"]
    return run_main(export.main, [str(argument) for argument in [*arguments, *options]])


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys, folder, raw, *options):
    """The message of an export that has status 2 and changes nothing in `folder`."""
    before = contents(folder)
    assert export_masks(raw, folder, *options) == 2
    assert contents(folder) == before
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture(params=["nifti", "nnunet"])
def exported(request, tmp_path, capsys):
    """An exported folder with one case, the raw folder, to which a second case was added, and the format."""
    folder, form = tmp_path / "Dataset501_Head", ("--format", request.param)
    write_masks(tmp_path / "raw" / "p1")
    assert export_masks(tmp_path / "raw", folder, *form) == 0
    write_masks(tmp_path / "raw" / "p2")
    capsys.readouterr()
    return folder, tmp_path / "raw", form


@pytest.mark.parametrize("change", [["--preset", "tcia_hn"], ["--set", "organs.chiasm.aliases=['OpticChiasm']"]])
def test_cases_of_another_preset_are_not_relabeled(change, exported, capsys):
    folder, raw, form = exported
    if change[0] == "--preset":
        message = refusal(capsys, folder, raw, *form, *change)
        assert "label maps in this folder have " in message
        assert "choose another folder" in message
    else:  # the same organs
        assert export_masks(raw, folder, *form, *change) == 0


def test_new_cases_join_the_exported_ones_and_the_end_is_told(exported, caplog):
    folder, raw, form = exported
    before = contents(folder)
    with caplog.at_level("INFO"):
        assert export_masks(raw, folder, *form) == 0
    assert f"{folder}: exported 1 cases; 1 were already there" in caplog.text
    after = contents(folder)
    assert all(after[path] == content for path, content in before.items() if path.suffix != ".json")
    assert len([path for path in after if path.name.endswith(".nii.gz")]) == 4
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]


@pytest.mark.parametrize("side", ["image", "label"])
def test_one_file_of_a_case_alone_is_not_replaced(side, exported, capsys):
    folder, raw, form = exported
    ending = "_0000.nii.gz" if form[1] == "nnunet" and side == "image" else ".nii.gz"
    (there,) = folder.glob(f"{side}s*/p1{ending}")
    foreign = there.with_name(f"p2{ending}")
    foreign.write_text("somebody's", encoding="utf-8")
    assert f"{foreign}: not written by this command" in refusal(capsys, folder, raw, *form)


@pytest.mark.parametrize("form", ["nifti", "nnunet"])
def test_label_maps_of_unknown_organs_are_not_named(form, tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    labels = tmp_path / "Dataset501_Head" / ("labels" if form == "nifti" else "labelsTr")
    labels.mkdir(parents=True)
    (labels / "x.nii.gz").write_text("somebody's", encoding="utf-8")
    message = refusal(capsys, labels.parent, tmp_path / "raw", "--format", form)
    assert "holds x.nii.gz but no organs.ctbl" in message or "x.nii.gz: not written by this command" in message


@pytest.mark.parametrize("name", ["dataset.json", "splits_final.json"])
def test_files_of_another_nnunet_dataset_are_not_replaced(name, tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    folder = tmp_path / "Dataset501_Head"
    folder.mkdir()
    (folder / name).write_text('{"licence": "CC BY"}', encoding="utf-8")
    message = refusal(capsys, folder, tmp_path / "raw", "--format", "nnunet")
    assert f"{name}: not written by this command" in message


def test_the_raw_folder_as_output_loses_nothing(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    folder = tmp_path / "nifti"
    assert export_masks(tmp_path / "raw", folder) == 0
    before = contents(folder)
    arguments = ["--source", "labelmap", "--preset", "tcia_hn", "--input", folder, "--output", folder]
    assert run_main(export.main, [str(argument) for argument in arguments]) == 2
    assert "nifti: holds the raw data; choose another folder" in capsys.readouterr().err
    assert contents(folder) == before


def test_an_output_that_is_a_file_is_named(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "nifti"):
        assert export_masks(tmp_path / "raw", output) == 2
        assert "/file: expected a folder, but a file is in its place" in capsys.readouterr().err

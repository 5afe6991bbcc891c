"""inference.py: every bad input has a one-line message, leaves no partial files and does not stop other cases."""

import csv
import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless

import inference
from models.focusnet import build_network
from tests.dicom_files import change, ct_slices, save_all
from tests.posix import ANY_NAME, NOT_UTF8
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import save_checkpoint
from utils.io.volumes import Volume, write_volume
from utils.reporting import output_files
from utils.runtime.command_line import run_main

TINY = (
    "networks.width=0.1",
    "grid.crop_size_vox=[8,24,20]",
    "grid.roi_size_vox=[4,12,8]",
    "grid.spacing_zyx_mm=[12.0,8.0,8.0]",
)
SPACING = (8.0, 6.0, 6.5)


def head(depth=18, radius_mm=60):
    """A ball of soft tissue in air."""
    size = (depth, 30, 28)
    z, y, x = np.ogrid[: size[0], : size[1], : size[2]]
    mm = [(axis - (n - 1) / 2) * s for axis, n, s in zip((z, y, x), size, SPACING, strict=True)]
    array = np.where(sum(a**2 for a in mm) < radius_mm**2, 40, -1000).astype(np.int16)
    return Volume(array=array, geometry=Geometry(size_zyx=size, spacing_zyx_mm=SPACING))


def thin_head():
    """The same ball with slices of 4 mm."""
    volume = head(depth=36)
    geometry = Geometry(size_zyx=(36, 30, 28), spacing_zyx_mm=(4.0, 6.0, 6.5))
    return Volume(array=np.repeat(volume.array[9:27], 2, axis=0), geometry=geometry)


def with_values(change):
    volume = head()
    return Volume(array=change(volume.array), geometry=volume.geometry)


def with_nan(array):
    values = array.astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def chest():
    """Two lungs that reach up to the fourth slice from the top."""
    volume = head(depth=18, radius_mm=500)
    array = np.full_like(volume.array, -1000)
    array[:, 4:26, 2:26] = 40
    array[:15, 8:22, 5:12] = array[:15, 8:22, 16:23] = -850
    return Volume(array=array, geometry=volume.geometry)


def write_dicom(folder, edit=lambda slices: slices):
    save_all(edit(ct_slices(head(), patient=folder.name)), folder)


def one_position_twice(slices):
    change(slices, 5, ImagePositionPatient=slices[11].ImagePositionPatient)
    return slices


def shifted(slices):
    x, y, z = slices[6].ImagePositionPatient
    slices[6].ImagePositionPatient = [x, float(y) + 3, z]
    return slices


def reformatted(slices):
    for image in slices:
        image.ImageType = ["DERIVED", "SECONDARY", "MPR"]
    return slices


def with_gap(slices):
    return slices[:7] + slices[8:]


def of_modality(modality):
    def edit(slices):
        for image in slices:
            image.Modality = modality
        return slices

    return edit


def cut_short(folder):
    write_dicom(folder)
    path = sorted(folder.iterdir())[4]
    path.write_bytes(path.read_bytes()[:-300])


def badly_compressed(folder):
    def edit(slices):
        slices[3].file_meta.TransferSyntaxUID = JPEG2000Lossless
        slices[3].PixelData = encapsulate([b"not an image"])
        slices[3]["PixelData"].VR = "OB"
        return slices

    write_dicom(folder, edit)


def write_color(path):
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), dtype=np.uint8), isVector=True)
    sitk.WriteImage(image, str(path))


def write_4d(path):
    image = sitk.GetImageFromArray(np.zeros((2, 4, 5, 6), dtype=np.int16), isVector=False)
    sitk.WriteImage(image, str(path))


def write_half(path):
    write_volume(path, head())
    path.write_bytes(path.read_bytes()[:400])


BAD = {
    "gone.nii.gz": (lambda path: None, "no such file; check the path: .*gone.nii.gz"),
    "nan.nii.gz": (
        lambda path: write_volume(path, with_values(with_nan)),
        "1 of 15120 voxels are NaN or infinite; export the CT again: .*nan.nii.gz",
    ),
    "picture.nrrd": (
        lambda path: write_volume(path, with_values(lambda a: ((a + 1000) // 5).astype(np.uint8))),
        "values are not HU: 98 % of them lie between 0 and 208",
    ),
    "offset.mha": (
        lambda path: write_volume(path, with_values(lambda a: a + np.int16(1024))),
        r"as in a CT stored as HU \+ 1024; export the CT in Hounsfield units, or .* --hu-offset auto",
    ),
    "air.mha": (lambda path: write_volume(path, with_values(lambda a: np.full_like(a, -1000))), "values are not HU"),
    "flat.mha": (
        lambda path: write_volume(path, head(depth=2)),
        "at least 20 mm of the patient from top to bottom, got 2 slices of 8 mm; give the whole scan: .*flat.mha",
    ),
    "chest.mha": (lambda path: write_volume(path, chest()), "expected head and neck, but the lungs begin 24 mm below"),
    "garbage.nrrd": (lambda path: path.write_bytes(b"not a volume"), "cannot be read as a volume: damaged"),
    "half.nii.gz": (write_half, "is truncated: it holds fewer voxels"),
    "color.mha": (write_color, "expected a 3-D volume with one value per voxel, got 3 dimensions and 3 values"),
    "series.nii.gz": (write_4d, "expected a 3-D volume with one value per voxel, got 4 dimensions"),
    "scan.pdf": (lambda path: path.write_bytes(b"%PDF-1.7"), "cannot be read as a volume"),
    "empty": (lambda path: path.mkdir(), "expected DICOM files in this folder or below it, found none"),
    "pet": (lambda path: write_dicom(path, of_modality("PT")), "expected a CT, found PT series"),
    "one_slice": (
        lambda path: write_dicom(path, lambda slices: slices[:1]),
        "it has one slice, but the slice spacing needs two",
    ),
    "two_in_one": (lambda path: write_dicom(path, one_position_twice), "repeat a position: slice005.dcm and"),
    "gap": (lambda path: write_dicom(path, with_gap), "slices are missing.* interpolate with --fill-gaps"),
    "shifted": (lambda path: write_dicom(path, shifted), "slices are shifted against each other: slice006.dcm by 3.00"),
    "mpr": (
        lambda path: write_dicom(path, reformatted),
        r"expected a CT, .* \(18 files in .*: 18 derived image \(MPR\)",
    ),
    "truncated": (cut_short, "is truncated: it ends within"),
    "compressed": (
        badly_compressed,
        r"slice003.dcm cannot be decompressed: .*compression \(.*\) is not supported",
    ),
}
"""Name in the list: the function that writes the file, and a pattern of the message."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run") / "best.pt", load_preset("phantom", TINY))


def save(path, preset, names=("s_net",)):
    torch.manual_seed(0)
    save_checkpoint(
        path, stage="backbone", preset=preset, networks={name: build_network(name, preset) for name in names}
    )
    return path


def run(*arguments):
    return run_main(inference.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def attempt(checkpoint, tmp_path_factory):
    """Exit status, output folder and failures of one run over all bad inputs and a good CT."""
    folder = tmp_path_factory.mktemp("cohort")
    for name, (write, _) in BAD.items():
        write(folder / name)
    write_volume(folder / "good.nii.gz", head())
    names = list(BAD)
    (folder / "list.txt").write_text("\n".join([*names[:9], "good.nii.gz", *names[9:]]), encoding="utf-8")
    status = run("--checkpoint", checkpoint, "--input", folder / "list.txt", "--output", folder / "out", "--masks")
    rows = list(csv.DictReader((folder / "out" / "summary.csv").open(encoding="utf-8")))
    failed = {row["case"]: row["flags"] for row in rows if row["flags"].startswith("failed: ")}
    return status, folder / "out", failed


@pytest.mark.parametrize("name", BAD)
def test_the_message_for_a_bad_input_is_one_line(name, attempt):
    _, _, failed = attempt
    message = failed[name.split(".")[0] if name != "scan.pdf" else name]
    assert re.search(BAD[name][1], message), message
    assert "\n" not in message
    assert "Traceback" not in message


def test_the_good_ct_is_segmented_and_no_other_file_is_left(attempt):
    status, output, failed = attempt
    assert status == 1
    assert len(failed) == len(BAD)
    found = {path.name for path in output.iterdir()}
    assert found == {"good.nii.gz", "good.json", "good_masks", "organs.ctbl", "summary.csv"}


def test_missing_slices_are_filled_on_request(checkpoint, tmp_path):
    write_dicom(tmp_path / "gap", with_gap)
    arguments = ["--checkpoint", checkpoint, "--input", tmp_path / "gap", "--output", tmp_path / "out"]
    assert run(*arguments) == 2
    assert run(*arguments, "--fill-gaps", "--rtstruct") == 2  # 16 mm are more than is filled
    save_all([*ct_slices(thin_head())[:7], *ct_slices(thin_head())[8:]], tmp_path / "gap")
    assert run(*arguments, "--fill-gaps", "--rtstruct") == 0
    report = json.loads((tmp_path / "out" / "P1.json").read_text(encoding="utf-8"))
    assert any("they were interpolated: look at the organs there" in note for note in report["notes"])


def refused(capsys, output, *arguments):
    """The message of a run that ends with status 2 and writes nothing."""
    before = sorted(output.rglob("*")) if output.is_dir() else None
    assert run("--output", output, *arguments) == 2
    assert (sorted(output.rglob("*")) if output.is_dir() else None) == before
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1
    assert message[0].startswith("error: ")
    return message[0]


def test_a_ct_of_which_only_pieces_are_left_is_segmented_and_doubted(checkpoint, tmp_path, caplog):
    for name, radius_mm in (("pieces", 60), ("whole", 80)):  # 113 and 201 cm2
        write_volume(tmp_path / "in" / f"{name}.nii.gz", head(radius_mm=radius_mm))
    arguments = ["--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out"]
    assert run(*arguments) == 0
    flags = {
        name: json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))["case_flags"]
        for name in ("pieces", "whole")
    }
    assert flags["pieces"][0].startswith("no slice shows a whole head or neck: the largest cross-section has 1")
    assert not [flag for flag in flags["whole"] if "cross-section" in flag]
    assert f"look at pieces: {flags['pieces'][0]}" in caplog.text


@pytest.fixture
def good(tmp_path):
    write_volume(tmp_path / "good.nii.gz", head())
    return tmp_path / "good.nii.gz"


def test_checkpoints_that_do_not_fit_are_refused(good, checkpoint, tmp_path, capsys):
    preset = load_preset("phantom", TINY)
    shapes = save(tmp_path / "shapes.pt", preset, ("autoencoder",))
    (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:1000])
    slash = save(tmp_path / "slash.pt", load_preset("phantom", TINY))
    content = torch.load(slash, weights_only=True)
    content["preset"]["organs"] = {"../" + k if k == "chiasm" else k: v for k, v in content["preset"]["organs"].items()}
    torch.save(content, slash)
    for name, expected in {
        "nowhere.pt": "no such checkpoint",
        "cut.pt": "is damaged, or not a checkpoint of this program",
        "shapes.pt": "expected a checkpoint with s_net, got one of stage",
        "slash.pt": "organs.../chiasm: cannot name a file",
    }.items():
        message = refused(capsys, tmp_path / "out", "--input", good, "--checkpoint", tmp_path / name)
        assert expected in message
    assert shapes.is_file()


def test_a_folder_with_results_of_other_organs_is_refused(good, checkpoint, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "organs.ctbl").write_text("0 background 0 0 0 0\n1 liver 1 2 3 255\n", encoding="utf-8")
    message = refused(capsys, tmp_path / "out", "--input", good, "--checkpoint", checkpoint)
    assert "label maps in this folder have liver" in message


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--overlap", "1.5", "--overlap: expected 0 <= overlap < 1, got 1.5"),
        ("--device", "tpu:7", "--device tpu:7"),
        ("--input", "nowhere", "nowhere: no such file or folder"),
    ],
)
def test_options_out_of_range_are_refused(option, value, expected, good, checkpoint, tmp_path, capsys):
    given = {"--input": good, "--checkpoint": checkpoint, option: value}
    message = refused(capsys, tmp_path / "out", *(word for pair in given.items() for word in pair))
    assert expected in message


def test_a_shard_that_does_not_exist_is_refused(good, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--input", good, "--output", tmp_path / "out", "--shard", "3/2")
    assert "--shard: expected I/N with I from 1 to N" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["../escape\tgood.nii.gz", "a/b\tgood.nii.gz", "..\tgood.nii.gz"])
def test_names_that_leave_the_folder_are_refused(line, good, checkpoint, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(line, encoding="utf-8")
    message = refused(capsys, tmp_path / "out", "--input", tmp_path / "list.txt", "--checkpoint", checkpoint)
    assert "cannot name a file" in message


def test_an_output_that_cannot_be_written_to_is_refused(good, checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    message = refused(capsys, tmp_path / "file" / "out", "--input", good, "--checkpoint", checkpoint)
    assert "expected a folder, but a file is in its place" in message


def test_rtstruct_requires_dicom(good, checkpoint, tmp_path, caplog):
    status = run("--checkpoint", checkpoint, "--input", good, "--output", tmp_path / "out", "--rtstruct")
    assert status == 2
    assert "--rtstruct and --dicom-seg refer to DICOM slices; give the CT as a DICOM folder" in caplog.text
    assert not (tmp_path / "out" / "good.nii.gz").exists()


def test_on_a_full_disk_the_case_fails_and_leaves_no_report(good, checkpoint, tmp_path, caplog, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(output_files, "write_json", full)
    assert run("--checkpoint", checkpoint, "--input", good, "--output", tmp_path / "out") == 2
    assert "No space left on device" in caplog.text
    assert not (tmp_path / "out" / "good.json").exists()  # without a report the case is not done
    monkeypatch.undo()
    assert run("--checkpoint", checkpoint, "--input", good, "--output", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "good.json").read_text(encoding="utf-8"))["organs"]["brainstem"]["label"] == 1


@ANY_NAME
def test_a_name_that_is_not_utf8_does_not_end_the_run(checkpoint, tmp_path):
    for name in ("good", NOT_UTF8):
        write_volume(tmp_path / "in" / f"{name}.nrrd", head())
    (tmp_path / "in" / f"{NOT_UTF8}2.mha").write_text("no CT", encoding="utf-8")
    output = tmp_path / NOT_UTF8
    assert run("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", output, "--format", "nrrd") == 1
    assert {path.name for path in output.glob("*.nrrd")} == {"M%FCller.nrrd", "good.nrrd"}
    rows = list(csv.DictReader((output / "summary.csv").open(encoding="utf-8")))
    assert {row["case"] for row in rows} == {"M%FCller", "M%FCller2", "good"}
    assert "cannot be read as a volume" in next(r for r in rows if r["case"] == "M%FCller2")["flags"]

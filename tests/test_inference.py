"""inference.py: from a CT file of any orientation to a label map on the same grid."""

import csv
import json
import logging

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

import inference
from models.focusnet import build_network
from tests.dicom_files import ct_slices, save_all
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import save_checkpoint
from utils.io.volumes import Volume, read_volume, write_volume
from utils.runtime.command_line import run_main

TINY = [
    "networks.width=0.1",
    "grid.crop_size_vox=[8,24,20]",
    "grid.roi_size_vox=[4,12,8]",
    "grid.spacing_zyx_mm=[9.0,7.0,6.0]",
    "heatmap.peak_threshold=0.0",
]
OBLIQUE = tuple(np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]]).ravel())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    preset = load_preset("phantom", TINY)
    torch.manual_seed(0)
    parts = {name: build_network(name, preset) for name in ("s_net", "sol_net", "sos_net", "autoencoder")}
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(path, stage="adversarial", preset=preset, networks=parts)
    return path


@pytest.fixture(scope="module")
def ct():
    """An ellipsoid "head" of 90 x 110 x 80 mm with structure inside, in air."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 44), np.linspace(-1, 1, 36), indexing="ij")
    inside = (z / 0.8) ** 2 + (y / 0.9) ** 2 + (x / 0.85) ** 2 < 1
    array = np.where(inside, 40 + 200 * (x > 0.2) * (y < 0) + rng.normal(0, 10, z.shape), -1000).astype(np.int16)
    geometry = Geometry(
        size_zyx=array.shape, spacing_zyx_mm=(4.0, 3.0, 2.5), origin_xyz_mm=(-30.0, 12.0, 100.0), direction=OBLIQUE
    )
    return Volume(array=array, geometry=geometry)


@pytest.fixture(autouse=True)
def _every_message(caplog):
    caplog.set_level(logging.INFO)


def run(*arguments):
    return run_main(inference.main, [str(argument) for argument in arguments])


def segment_file(path, checkpoint, output, *options):
    status = run("--checkpoint", checkpoint, "--input", path, "--output", output, "--precision", "fp32", *options)
    assert status == 0


def test_output_lies_on_the_grid_of_the_input_and_names_its_organs(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "in" / "head.nii.gz", ct)
    segment_file(tmp_path / "in", checkpoint, tmp_path / "out", "--save-overlay")

    label = read_volume(tmp_path / "out" / "head.nii.gz")
    assert label.geometry.matches(ct.geometry)
    assert label.array.dtype == np.uint8
    report = json.loads((tmp_path / "out" / "head.json").read_text())
    assert report["organs"]["mandible"]["num_voxels"] == (label.array == 3).sum()
    assert report["organs"]["chiasm"]["segmented_by"] == "SOS-Net"
    assert "3 mandible" in (tmp_path / "out" / "organs.ctbl").read_text()
    assert (tmp_path / "out" / "head.png").stat().st_size > 1000
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize("code", ["SRA"])
def test_orientation_of_the_file_does_not_change_the_segmentation(code, ct, checkpoint, tmp_path):
    write_volume(tmp_path / "lps.nii.gz", ct)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "lps.nii.gz")), code)
    sitk.WriteImage(turned, str(tmp_path / "turned.mha"))
    for name in ("lps.nii.gz", "turned.mha"):
        segment_file(tmp_path / name, checkpoint, tmp_path / "out")

    back = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out" / "turned.nii.gz")), "LPS")
    expected = sitk.ReadImage(str(tmp_path / "out" / "lps.nii.gz"))
    assert len(np.unique(sitk.GetArrayFromImage(expected))) > 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(expected))


def test_reported_centers_are_patient_coordinates(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.nrrd", ct)
    segment_file(tmp_path / "head.nrrd", checkpoint, tmp_path / "out", "--format", "nrrd")

    organs = json.loads((tmp_path / "out" / "head.json").read_text())["organs"]
    image = sitk.ReadImage(str(tmp_path / "out" / "head.nrrd"))
    largest = max(organs, key=lambda name: organs[name]["num_voxels"])
    index_zyx = np.argwhere(sitk.GetArrayFromImage(image) == organs[largest]["label"]).mean(axis=0)
    expected = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index_zyx[::-1]])
    np.testing.assert_allclose(organs[largest]["center_xyz_mm"], expected, atol=0.02)
    assert image.GetMetaData("Segment2_Name") == "mandible"


def test_peak_is_reported_within_the_volume(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.mha", ct)
    segment_file(tmp_path / "head.mha", checkpoint, tmp_path / "out")
    image = sitk.ReadImage(str(tmp_path / "head.mha"))
    peak = json.loads((tmp_path / "out" / "head.json").read_text())["organs"]["chiasm"]["peak_xyz_mm"]
    index = np.array(image.TransformPhysicalPointToContinuousIndex(peak))
    assert ((index > -0.5) & (index < np.array(image.GetSize()) - 0.5)).all()


def test_backbone_only_leaves_small_organs_to_s_net(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.mha", ct)
    segment_file(tmp_path / "head.mha", checkpoint, tmp_path / "out", "--backbone-only")
    assert "peak" not in json.loads((tmp_path / "out" / "head.json").read_text())["organs"]["chiasm"]


def test_every_output_of_a_dicom_folder(ct, checkpoint, tmp_path, caplog):
    save_all(ct_slices(ct), tmp_path / "pt_1")
    options = ("--format", "seg.nrrd", "--masks", "--rtstruct", "--probabilities", "--tta", "--tile-memory", "0")
    segment_file(tmp_path / "pt_1", checkpoint, tmp_path / "out", *options)

    label = read_volume(tmp_path / "out" / "pt_1.seg.nrrd")
    assert label.geometry.matches(ct.geometry)
    assert label.metadata["Segment0_Name"] == "brainstem"
    report = json.loads((tmp_path / "out" / "pt_1.json").read_text())
    assert report["peak_memory_gib"]["ram"] > 0.1
    found = [name for name, organ in report["organs"].items() if organ["num_voxels"]]
    assert len(found) > 2
    total = 0
    for name, organ in report["organs"].items():
        mask = read_volume(tmp_path / "out" / "pt_1_masks" / f"{name}.seg.nrrd").array
        np.testing.assert_array_equal(mask, label.array == organ["label"])
        probability = read_volume(tmp_path / "out" / "pt_1_probabilities" / f"{name}.seg.nrrd")
        assert probability.geometry.matches(ct.geometry)
        total = total + probability.array
    assert 0.5 < total.max() <= 1.01
    structures = pydicom.dcmread(tmp_path / "out" / "pt_1.rtstruct.dcm")
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == found
    assert not list(tmp_path.rglob("*.partial*"))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if "pt_1" in path.name}
    segment_file(tmp_path / "pt_1", checkpoint, tmp_path / "out", *options)
    assert "CTs: 1, done before: 1" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_shards_share_a_cohort(checkpoint, tmp_path):
    for name in ("a", "b", "c"):  # none of them is read as a CT: what counts is who is asked to
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.mha").write_text("no CT")
    for number, cases in ((1, ["a", "c"]), (2, ["b"])):
        arguments = ("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
        assert run(*arguments, "--shard", f"{number}/2") == 2
        rows = list(csv.DictReader((tmp_path / "out" / f"summary_{number}of2.csv").open()))
        assert [row["case"] for row in rows] == cases


def test_one_damaged_ct_does_not_stop_the_others(ct, checkpoint, tmp_path, caplog):
    write_volume(tmp_path / "in" / "good.nii.gz", ct)
    (tmp_path / "in" / "bad.nii.gz").write_bytes((tmp_path / "in" / "good.nii.gz").read_bytes()[:500])
    status = run("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert status == 1
    assert (tmp_path / "out" / "good.nii.gz").is_file()
    assert not (tmp_path / "out" / "bad.nii.gz").exists()
    assert "bad.nii.gz" in caplog.text


@pytest.mark.parametrize("broken", ["input", "checkpoint", "empty folder", "air"])
def test_errors_are_one_line_and_leave_nothing(broken, ct, checkpoint, tmp_path, capsys, caplog):
    source = tmp_path / "head.mha"
    write_volume(source, Volume(array=np.full_like(ct.array, -1000), geometry=ct.geometry) if broken == "air" else ct)
    (tmp_path / "empty").mkdir()
    given = {"input": tmp_path / "nowhere.mha", "empty folder": tmp_path / "empty"}.get(broken, source)
    if broken == "checkpoint":
        (tmp_path / "cut.pt").write_bytes(checkpoint.read_bytes()[:1000])
        checkpoint = tmp_path / "cut.pt"
    assert run("--checkpoint", checkpoint, "--input", given, "--output", tmp_path / "out") == 2
    message = capsys.readouterr().err + caplog.text
    assert "error: " in message
    assert "Traceback" not in message
    assert not list(tmp_path.glob("out/head*"))


def test_checkpoint_of_the_autoencoder_is_refused(ct, tmp_path, capsys):
    preset = load_preset("phantom", TINY)
    parts = {"autoencoder": build_network("autoencoder", preset)}
    save_checkpoint(tmp_path / "shapes.pt", stage="autoencoder", preset=preset, networks=parts)
    write_volume(tmp_path / "head.mha", ct)
    status = run("--checkpoint", tmp_path / "shapes.pt", "--input", tmp_path / "head.mha", "--output", tmp_path / "out")
    assert status == 2
    assert "expected a checkpoint with s_net" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

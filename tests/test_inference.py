"""inference.py: from a CT file of any orientation to a label map on the same grid."""

import csv
import logging
import re
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

import inference
from data_preprocess.sources.rtstruct_contours import rasterize
from data_preprocess.sources.structure_set import read_rois
from models.focusnet import build_network
from models.pretrained import load_model
from models.s_net import SNet
from tests.dicom_files import ct_slices, save_all
from utils.config.organ_names import tg263_name
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import save_checkpoint
from utils.io.files import read_json
from utils.io.volumes import Volume, read_volume, to_sitk, write_volume
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

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
    networks = {name: build_network(name, preset) for name in ("s_net", "sol_net", "sos_net", "autoencoder")}
    path = tmp_path_factory.mktemp("run") / "best.pt"
    save_checkpoint(path, stage="adversarial", preset=preset, networks=networks)
    return path


@pytest.fixture(scope="module")
def ct():
    """A "head" in air: an ellipsoid of 90 x 110 x 80 mm with a denser part."""
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
    report = read_json(tmp_path / "out" / "head.json")
    assert report["organs"]["mandible"]["num_voxels"] == (label.array == 3).sum()
    assert report["organs"]["chiasm"]["segmented_by"] == "SOS-Net"
    assert "3 mandible" in (tmp_path / "out" / "organs.ctbl").read_text(encoding="utf-8")
    assert (tmp_path / "out" / "head.png").stat().st_size > 1000
    assert not list(tmp_path.rglob("*.partial*"))


@pytest.mark.parametrize("code", ["SRA"])
def test_orientation_of_the_file_does_not_change_the_segmentation(code, ct, checkpoint, tmp_path):
    write_volume(tmp_path / "lps.nii.gz", ct)
    reoriented = sitk.DICOMOrient(to_sitk(read_volume(tmp_path / "lps.nii.gz")), code)
    sitk.WriteImage(reoriented, str(tmp_path / "reoriented.mha"))
    for name in ("lps.nii.gz", "reoriented.mha"):
        segment_file(tmp_path / name, checkpoint, tmp_path / "out")

    back = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out" / "reoriented.nii.gz")), "LPS")
    expected = sitk.ReadImage(str(tmp_path / "out" / "lps.nii.gz"))
    assert len(np.unique(sitk.GetArrayFromImage(expected))) > 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(expected))


def test_reported_centers_are_patient_coordinates(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.nrrd", ct)
    segment_file(tmp_path / "head.nrrd", checkpoint, tmp_path / "out", "--format", "nrrd")

    organs = read_json(tmp_path / "out" / "head.json")["organs"]
    image = sitk.ReadImage(str(tmp_path / "out" / "head.nrrd"))
    largest = max(organs, key=lambda name: organs[name]["num_voxels"])
    index_zyx = np.argwhere(sitk.GetArrayFromImage(image) == organs[largest]["label"]).mean(axis=0)
    expected = image.TransformContinuousIndexToPhysicalPoint([float(i) for i in index_zyx[::-1]])
    np.testing.assert_allclose(organs[largest]["center_xyz_mm"], expected, atol=0.02)
    assert image.GetMetaData("Segment2_Name") == "mandible"


@pytest.mark.slow
def test_peak_is_reported_within_the_volume(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.mha", ct)
    segment_file(tmp_path / "head.mha", checkpoint, tmp_path / "out")
    image = sitk.ReadImage(str(tmp_path / "head.mha"))
    peak = read_json(tmp_path / "out" / "head.json")["organs"]["chiasm"]["peak_xyz_mm"]
    index = np.array(image.TransformPhysicalPointToContinuousIndex(peak))
    assert ((index > -0.5) & (index < np.array(image.GetSize()) - 0.5)).all()


def test_backbone_only_leaves_small_organs_to_s_net(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.mha", ct)
    segment_file(tmp_path / "head.mha", checkpoint, tmp_path / "out", "--backbone-only")
    assert "peak" not in read_json(tmp_path / "out" / "head.json")["organs"]["chiasm"]


@pytest.mark.slow
def test_every_output_of_a_dicom_folder(ct, checkpoint, tmp_path, caplog):
    save_all(ct_slices(ct, patient="pt_1"), tmp_path / "pt_1")
    options = ("--format", "seg.nrrd", "--masks", "--rtstruct", "--probabilities", "--tta", "--tile-memory", "0")
    options += ("--dicom-seg", "--names", "tg263")
    segment_file(tmp_path / "pt_1", checkpoint, tmp_path / "out", *options)

    label = read_volume(tmp_path / "out" / "pt_1.seg.nrrd")
    assert label.geometry.matches(ct.geometry)
    assert label.metadata["Segment0_Name"] == "brainstem"
    report = read_json(tmp_path / "out" / "pt_1.json")
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
    standard_names = [tg263_name(name) for name in found]
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == standard_names
    rois = read_rois(structures, "")
    for name, standard_name in zip(found, standard_names, strict=True):
        drawn = rasterize(rois[standard_name].contours, label.geometry).mask.dense()
        np.testing.assert_array_equal(drawn, label.array == report["organs"][name]["label"])
    segments = pydicom.dcmread(tmp_path / "out" / "pt_1.seg.dcm").SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == standard_names
    assert not list(tmp_path.rglob("*.partial*"))

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*") if "pt_1" in path.name}
    segment_file(tmp_path / "pt_1", checkpoint, tmp_path / "out", *options)
    assert "found 1 CTs; 1 are already segmented" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_patient_id_names_the_case_and_can_be_left_out(ct, checkpoint, tmp_path):
    save_all(ct_slices(ct, patient="MRN 471"), tmp_path / "in" / "a")
    for output, options in (("named", ()), ("anonymous", ("--no-patient-id",))):
        segment_file(tmp_path / "in", checkpoint, tmp_path / output, "--backbone-only", *options)
    report = read_json(tmp_path / "named" / "MRN_471.json")
    row = next(csv.DictReader((tmp_path / "named" / "summary.csv").open(encoding="utf-8")))
    assert (report["patient_id"], row["case"], row["patient_id"]) == ("MRN 471", "MRN_471", "MRN 471")
    row = next(csv.DictReader((tmp_path / "anonymous" / "summary.csv").open(encoding="utf-8")))
    assert (row["case"], row["patient_id"]) == ("a", "")
    written = [path for path in (tmp_path / "anonymous").iterdir() if path.suffix in (".json", ".csv")]
    texts = [path.read_text(encoding="utf-8") for path in written]
    assert len(texts) == 2
    assert not [text for text in texts if "471" in text]


@pytest.mark.slow
def test_shards_divide_a_cohort(checkpoint, tmp_path):
    for name in ("a", "b", "c"):  # they cannot be read: the test is about which cases a shard takes
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.mha").write_text("not a CT", encoding="utf-8")
    for number, cases in ((1, ["a", "c"]), (2, ["b"])):
        arguments = ("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
        assert run(*arguments, "--shard", f"{number}/2") == 2
        rows = list(csv.DictReader((tmp_path / "out" / f"summary_{number}of2.csv").open(encoding="utf-8")))
        assert [row["case"] for row in rows] == cases


def test_a_doubtful_case_is_said_in_report_summary_and_log(ct, checkpoint, tmp_path, caplog):
    content = torch.load(checkpoint, weights_only=True)
    write_volume(tmp_path / "in" / "head.nii.gz", ct)
    segment_file(tmp_path / "in", checkpoint, tmp_path / "usual")
    centers = read_json(tmp_path / "usual" / "head.json")["organs"]
    first, second = [name for name, organ in centers.items() if organ["num_voxels"]][:2]
    elsewhere = OrganOffset(first, second, (0.0, 0.0, 500.0), (90.0, 90.0, 3.0))
    torch.save({**content, "arrangement": Arrangement([elsewhere]).to_table()}, tmp_path / "other.pt")
    segment_file(tmp_path / "in", tmp_path / "other.pt", tmp_path / "out")

    [flag] = [text for text in read_json(tmp_path / "out" / "head.json")["case_flags"] if "arr" in text]
    assert flag.startswith(f"impossible arrangement: {first} lies ")
    assert flag.endswith(f" {second}, expected 482 to 518 mm to the left")
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open(encoding="utf-8")))
    assert len(rows) == 9
    assert all(flag in row["case_flags"] for row in rows)
    assert re.search(f"look at head: .*{re.escape(flag)}", caplog.text)
    assert re.search(r"doubtful cases: 1 of 1; flagged organs: \d of 9\n", caplog.text)


@pytest.mark.parametrize(("num_flagged", "listed"), [(0, ""), (1, " (a o0: not found)"), (6, "")])
def test_a_few_flagged_organs_are_named_in_the_log(num_flagged, listed, caplog):
    organs = {f"o{index}": {"flags": ["not found"] if index < num_flagged else []} for index in range(7)}
    inference.log_flags({"a": {"case_flags": [], "organs": organs}})
    assert caplog.messages == [f"doubtful cases: 0 of 1; flagged organs: {num_flagged} of 7{listed}"]


def test_a_run_in_which_all_cases_failed_leaves_the_reasons_only(tmp_path, checkpoint, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.mha").write_text("not a CT", encoding="utf-8")
    assert run("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out") == 2
    assert "flagged" not in caplog.text
    assert "doubtful" not in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["summary.csv"]
    [row] = csv.DictReader((tmp_path / "out" / "summary.csv").open(encoding="utf-8"))
    assert row["flags"].startswith("failed: ")


def test_one_damaged_ct_does_not_stop_the_others(ct, checkpoint, tmp_path, caplog):
    write_volume(tmp_path / "in" / "good.nii.gz", ct)
    (tmp_path / "in" / "bad.nii.gz").write_bytes((tmp_path / "in" / "good.nii.gz").read_bytes()[:500])
    status = run("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out")
    assert status == 1
    assert (tmp_path / "out" / "good.nii.gz").is_file()
    assert not (tmp_path / "out" / "bad.nii.gz").exists()
    assert "bad.nii.gz" in caplog.text


def test_a_bug_in_a_network_is_logged_with_its_traceback_and_the_other_cts_go_on(
    ct, checkpoint, tmp_path, caplog, monkeypatch
):
    for name in ("a", "b", "c"):
        write_volume(tmp_path / "in" / f"{name}.mha", ct)
    forward, calls = SNet.forward, []

    def fails_once(self, image):
        calls.append(image)
        if len(calls) == 1:
            raise RuntimeError("shape '[2]' is invalid")  # planted
        return forward(self, image)

    monkeypatch.setattr(SNet, "forward", fails_once)
    assert run("--checkpoint", checkpoint, "--input", tmp_path / "in", "--output", tmp_path / "out") == 1
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# planted"))
    assert f'test_inference.py", line {line}, in fails_once' in caplog.text
    assert "error: a: bug: RuntimeError: shape '[2]' is invalid\nTraceback" in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["b.json", "c.json"]
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").open(encoding="utf-8")))
    assert rows[0]["flags"] == "failed: bug: RuntimeError: shape '[2]' is invalid"
    assert rows[1]["case"] == "b"


def test_one_ct_with_a_bug_has_status_1(ct, checkpoint, tmp_path, monkeypatch):
    write_volume(tmp_path / "a.mha", ct)
    monkeypatch.setattr(SNet, "forward", lambda self, image: image.view(-7, 3))
    assert run("--checkpoint", checkpoint, "--input", tmp_path / "a.mha", "--output", tmp_path / "out") == 1


def test_out_of_memory_is_one_line(ct, checkpoint, tmp_path, caplog, monkeypatch):
    def exhaust(self, image):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    write_volume(tmp_path / "a.mha", ct)
    monkeypatch.setattr(SNet, "forward", exhaust)
    assert run("--checkpoint", checkpoint, "--input", tmp_path / "a.mha", "--output", tmp_path / "out") == 2
    assert "error: a: out of memory" in caplog.text
    assert "Traceback" not in caplog.text


def test_two_checkpoints_are_averaged(ct, checkpoint, tmp_path):
    write_volume(tmp_path / "head.mha", ct)
    two = ("--precision", "fp32", "--checkpoint", checkpoint, "--checkpoint", checkpoint)
    out = tmp_path / "out"
    assert run(*two, "--input", tmp_path / "head.mha", "--output", out, "--format", "mha") == 0
    recorded = read_json(out / "head.json")["settings"]
    assert recorded["checkpoint"] == f"{checkpoint}, {checkpoint}"
    together = read_volume(out / "head.mha").array
    segment_file(tmp_path / "head.mha", checkpoint, out, "--format", "mha")  # not taken for finished
    alone = read_json(out / "head.json")["settings"]
    assert alone["checkpoint_sha256"] != recorded["checkpoint_sha256"]
    np.testing.assert_array_equal(together, read_volume(out / "head.mha").array)


def test_images_and_arrays_are_segmented_as_files_are(ct, checkpoint, tmp_path, caplog):
    write_volume(tmp_path / "head.mha", ct)
    segment_file(tmp_path / "head.mha", checkpoint, tmp_path / "out", "--format", "mha")
    expected = sitk.ReadImage(str(tmp_path / "out" / "head.mha"))

    model = load_model(checkpoint, choose_compute("cpu", "fp32"))
    label = inference.segment_image(sitk.ReadImage(str(tmp_path / "head.mha")), model)
    assert (label.GetOrigin(), label.GetSpacing()) == (expected.GetOrigin(), expected.GetSpacing())
    np.testing.assert_allclose(label.GetDirection(), expected.GetDirection(), atol=1e-6)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(label), sitk.GetArrayFromImage(expected))

    straight = Volume(array=ct.array, geometry=Geometry(size_zyx=ct.array.shape, spacing_zyx_mm=(4.0, 3.0, 2.5)))
    write_volume(tmp_path / "straight.mha", straight)
    segment_file(tmp_path / "straight.mha", checkpoint, tmp_path / "out", "--format", "mha")
    caplog.clear()
    array = inference.segment_array(ct.array.astype(np.float64), (4.0, 3.0, 2.5), model)
    np.testing.assert_array_equal(array, read_volume(tmp_path / "out" / "straight.mha").array)
    assert len(np.unique(array)) > 2
    doubts = read_json(tmp_path / "out" / "straight.json")["case_flags"]
    assert doubts
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"look at this CT: {doubt}" for doubt in doubts
    ]


def test_a_picture_is_not_a_ct(checkpoint):
    model = load_model(checkpoint, choose_compute("cpu", "fp32"))
    for shape in ((30, 44), (30, 44, 36, 3)):
        with pytest.raises(UserError, match="expected a 3-D CT with one value per voxel"):
            inference.segment_array(np.zeros(shape), (1.0, 1.0, 1.0), model)


@pytest.mark.parametrize("broken", ["input", "checkpoint", "empty folder", "air"])
def test_errors_are_one_line_and_leave_no_files(broken, ct, checkpoint, tmp_path, capsys, caplog):
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
    networks = {"autoencoder": build_network("autoencoder", preset)}
    save_checkpoint(tmp_path / "shapes.pt", stage="autoencoder", preset=preset, networks=networks)
    write_volume(tmp_path / "head.mha", ct)
    status = run("--checkpoint", tmp_path / "shapes.pt", "--input", tmp_path / "head.mha", "--output", tmp_path / "out")
    assert status == 2
    assert "expected a checkpoint with s_net" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_label_map_has_both_transforms_of_a_ct_whose_transforms_differ(ct, checkpoint, tmp_path):
    """nibabel takes the sform, ITK the qform where the sform's code is 2: both must find the label map on the CT."""
    write_volume(tmp_path / "plain.nii", ct)
    image = nibabel.load(tmp_path / "plain.nii")
    moved = image.affine + np.array([[0, 0.05, 0, 100], [0, 0, 0, 50], [0, 0, 0, -30], [0, 0, 0, 0]])
    image.header.set_sform(moved, code=2)
    nibabel.Nifti1Image(image.dataobj, None, image.header).to_filename(tmp_path / "apart.nii")
    segment_file(tmp_path / "apart.nii", checkpoint, tmp_path / "out", "--masks", "--probabilities")
    for name in ("apart.nii.gz", "apart_masks/mandible.nii.gz", "apart_probabilities/mandible.nii.gz"):
        header = nibabel.load(tmp_path / "out" / name).header
        np.testing.assert_allclose(header.get_sform(), moved, atol=1e-4)
        np.testing.assert_allclose(header.get_qform(), image.affine, atol=1e-4)
        assert (header["sform_code"], header["qform_code"]) == (2, 1)
    notes = read_json(tmp_path / "out" / "apart.json")["notes"]
    assert any("place voxels up to 118 mm apart; the sform was used" in note for note in notes), notes
    assert any("its axes are not perpendicular" in note for note in notes)

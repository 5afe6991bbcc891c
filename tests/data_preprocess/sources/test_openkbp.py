"""sources/openkbp.py: axes, HU, both forms of a patient, damage, and real patients."""

import tarfile

import numpy as np
import pytest
import SimpleITK as sitk

from data_preprocess.export import export_case, nifti_files
from data_preprocess.sources.base import RawCaseHandle
from data_preprocess.sources.openkbp import list_cases, read_case
from utils.config.preset import load_preset
from utils.errors import UserError


def archive(folder, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz") as file:
        file.add(folder, arcname=f"train-pats/{folder.name}")
    return path


def handle(path, case_id="pt_1"):
    return RawCaseHandle(case_id=case_id, location=path, split="train")


@pytest.fixture
def patient(tmp_path, write_openkbp_patient):
    return write_openkbp_patient(tmp_path / "train-pats" / "pt_1")


@pytest.fixture(scope="module")
def real_cases(real_data):
    """The first three patients."""
    return [read_case(found) for found in list_cases(real_data / "openkbp")[:3]]


def test_patients_are_found_with_their_split_in_order_of_number(openkbp, patient):
    archive(patient, openkbp / "provided-data" / "train-pats" / "pt_10.tar.xz")
    (openkbp / "provided-data" / "train-pats" / "notes.txt").write_text("no patient", encoding="utf-8")
    found = [(case.case_id, case.split) for case in list_cases(openkbp)]
    assert found == [("pt_1", "train"), ("pt_2", "train"), ("pt_10", "train"), ("pt_201", "test")]
    assert list_cases(openkbp / "provided-data") == list_cases(openkbp)
    assert [case.case_id for case in list_cases(openkbp / "provided-data" / "validation-pats")] == ["pt_201"]


def test_no_patients_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere: does not exist; expected a folder of OpenKBP: a clone of open-kbp"):
        list_cases(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="--input is missing; give a folder of OpenKBP"):
        list_cases(None)
    with pytest.raises(ValueError, match=r"expected train-pats, .* found none"):
        list_cases(tmp_path)


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_files_that_macos_adds_are_no_structures(form, patient, tmp_path):
    (patient / "._Mandible.csv").write_bytes(b"\0\5\x16\7")
    raw = read_case(handle(patient if form == "folder" else archive(patient, tmp_path / "pt_1.tar.xz")))
    assert raw.notes == ()
    assert not [name for name in (*raw.masks, *raw.unmatched_structures) if name.startswith(".")]


def test_a_ct_without_voxels_is_truncated(patient):
    (patient / "ct.csv").write_text("", encoding="utf-8")
    with pytest.raises(
        UserError, match="ct.csv lists no voxel, so it is truncated; download the patient again: .*pt_1"
    ):
        read_case(handle(patient))


def test_a_file_called_like_a_patient_is_no_patient(patient):
    (patient.parent / "pt_2").write_text("no folder", encoding="utf-8")
    assert [case.case_id for case in list_cases(patient.parent)] == ["pt_1"]


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_axes_hu_and_geometry(form, patient, tmp_path):
    y, x, z_down = 60, 70, 30
    with (patient / "ct.csv").open("a", encoding="utf-8") as file:
        file.write(f"{(y * 128 + x) * 128 + z_down},1500.0\n")
    raw = read_case(handle(patient if form == "folder" else archive(patient, tmp_path / "pt_1.tar.xz")))

    image = raw.volume.array
    assert image.dtype == np.int16
    assert image.shape == raw.volume.geometry.size_zyx == (128, 128, 128)
    assert image[127 - z_down, y, x] == 500
    assert image[127 - 50, 64, 60] == 40
    assert image[0, 0, 0] == -1000
    assert raw.volume.geometry.spacing_zyx_mm == (2.5, 4.0, 4.0)
    assert raw.split == "train"

    assert sorted(raw.masks) == ["Brainstem", "LeftParotid", "Mandible", "RightParotid"]
    voxels = np.argwhere(raw.masks["Brainstem"].dense())
    assert voxels.min(axis=0).tolist() == [127 - 41, 66, 58]
    assert voxels.max(axis=0).tolist() == [127 - 36, 69, 61]
    center = {name: np.argwhere(mask.dense()).mean(axis=0) for name, mask in raw.masks.items()}
    assert center["LeftParotid"][2] > center["RightParotid"][2]  # x grows to the left
    assert center["Brainstem"][0] > center["Mandible"][0]  # z grows upwards
    assert center["Brainstem"][1] > center["Mandible"][1]  # y grows to the back


def test_a_structure_without_voxels_counts_as_not_contoured(patient):
    (patient / "Larynx.csv").write_text(",data\n", encoding="utf-8")
    raw = read_case(handle(patient))
    assert "Larynx" not in raw.masks
    assert raw.notes == ("Larynx: the mask is empty, so it counts as not contoured",)


def test_missing_structure_is_no_entry_and_doses_are_none(openkbp):
    folder = openkbp / "provided-data" / "train-pats" / "pt_2"
    (folder / "dose.csv").write_text(",data\n5,60.5\n", encoding="utf-8")
    (folder / "possible_dose_mask.csv").write_text(",data\n5,\n", encoding="utf-8")
    assert sorted(read_case(handle(folder)).masks) == ["Brainstem", "Mandible"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("Brainstem.csv", ",data\n17,\nnonsense,\n", r"^Brainstem\.csv is damaged.*could not convert.*: .*pt_1$"),
        ("Brainstem.csv", f",data\n{128**3},\n", r"Brainstem\.csv: index 2097152 is out of bounds"),
        ("ct.csv", ",data\n17,1000\n18\n", r"^ct\.csv is damaged.*: .*pt_1$"),
        ("voxel_dimensions.csv", "4.0\n4.0\n", "expected three positive numbers in mm"),
        ("voxel_dimensions.csv", "4.0\n-4.0\n2.5\n", "expected three positive numbers in mm"),
    ],
)
def test_damaged_csv_is_an_error(name, content, message, patient):
    (patient / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_case(handle(patient))


@pytest.mark.parametrize("name", ["ct", "voxel_dimensions"])
def test_missing_csv_is_an_error(name, patient):
    (patient / f"{name}.csv").unlink()
    with pytest.raises(ValueError, match=rf"holds no {name}\.csv; download the patient again: .*pt_1"):
        read_case(handle(patient))


@pytest.mark.parametrize("damage", ["cut", "overwritten", "empty", "text"])
def test_damaged_archive_is_an_error_of_one_line(damage, patient, tmp_path):
    path = archive(patient, tmp_path / "pt_1.tar.xz")
    content = path.read_bytes()
    half = len(content) // 2
    damaged = {
        "cut": content[:half],
        "overwritten": content[:half] + bytes(64) + content[half + 64 :],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ValueError, match=r"^cannot be unpacked because it is damaged.*: .*pt_1\.tar\.xz$") as caught:
        read_case(handle(path))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_real_patients_lie_as_they_should(real_cases):
    for raw in real_cases:
        if {"LeftParotid", "RightParotid"} <= raw.masks.keys():
            left, right = (np.argwhere(raw.masks[f"{side}Parotid"].dense())[:, 2].mean() for side in ("Left", "Right"))
            assert left > right
        if "Brainstem" in raw.masks:
            assert 6 <= np.median(raw.volume.array[raw.masks["Brainstem"].dense()]) <= 43
        if {"Brainstem", "SpinalCord"} <= raw.masks.keys():
            brainstem, cord = (
                np.argwhere(raw.masks[name].dense())[:, 0].mean() for name in ("Brainstem", "SpinalCord")
            )
            assert brainstem > cord
    assert any("LeftParotid" in raw.masks for raw in real_cases)
    assert any("Brainstem" in raw.masks for raw in real_cases)


@pytest.mark.slow
def test_exported_labels_of_real_patients_are_those_of_the_csv_files(real_cases, tmp_path):
    preset = load_preset("openkbp")
    for raw in real_cases:
        export_case(raw, preset, nifti_files(tmp_path, raw.case_id))
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "labels" / f"{raw.case_id}.nii.gz")))
        with tarfile.open(raw.source) as file:
            csv = {member.name.split("/")[-1].removesuffix(".csv"): file.extractfile(member) for member in file}
            organs = {name: preset.find_organ(name) for name in csv if preset.find_organ(name) is not None}
            indices = {n: [int(line.split(b",")[0]) for line in csv[n].read().splitlines()[1:]] for n in organs}
        claimed = np.zeros(label.shape, dtype=int)
        voxels = {}
        for name, flat in indices.items():
            y, x, z_down = np.unravel_index(flat, (128, 128, 128))
            voxels[name] = (127 - z_down, y, x)
            claimed[voxels[name]] += 1
        for name, where in voxels.items():
            alone = claimed[where] == 1
            assert alone.mean() > 0.9
            assert (label[where][alone] == organs[name] + 1).all()
        np.testing.assert_array_equal(label > 0, claimed > 0)

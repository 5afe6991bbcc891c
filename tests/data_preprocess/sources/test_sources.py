"""sources: every layout of one phantom gives the same case; wrong layouts are named."""

import inspect
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from data_preprocess import export
from data_preprocess.cases import HELD_OUT
from data_preprocess.label_map import merge_masks
from data_preprocess.sources import SOURCES, labelmap, masks, nnunet, pddca
from data_preprocess.sources import masks_only as shapes
from data_preprocess.sources.phantom.source import generate_phantom
from tests.data_preprocess.layouts import (
    PDDCA_NAMES,
    write_dicom,
    write_hanseg,
    write_label_maps,
    write_pddca,
    write_total_segmentator,
)
from tests.posix import LINKS_ONLY
from utils.config.organ_names import organ_key
from utils.config.preset import load_preset
from utils.evaluation.overlap import dice
from utils.imaging.masks import crop_mask
from utils.io.files import read_json
from utils.io.volumes import Volume, read_volume, write_volume
from utils.runtime.command_line import run_main

PRESET = load_preset("pddca")
NESTED = ("lens left", "orbit left", "spinalcord", "spinalcanal")


@pytest.fixture(scope="module")
def phantom():
    """A phantom of 87 x 102 x 86 voxels; not every organ was contoured."""
    return generate_phantom(3, spacing_zyx_mm=(3.0, 2.5, 2.8))


def read_only_case(source, folder, preset=PRESET):
    (handle,) = SOURCES[source].list_cases(folder)
    return SOURCES[source].read_case(handle, preset)


def assert_same_case(found, phantom):
    """The same voxels, under any names of structures."""
    np.testing.assert_array_equal(found.volume.array, phantom.volume.array)
    assert found.volume.array.dtype == np.int16
    assert found.volume.geometry.matches(phantom.volume.geometry, tolerance_vox=1e-3)
    assert {PRESET.find_organ(n) for n in found.masks} == {PRESET.find_organ(n) for n in phantom.masks}
    for name, mask in found.masks.items():
        own = phantom.masks[PRESET.organ_names[PRESET.find_organ(name)]]
        np.testing.assert_array_equal(mask.dense(), own.dense())
        assert mask.geometry == found.volume.geometry


def test_every_source_follows_the_protocol():
    for module in SOURCES.values():
        assert list(inspect.signature(module.list_cases).parameters) == ["folder"]
        assert list(inspect.signature(module.read_case).parameters) == ["handle", "preset"]


def test_pddca(phantom, tmp_path):
    write_pddca(tmp_path, phantom)
    found = read_only_case("pddca", tmp_path)
    assert_same_case(found, phantom)
    assert (found.case_id, found.split) == ("0522c0001", "train")
    assert set(found.masks) == {PDDCA_NAMES[name] for name in phantom.masks}


def test_masks_as_of_total_segmentator(phantom, tmp_path):
    write_total_segmentator(tmp_path, phantom)
    assert_same_case(read_only_case("masks", tmp_path), phantom)


def test_masks_as_of_hanseg(phantom, tmp_path):
    write_hanseg(tmp_path, phantom)
    found = read_only_case("masks", tmp_path)
    assert_same_case(found, phantom)
    assert found.case_id == found.patient == "case_01"
    assert found.unmatched_structures == ()


def test_label_maps(phantom, tmp_path):
    write_label_maps(tmp_path, phantom, PRESET)
    assert_same_case(read_only_case("labelmap", tmp_path), phantom)


def test_label_map_beside_its_ct(phantom, tmp_path):
    write_label_maps(tmp_path, phantom, PRESET)
    (tmp_path / "case_1").mkdir()
    (tmp_path / "images" / "p7.nii.gz").rename(tmp_path / "case_1" / "ct.nii.gz")
    (tmp_path / "labels" / "p7.nii.gz").rename(tmp_path / "case_1" / "segmentation.nii.gz")
    (tmp_path / "labels" / "organs.ctbl").unlink()
    (tmp_path / "labels").rmdir()
    found = read_only_case("labelmap", tmp_path)
    assert_same_case(found, phantom)  # without names the values have the preset's order
    assert found.case_id == "case_1"


def test_two_label_maps_beside_a_ct_are_refused(phantom, tmp_path):
    for name in ("ct", "label", "segmentation"):
        (tmp_path / "case_1").mkdir(exist_ok=True)
        (tmp_path / "case_1" / f"{name}.nii.gz").write_text("", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"holds 2 label maps \(label\.nii\.gz, segmentation\.nii\.gz\); keep one: .*case_1"
    ):
        read_only_case("labelmap", tmp_path)


def test_values_of_a_label_map_mean_what_the_table_beside_it_says(phantom, tmp_path):
    write_label_maps(tmp_path, phantom, load_preset("phantom", ["left_right_pairs=[]"]))
    table = tmp_path / "labels" / "organs.ctbl"
    swapped = table.read_text(encoding="utf-8").replace("parotid_left", "X").replace("parotid_right", "parotid_left")
    table.write_text(swapped.replace("X", "parotid_right"), encoding="utf-8")
    found = read_only_case("labelmap", tmp_path)
    np.testing.assert_array_equal(found.masks["parotid_left"].dense(), phantom.masks["parotid_right"].dense())


@pytest.mark.slow
def test_nnunet_in_both_directions(phantom, tmp_path):
    for case_id in ("0522c0001", "0522c0002", "0522c0003", "0522c0746", "0522c0788"):
        write_pddca(tmp_path / "raw", phantom, case_id)
    folder = tmp_path / "nnUNet_raw" / "Dataset501_Head"
    arguments = ["--source", "pddca", "--input", tmp_path / "raw", "--format", "nnunet", "--output", folder]
    assert run_main(export.main, [str(argument) for argument in [*arguments, "--workers", "1"]]) == 0
    dataset = read_json(folder / "dataset.json")
    assert dataset["labels"] == {"background": 0} | {name: i for i, name in enumerate(PRESET.organ_names, 1)}
    assert (dataset["numTraining"], dataset["file_ending"], dataset["channel_names"]) == (3, ".nii.gz", {"0": "CT"})
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.nii.gz"))
    train = ("0522c0001", "0522c0002", "0522c0003")
    assert files == [
        *(f"imagesTr/{case_id}_0000.nii.gz" for case_id in train),
        "imagesTs/0522c0746_0000.nii.gz",
        *(f"labelsTr/{case_id}.nii.gz" for case_id in train),
        "labelsTs/0522c0746.nii.gz",
    ]
    handles = nnunet.list_cases(folder)
    assert [(r.case_id, r.split) for r in handles] == [*((c, "train") for c in train), ("0522c0746", "test")]
    for handle in (handles[0], handles[-1]):
        assert_same_case(nnunet.read_case(handle, PRESET), phantom)


def test_nnunet_gets_the_split_of_the_prepared_cases(phantom, tmp_path):
    small = [phantom.volume.array[::8, ::8, ::8], {n: m.dense()[::8, ::8, ::8] for n, m in phantom.masks.items()}]
    geometry = replace(phantom.geometry, size_zyx=small[0].shape)
    raw = replace(
        phantom,
        volume=Volume(array=small[0], geometry=geometry),
        masks={name: crop_mask(mask, (0, 0, 0), geometry) for name, mask in small[1].items()},
    )
    for number in range(1, 6):
        write_pddca(tmp_path / "raw", raw, f"0522c000{number}")
    cases = tmp_path / "cases"
    cases.mkdir()
    own = {"train": ["0522c0001", "0522c0004"], "val": ["0522c0002", "0522c0005"], "test": ["0522c0003"]}
    (cases / "splits.json").write_text(str(own).replace("'", '"'), encoding="utf-8")
    folder = tmp_path / "Dataset501_Head"
    arguments = ["--source", "pddca", "--input", tmp_path / "raw", "--format", "nnunet", "--output", folder]
    assert run_main(export.main, [str(a) for a in [*arguments, "--cases", cases, "--workers", "1"]]) == 0
    (fold,) = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
    assert fold == {"train": own["train"], "val": own["val"]}
    assert [path.name for path in (folder / "labelsTs").iterdir()] == ["0522c0003.nii.gz"]


def test_dicom_with_a_structure_set(phantom, tmp_path):
    write_dicom(tmp_path, phantom)
    found = read_only_case("dicom", tmp_path)
    np.testing.assert_array_equal(found.volume.array, phantom.volume.array)
    assert found.volume.geometry.matches(phantom.volume.geometry, tolerance_vox=1e-3)
    assert found.unmatched_structures == ("BODY", "PTV_70")
    assert (found.case_id, found.patient) == ("P1", "P1")
    assert {PRESET.find_organ(n) for n in found.masks} == {PRESET.find_organ(n) for n in phantom.masks}
    large = 0
    for name, mask in found.masks.items():
        own = phantom.masks[PRESET.organ_names[PRESET.find_organ(name)]].dense()
        large += own.sum() > 500
        assert dice(mask.dense(), own) >= (0.98 if own.sum() > 500 else 0.9)
    assert large >= 3


def test_pddca_splits_by_case_number(phantom, tmp_path):
    splits = {"0522c0001": "train", "0522c0479": "train", "0522c0555": "test", "0522c0746": "test"}
    splits |= {"0522c0788": HELD_OUT, "0522c0878": HELD_OUT, "my_patient": None}
    for case_id in splits:
        (tmp_path / case_id / "structures").mkdir(parents=True)
    assert {r.case_id: r.split for r in pddca.list_cases(tmp_path)} == splits


def test_observers_of_one_patient_are_two_cases_of_one_patient(tmp_path):
    for observer in ("oncologist", "radiographer"):
        (tmp_path / observer / "p1" / "segmentations").mkdir(parents=True)
        (tmp_path / observer / "p1" / "segmentations" / "Lens-Lt.nrrd").write_text("", encoding="utf-8")
    found = masks.list_cases(tmp_path)
    assert [(r.case_id, r.patient) for r in found] == [("oncologist-p1", "p1"), ("radiographer-p1", "p1")]
    assert [r.case_id for r in masks.list_cases(tmp_path / "oncologist")] == ["p1"]


def test_shapes_need_no_ct(phantom, tmp_path):
    (write_total_segmentator(tmp_path, phantom) / "ct.nii.gz").unlink()
    found = read_only_case("shapes", tmp_path)
    assert found.volume is None
    assert found.geometry.matches(phantom.geometry, tolerance_vox=1e-3)
    np.testing.assert_array_equal(found.masks["chiasm"].dense(), phantom.masks["chiasm"].dense())
    assert shapes.list_cases(tmp_path) == masks.list_cases(tmp_path)


def test_a_mask_that_was_cropped_to_its_extent_is_moved_to_the_grid(phantom, tmp_path):
    folder = write_pddca(tmp_path, phantom)
    path = folder / "structures" / "Mandible.nrrd"
    mask = phantom.masks["mandible"]
    low = np.subtract(mask.corner_zyx, 1)
    part = mask.dense()[tuple(slice(a, a + n + 2) for a, n in zip(low, mask.voxels.shape, strict=True))]
    geometry = replace(phantom.geometry, size_zyx=part.shape, origin_xyz_mm=phantom.geometry.world_mm(low))
    write_volume(path, Volume(array=part.astype(np.uint8), geometry=geometry))
    assert_same_case(read_only_case("pddca", tmp_path), phantom)


def test_unwanted_structures_are_listed_and_not_read(phantom, tmp_path):
    folder = write_pddca(tmp_path, phantom)
    (folder / "structures" / "PTV70.nrrd").write_text("not a volume, but it is not read", encoding="utf-8")
    assert read_only_case("pddca", tmp_path).unmatched_structures == ("PTV70",)


def test_an_empty_mask_counts_as_not_contoured(phantom, tmp_path):
    folder = write_pddca(tmp_path, phantom)
    path = folder / "structures" / "Mandible.nrrd"
    write_volume(path, replace(read_volume(path), array=np.zeros(phantom.geometry.size_zyx, np.uint8)))
    found = read_only_case("pddca", tmp_path)
    assert "Mandible" not in found.masks
    assert found.notes == ("Mandible: the mask is empty, so it counts as not contoured",)


def test_how_an_unusual_header_was_read_is_noted(phantom, tmp_path):
    write_label_maps(tmp_path, phantom, PRESET)
    for path in tmp_path.rglob("*.nii.gz"):
        image = nibabel.load(path)
        image.affine[2, 3] += 9
        image.header.set_sform(image.affine, code=2)
        nibabel.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(path)
    (note,) = read_only_case("labelmap", tmp_path).notes
    assert "its sform (code 2) and qform (code 1) place voxels up to" in note


def test_label_files_take_the_ct_of_their_name(phantom, tmp_path):
    write_label_maps(tmp_path, phantom, PRESET)
    (tmp_path / "images" / "p7.nii.gz").rename(tmp_path / "images" / "p8.nii.gz")
    (handle,) = labelmap.list_cases(tmp_path)
    with pytest.raises(ValueError, match=r"^has no CT; add it as .*images.p7\.nii\.gz.*: .*p7\.nii\.gz$"):
        labelmap.read_case(handle, PRESET)


@pytest.mark.slow
@LINKS_ONLY
def test_a_real_patients_nested_organs_are_read_as_stored(real_data, tmp_path):
    """tcia-hn, masks alone: every organ has the voxels of its file, less those of smaller organs within it."""
    preset = load_preset("tcia_hn")
    every = real_data / "tcia-hn" / "test" / "oncologist" / "0522c0457" / "segmentations"
    names = [path for path in every.iterdir() if organ_key(path.stem) in NESTED]
    assert len(names) == len(NESTED)
    (tmp_path / "p1" / "segmentations").mkdir(parents=True)
    for path in names:
        (tmp_path / "p1" / "segmentations" / path.name).symlink_to(path)
    found = read_only_case("shapes", tmp_path, preset)
    stored = {path.stem: np.flatnonzero(read_volume(path).array) for path in names}
    label = merge_masks(found.masks, preset, found.geometry.size_zyx)
    taken = np.zeros(label.size, dtype=bool)
    nested = set()
    for name in sorted(stored, key=lambda name: stored[name].size):
        own = np.count_nonzero(~taken[stored[name]])
        taken[stored[name]] = True
        assert np.count_nonzero(found.masks[name].voxels) == stored[name].size
        assert np.count_nonzero(label == preset.find_organ(name) + 1) == own
        nested |= {organ_key(name)} if own < stored[name].size else set()
    assert nested == {"orbit left", "spinalcanal"}

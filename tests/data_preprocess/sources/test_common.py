"""data_preprocess/sources/common.py: files and folders as people have them on their disks."""

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_preprocess.sources import SOURCES
from data_preprocess.sources.common import require_folder
from tests.data_preprocess.layouts import write_label_maps, write_pddca
from tests.data_preprocess.small_case import GEOMETRY, small_case, write_masks
from tests.posix import IS_ROOT, LINKS_ONLY
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.io.files import folders_below
from utils.io.volumes import Volume, read_volume, write_volume

PRESET = load_preset("pddca")
ORGANS = {"brainstem", "mandible", "parotid_left", "parotid_right"}
JUNK = (".DS_Store", "._mandible.nrrd", "._ct.nrrd", "._p7.nii.gz", "Thumbs.db", "desktop.ini")
"""Files that macOS and Windows add; those that begin with ._ have the suffix of a volume."""


def read_all(source, folder):
    """Case id to the organs that are read."""
    module = SOURCES[source]
    cases = [module.read_case(handle, PRESET) for handle in module.list_cases(folder)]
    return {case.case_id: {PRESET.organ_names[PRESET.find_organ(name)] for name in case.masks} for case in cases}


def write_nnunet(folder, case_id="p7", suffix=".nii.gz"):
    """The small case as nnU-Net stores it."""
    raw = small_case()
    label = np.zeros(raw.geometry.size_zyx, np.uint8)
    for value, mask in enumerate(raw.masks.values(), 1):
        label[mask.dense()] = value
    write_volume(folder / "imagesTr" / f"{case_id}_0000{suffix}", raw.volume)
    write_volume(folder / "labelsTr" / f"{case_id}{suffix}", Volume(array=label, geometry=GEOMETRY))
    labels = {"background": 0, **{name: value for value, name in enumerate(raw.masks, 1)}}
    content = {"labels": labels, "file_ending": suffix, "channel_names": {"0": "CT"}}
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_layout(source, folder):
    """The small case in a layout."""
    if source == "masks":
        write_masks(folder / "p7")
    elif source == "labelmap":
        write_label_maps(folder, small_case(), PRESET)
    elif source == "pddca":
        write_pddca(folder, small_case(), "p7")
    else:
        write_nnunet(folder)
    return folder


LAYOUTS = ("masks", "labelmap", "pddca", "nnunet")


@pytest.mark.parametrize("source", LAYOUTS)
def test_files_that_other_systems_add_are_no_data(source, tmp_path):
    write_layout(source, tmp_path)
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        for name in JUNK:
            (folder / name).write_bytes(b"\0\5\x16\7")
    assert read_all(source, tmp_path) == {"p7": ORGANS}


@pytest.mark.parametrize("source", ["masks", "labelmap", "pddca"])
def test_suffixes_and_folders_may_be_in_capitals(source, tmp_path):
    write_layout(source, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".ctbl"]:
        path.rename(path.with_name(path.stem + path.suffix.upper()))
    for path in [path for path in tmp_path.rglob("*") if path.is_dir() and path.name != "p7"]:
        path.rename(path.with_name(path.name.capitalize()))
    assert read_all(source, tmp_path) == {"p7": ORGANS}


def test_formats_may_be_mixed_in_any_case_of_letters(tmp_path):
    folder = write_masks(tmp_path / "p7")
    suffixes = {"brainstem": ".Nii.Gz", "mandible": ".Mha", "parotid_left": ".NII", "parotid_right": ".Seg.Nrrd"}
    for name, suffix in suffixes.items():
        path = folder / "segmentations" / f"{name}.nrrd"
        write_volume(path.with_suffix(suffix.lower()), read_volume(path))
        if name != "parotid_right":
            path.unlink()
        path.with_suffix(suffix.lower()).rename(path.with_suffix(suffix))
    (folder / "segmentations" / "parotid_right.nrrd").unlink()
    (folder / "ct.nrrd").unlink()
    write_volume(folder / "ct.mha", small_case().volume)
    (folder / "ct.mha").rename(folder / "CT.MHA")
    assert read_all("masks", tmp_path) == {"p7": ORGANS}


@pytest.mark.parametrize("case_id", ["Fall M\u00fcller 01", "case.01", "case.02.nii.gz"])
@pytest.mark.parametrize("source", ["masks", "labelmap", "nnunet"])
def test_names_may_have_blanks_umlauts_and_dots(source, case_id, tmp_path):
    write_layout(source, tmp_path)
    for path in sorted(tmp_path.rglob("p7*"), reverse=True):
        path.rename(path.with_name(path.name.replace("p7", case_id)))
    assert read_all(source, tmp_path) == {case_id: ORGANS}


@pytest.mark.parametrize("form", [".", "..", "p7/", "p7/segmentations/.."])
def test_a_case_has_a_name_however_its_folder_is_given(form, tmp_path, monkeypatch):
    write_masks(tmp_path / "p7")
    inside = {".": "p7", "..": "p7/segmentations"}
    monkeypatch.chdir(tmp_path / inside.get(form, "."))
    assert read_all("masks", Path(form)) == {"p7": ORGANS}


@LINKS_ONLY
def test_linked_folders_are_followed_once(tmp_path):
    write_masks(tmp_path / "store" / "clinic" / "p7")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "clinic").symlink_to(tmp_path / "store" / "clinic")
    (tmp_path / "store" / "clinic" / "p7" / "loop").symlink_to(tmp_path / "store" / "clinic")
    (tmp_path / "store" / "clinic" / "a_copy").symlink_to(tmp_path / "store" / "clinic" / "p7")
    assert read_all("masks", tmp_path / "raw") == {"p7": ORGANS}


@LINKS_ONLY
@pytest.mark.parametrize(("source", "name"), [("masks", "mandible.nrrd"), ("labelmap", "p7.nii.gz")])
def test_a_link_to_a_missing_file_is_not_passed_over(source, name, tmp_path):
    """As in a data set under git-annex of which not all files were fetched."""
    write_layout(source, tmp_path)
    path = next(path for path in tmp_path.rglob(name) if path.parent.name != "images")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        UserError, match=f"is a link to a file that is missing; fetch the file or remove the link: .*{name}"
    ):
        read_all(source, tmp_path)


def test_masks_in_two_folders_are_all_read(tmp_path):
    folder = write_masks(tmp_path / "p7")
    (folder / "structures").mkdir()
    (folder / "segmentations" / "mandible.nrrd").rename(folder / "structures" / "mandible.nrrd")
    assert read_all("masks", tmp_path) == {"p7": ORGANS}
    shutil.copy(folder / "structures" / "mandible.nrrd", folder / "segmentations")
    with pytest.raises(UserError, match=r"mandible\.nrrd and .*mandible\.nrrd both hold mandible; keep one of them"):
        read_all("masks", tmp_path)


@pytest.mark.parametrize(("source", "own"), [("masks", "ct.nrrd"), ("labelmap", "ct.nii.gz")])
def test_an_mr_beside_a_ct_is_not_the_ct(source, own, tmp_path):
    if source == "masks":
        folder = write_masks(tmp_path / "p7")
    else:
        write_label_maps(tmp_path, small_case(), PRESET)
        folder = tmp_path / "p7"
        folder.mkdir()
        (tmp_path / "images" / "p7.nii.gz").rename(folder / own)
        (tmp_path / "labels" / "p7.nii.gz").rename(folder / "label.nii.gz")
    shutil.copy(folder / own, folder / own.replace("ct", "mr_t1"))
    assert read_all(source, tmp_path)["p7"]


def test_a_label_map_belongs_to_the_ct_with_the_channel_of_nnunet(tmp_path):
    write_label_maps(tmp_path, small_case(), PRESET)
    (tmp_path / "images" / "p7.nii.gz").rename(tmp_path / "images" / "p7_0000.nii.gz")
    assert read_all("labelmap", tmp_path) == {"p7": ORGANS}


@pytest.mark.parametrize("source", ["masks", "labelmap", "nnunet"])
def test_cts_without_masks_are_named(source, tmp_path, caplog):
    write_layout(source, tmp_path)
    extra = {"masks": "p9/ct.nii.gz", "labelmap": "images/p9.nii.gz", "nnunet": "imagesTr/p9_0000.nii.gz"}[source]
    write_volume(tmp_path / extra, small_case().volume)
    with caplog.at_level(logging.INFO):
        assert read_all(source, tmp_path) == {"p7": ORGANS}
    missing = "masks" if source == "masks" else "a label map"
    assert f"1 CT(s) without {missing} are left out: {tmp_path / extra}" in caplog.text


def test_masks_without_a_ct_are_compared_with_the_first(tmp_path):
    path = write_masks(tmp_path / "p7") / "segmentations" / "mandible.nrrd"
    coarse = read_volume(path).array[:, ::2]
    grid = replace(GEOMETRY, size_zyx=coarse.shape, spacing_zyx_mm=(3.0, 4.0, 2.5))
    write_volume(path, Volume(array=coarse, geometry=grid))
    with pytest.raises(
        UserError, match=r"^lies on another grid than brainstem\.nrrd; resample it\. Expected .*: .*mandible\.nrrd$"
    ):
        read_all("shapes", tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (None, "--input is missing; give a folder of cases"),
        ("nowhere", r"--input .*nowhere: does not exist; expected a folder of cases; check the path"),
        ("p7/ct.nrrd", r"--input .*ct\.nrrd: is a file; expected a folder of cases; check the path"),
    ],
)
def test_an_input_that_is_no_folder_is_named(path, message, tmp_path):
    write_masks(tmp_path / "p7")
    with pytest.raises(UserError, match=message):
        require_folder(path and tmp_path / path, "cases")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"file_ending": "nii.gz"},
            r"dataset\.json: file_ending: expected one of \.nii\.gz, .*, got 'nii\.gz'; convert",
        ),
        ({"file_ending": 3}, r"file_ending: expected one of .*, got 3; convert the files and correct the entry"),
        ({"file_ending": ".nrrd"}, r"expected label maps \*\.nrrd \(file_ending of dataset\.json\) in labelsTr or lab"),
    ],
)
def test_a_wrong_file_ending_is_named(change, message, tmp_path):
    path = write_nnunet(tmp_path) / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_all("nnunet", tmp_path)


def test_the_folder_of_nnunets_data_sets_is_not_one_of_them(tmp_path):
    write_nnunet(tmp_path / "Dataset501_Head")
    with pytest.raises(UserError, match=r"found no dataset\.json; give one of the folders in it \(Dataset501_Head\)"):
        read_all("nnunet", tmp_path)


def test_nnunets_label_map_without_ct_says_where_it_belongs(tmp_path):
    (write_nnunet(tmp_path) / "imagesTr" / "p7_0000.nii.gz").unlink()
    with pytest.raises(
        UserError, match=r"^has no CT; add it as .*imagesTr.p7_0000\.nii\.gz.*: .*labelsTr.p7\.nii\.gz$"
    ):
        read_all("nnunet", tmp_path)


@pytest.mark.parametrize("name", ["dataset.json", "organs.ctbl"])
def test_a_byte_order_mark_is_no_content(name, tmp_path):
    source = "nnunet" if name == "dataset.json" else "labelmap"
    path = next(write_layout(source, tmp_path).rglob(name))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"# Color table: value name R G B A\n", b""))
    assert read_all(source, tmp_path) == {"p7": ORGANS}


def test_phantoms_are_drawn_and_not_read(tmp_path):
    with pytest.raises(UserError, match="--input .*: source phantom draws its cases; leave out --input or choose ano"):
        SOURCES["phantom"].list_cases(tmp_path)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody who may not read a folder")
def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_read(tmp_path, caplog):
    write_masks(tmp_path / "p7")
    (tmp_path / "lost+found").mkdir(mode=0)
    for parent in [tmp_path, *list(tmp_path.parents)[:3]]:
        parent.chmod(0o755)
    os.seteuid(65534)
    try:
        assert tmp_path / "p7" in folders_below(tmp_path)
    finally:
        os.seteuid(0)
    assert f"{tmp_path / 'lost+found'}: permission denied; what lies in it is left out" in caplog.text

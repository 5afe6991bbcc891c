"""scans.py: volumes, DICOM folders, trees and lists, each scan with a name of its own."""

import numpy as np
import pytest

from data_preprocess.scans import list_scans
from tests.dicom_files import ct_slices, save_all
from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume, write_volume


@pytest.fixture
def volume():
    size = (4, 6, 5)
    array = np.arange(120, dtype=np.int16).reshape(size)
    geometry = Geometry(size_zyx=size, spacing_zyx_mm=(3.0, 2.0, 1.5), origin_xyz_mm=(-4.0, 7.5, 30.0))
    return Volume(array=array, geometry=geometry)


def ids(path):
    return [scan.case_id for scan in list_scans(path)]


@pytest.mark.parametrize("name", ["pt_1.nii.gz", "pt_1.nrrd", "pt_1.seg.nrrd", "pt_1.mha"])
def test_a_volume_is_one_scan(name, volume, tmp_path):
    write_volume(tmp_path / name, volume)
    (scan,) = list_scans(tmp_path / name)
    assert scan.case_id == "pt_1"
    content = scan.read()
    np.testing.assert_array_equal(content.volume.array, volume.array)
    assert content.volume.geometry.matches(volume.geometry)
    assert content.series is None


def test_a_folder_means_its_own_volumes(volume, tmp_path):
    for name in ("b.mha", "a.nii.gz", "below/c.mha", ".hidden.mha"):
        write_volume(tmp_path / name, volume)
    (tmp_path / "notes.md").write_text("no scan")
    assert ids(tmp_path) == ["a", "b"]


def test_a_tree_of_volumes_is_named_by_its_folders(volume, tmp_path):
    for name in ("p1/ct.nii.gz", "p2/day1/ct.nii.gz", "p2/day2/ct.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert ids(tmp_path) == ["p1_ct", "p2_day1_ct", "p2_day2_ct"]


def test_a_dicom_folder_is_one_scan_named_after_it(volume, tmp_path):
    save_all(ct_slices(volume), tmp_path / "pt_7")
    (scan,) = list_scans(tmp_path / "pt_7")
    assert scan.case_id == "pt_7"
    content = scan.read()
    np.testing.assert_array_equal(content.volume.array, volume.array)
    assert content.volume.geometry.matches(volume.geometry)
    assert len(content.series.sop_instance_uids) == 4


def test_a_dicom_tree_is_named_by_its_folders_and_other_modalities_are_passed_over(volume, tmp_path):
    save_all(ct_slices(volume, patient="A"), tmp_path / "all" / "a" / "ct")
    save_all(ct_slices(volume, patient="B"), tmp_path / "all" / "b")
    pet = ct_slices(volume, patient="B", series="pet")
    for image in pet:
        image.Modality = "PT"
    save_all(pet, tmp_path / "all" / "b_pet")
    assert ids(tmp_path / "all") == ["a_ct", "b"]


def test_two_series_in_a_folder_are_two_scans(volume, tmp_path):
    for series in ("planning", "follow-up"):
        save_all(ct_slices(volume, series=series), tmp_path / "mixed", name=(series + "{:03d}.dcm").format)
    found = list_scans(tmp_path / "mixed")
    assert len({scan.case_id for scan in found}) == 2
    assert all(scan.case_id == f"mixed_{scan.source.uid[-8:]}" for scan in found)
    assert all(scan.read().volume.array.shape == volume.array.shape for scan in found)


def test_a_list_gives_paths_and_names(volume, tmp_path):
    for name in ("p1/ct.nii.gz", "p2/ct.nii.gz", "three.mha"):
        write_volume(tmp_path / name, volume)
    save_all(ct_slices(volume), tmp_path / "p4")
    lines = ["one\tp1/ct.nii.gz", "", f"two\t{tmp_path / 'p2/ct.nii.gz'}", "three.mha", "four\tp4", "missing.mha"]
    (tmp_path / "cohort.txt").write_text("\n".join(lines))
    found = list_scans(tmp_path / "cohort.txt")
    assert [scan.case_id for scan in found] == ["one", "two", "three", "four", "missing"]
    assert found[3].read().series is not None
    with pytest.raises(ValueError, match=r"missing\.mha: no such file"):
        found[4].read()


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_list_is_refused(content, tmp_path):
    (tmp_path / "cohort.txt").write_text(content)
    with pytest.raises(ValueError, match="the list is empty"):
        list_scans(tmp_path / "cohort.txt")


def test_two_scans_of_one_name_are_refused(volume, tmp_path):
    write_volume(tmp_path / "ct.mha", volume)
    write_volume(tmp_path / "ct.nii.gz", volume)
    with pytest.raises(ValueError, match=r"ct\.mha and .*ct\.nii\.gz would both be written as ct: .*<tab>path"):
        list_scans(tmp_path)


def test_a_list_cannot_name_a_case_out_of_the_output(volume, tmp_path):
    write_volume(tmp_path / "ct.mha", volume)
    (tmp_path / "cohort.txt").write_text("../../etc\tct.mha")
    with pytest.raises(ValueError, match="case id of .*ct.mha: '../../etc' cannot name a file"):
        list_scans(tmp_path / "cohort.txt")


def test_what_is_no_scan_is_refused(volume, tmp_path):
    with pytest.raises(ValueError, match="no such file or folder"):
        list_scans(tmp_path / "nowhere")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match="for a DICOM series give its folder"):
        list_scans(tmp_path / "scan.pdf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError,
        match="expected DICOM files in this folder or below it, found none; check the path. There are no volumes",
    ):
        list_scans(tmp_path / "empty")
    pet = ct_slices(volume)
    for image in pet:
        image.Modality = "PT"
    save_all(pet, tmp_path / "pet")
    with pytest.raises(ValueError, match="expected a CT, found PT series 'planning'"):
        list_scans(tmp_path / "pet")

"""scans.py: volumes, DICOM folders, trees and lists, each scan with a name of its own."""

import hashlib

import numpy as np
import pytest

from data_preprocess.scans import list_scans
from data_preprocess.sources import SOURCES
from tests.dicom_files import ct_slices, save_all, structure_set, uid_of
from tests.posix import ANY_NAME, LINKS_ONLY, NOT_UTF8
from utils.errors import UserError
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
    (tmp_path / "notes.md").write_text("no scan", encoding="utf-8")
    assert ids(tmp_path) == ["a", "b"]


def test_a_tree_of_volumes_is_named_by_its_folders(volume, tmp_path):
    for name in ("p1/ct.nii.gz", "p2/day1/ct.nii.gz", "p2/day2/ct.nii.gz"):
        write_volume(tmp_path / name, volume)
    assert ids(tmp_path) == ["p1_ct", "p2_day1_ct", "p2_day2_ct"]


def test_a_dicom_folder_is_one_scan_named_after_its_patient(volume, tmp_path):
    save_all(ct_slices(volume, patient="HN 7"), tmp_path / "pt_7")
    (scan,) = list_scans(tmp_path / "pt_7")
    assert (scan.case_id, scan.patient_id) == ("HN_7", "HN 7")
    content = scan.read()
    np.testing.assert_array_equal(content.volume.array, volume.array)
    assert content.volume.geometry.matches(volume.geometry)
    assert len(content.series.sop_instance_uids) == 4


def test_other_modalities_and_series_of_localizers_are_passed_over(volume, tmp_path):
    save_all(ct_slices(volume, patient="A"), tmp_path / "all" / "a" / "ct")
    save_all(ct_slices(volume, patient="B"), tmp_path / "all" / "b")
    pet, scout = (ct_slices(volume, patient="B", series=name) for name in ("pet", "scout"))
    for image in pet:
        image.Modality = "PT"
    for image in scout[:2]:
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save_all(pet, tmp_path / "all" / "b_pet")
    save_all(scout[:2], tmp_path / "all" / "b_scout")
    assert ids(tmp_path / "all") == ["A", "B"]
    with pytest.raises(UserError, match=r"expected a CT, found CT series 'scout' .*: 2 localizer\(s\)\); give the"):
        ids(tmp_path / "all" / "b_scout")


def test_without_patient_ids_a_dicom_tree_is_named_by_its_folders(volume, tmp_path):
    save_all(ct_slices(volume, patient="A"), tmp_path / "all" / "a" / "ct")
    save_all(ct_slices(volume, patient="B"), tmp_path / "all" / "b")
    save_all(ct_slices(volume, patient=""), tmp_path / "all" / "c")
    assert ids(tmp_path / "all") == ["c", "A", "B"]
    found = list_scans(tmp_path / "all", by_patient=False)
    assert [(scan.case_id, scan.patient_id) for scan in found] == [("c", None), ("a_ct", None), ("b", None)]
    assert [scan.case_id for scan in list_scans(tmp_path / "all" / "b", by_patient=False)] == ["b"]


def test_several_series_of_a_patient_are_told_apart_by_their_uids(volume, tmp_path):
    for series in ("planning", "follow-up"):
        save_all(ct_slices(volume, series=series), tmp_path / "mixed", name=(series + "{:03d}.dcm").format)
    save_all(ct_slices(volume, patient="p1"), tmp_path / "other")  # p1 and P1 are one file on some systems
    found = {scan.source.description: scan.case_id for scan in list_scans(tmp_path / "mixed")}
    digits = {name: hashlib.sha256(uid_of(f"P1 {name}").encode()).hexdigest()[:6] for name in found}
    assert found == {name: f"P1_{digits[name]}" for name in ("planning", "follow-up")}
    assert {*found.values()} < {*ids(tmp_path)}
    assert sorted(name.casefold()[:3] for name in ids(tmp_path)) == ["p1_", "p1_", "p1_"]


def test_series_of_a_patient_in_a_list_are_told_apart_unless_they_are_named(volume, tmp_path):
    for series in ("planning", "follow-up", "third"):
        save_all(ct_slices(volume, series=series), tmp_path / series)
    (tmp_path / "cohort.txt").write_text("planning\nfollow-up\nlast\tthird\n", encoding="utf-8")
    first, second, third = ids(tmp_path / "cohort.txt")
    assert third == "last"
    assert first != second
    assert first[:3] == second[:3] == "P1_"


def test_inference_and_prepare_give_a_ct_the_same_id(volume, tmp_path):
    """P1 has a CT without contours too, P2 two structure sets on one CT, P3 is simple."""
    names = {"P1": ("planning", "follow-up"), "P2": ("planning",), "P3": ("planning",)}
    for patient, series in names.items():
        for name in series:
            slices = ct_slices(volume, patient=patient, series=name)
            sets = [structure_set(slices, {}, name=observer) for observer in ("a", "b")[: int(patient == "P2") + 1]]
            save_all([*slices, *(sets if name == "planning" else [])], tmp_path / patient / name)
    of_series = {(scan.patient_id, scan.source.description): scan.case_id for scan in list_scans(tmp_path)}
    prepared = [handle.case_id for handle in SOURCES["dicom"].list_cases(tmp_path)]
    assert of_series["P3", "planning"] == "P3"
    assert of_series["P2", "planning"] == "P2"
    assert of_series["P1", "planning"] != of_series["P1", "follow-up"]
    assert {"P3", of_series["P1", "planning"]} < {*prepared}
    assert sorted(name[:3] for name in prepared) == ["P1_", "P2_", "P2_", "P3"]


@LINKS_ONLY
def test_linked_folders_are_followed_once_and_loops_end(volume, tmp_path):
    write_volume(tmp_path / "elsewhere" / "p2" / "ct.nii.gz", volume)
    write_volume(tmp_path / "all" / "p1" / "ct.nii.gz", volume)
    for name, target in (("a_link", "p1"), ("loop", "."), ("p1/up", ".."), ("p2", tmp_path / "elsewhere" / "p2")):
        (tmp_path / "all" / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "all" / "gone").symlink_to("nowhere")
    assert ids(tmp_path / "all") == ["p1_ct", "p2_ct"]
    save_all(ct_slices(volume, patient="A"), tmp_path / "dicom" / "a")
    save_all(ct_slices(volume, patient="B"), tmp_path / "archive" / "b")
    (tmp_path / "dicom" / "b").symlink_to(tmp_path / "archive" / "b", target_is_directory=True)
    (tmp_path / "dicom" / "loop").symlink_to("..", target_is_directory=True)
    assert {"A", "B"} <= {*ids(tmp_path / "dicom")}
    assert all(len(scan.source.paths) == 4 for scan in list_scans(tmp_path / "dicom"))


def test_a_list_gives_paths_and_names(volume, tmp_path):
    for name in ("p1/ct.nii.gz", "p2/ct.nii.gz", "three.mha"):
        write_volume(tmp_path / name, volume)
    save_all(ct_slices(volume), tmp_path / "p4")
    lines = ["one\tp1/ct.nii.gz", "", f"two\t{tmp_path / 'p2/ct.nii.gz'}", "three.mha", "four\tp4", "missing.mha"]
    (tmp_path / "cohort.txt").write_text("\n".join(lines), encoding="utf-8")
    found = list_scans(tmp_path / "cohort.txt")
    assert [scan.case_id for scan in found] == ["one", "two", "three", "four", "missing"]
    assert found[3].read().series is not None
    with pytest.raises(ValueError, match=r"no such file; check the path: .*missing\.mha"):
        found[4].read()


def test_a_list_may_begin_with_a_byte_order_mark(volume, tmp_path):
    write_volume(tmp_path / "three.mha", volume)
    (tmp_path / "cohort.txt").write_bytes(b"\xef\xbb\xbfthree.mha\r\n")
    assert [scan.read().volume.array.shape for scan in list_scans(tmp_path / "cohort.txt")] == [volume.array.shape]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "  \r\n", "\t\n"])
def test_a_list_may_have_marks_blanks_and_quotes(encoding, end, volume, tmp_path):
    for name in ("Müller/ct.mha", "b c.mha", "d.mha"):
        write_volume(tmp_path / name, volume)
    lines = ["one \t Müller/ct.mha", '"b c.mha"', f"'{tmp_path / 'd.mha'}'", '"four"\t"d.mha"', ""]
    (tmp_path / "cohort.txt").write_bytes(end.join(lines).encode(encoding))
    found = list_scans(tmp_path / "cohort.txt")
    assert [scan.case_id for scan in found] == ["one", "b c", "d", "four"]
    for scan in found:
        assert scan.read().volume.array.shape == (4, 6, 5)


@ANY_NAME
def test_names_that_are_not_utf8_are_cases_like_any_other(volume, tmp_path):
    write_volume(tmp_path / "volumes" / f"{NOT_UTF8}.mha", volume)
    save_all(ct_slices(volume), tmp_path / "dicom" / NOT_UTF8, f"{NOT_UTF8}{{}}".format)
    save_all(ct_slices(volume, patient="P2"), tmp_path / "dicom" / "other")
    (tmp_path / "cohort.txt").write_bytes(b"volumes/M\xfcller.mha\nM\xfcller 2\tdicom/M\xfcller\n")
    assert ids(tmp_path / "volumes") == ["M%FCller"]
    assert [scan.case_id for scan in list_scans(tmp_path / "dicom", by_patient=False)] == ["M%FCller", "other"]
    assert ids(tmp_path / "cohort.txt") == ["M%FCller", "M%FCller 2"]
    for scan in [
        *list_scans(tmp_path / "volumes"),
        *list_scans(tmp_path / "dicom"),
        *list_scans(tmp_path / "cohort.txt"),
    ]:
        np.testing.assert_array_equal(scan.read().volume.array, volume.array)


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "cohort.txt").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"cohort\.txt: expected a text file, got another format"):
        list_scans(tmp_path / "cohort.txt")


@pytest.mark.parametrize("content", ["", "\n  \n"])
def test_an_empty_list_is_refused(content, tmp_path):
    (tmp_path / "cohort.txt").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="the list is empty"):
        list_scans(tmp_path / "cohort.txt")


def test_two_scans_of_one_name_are_refused(volume, tmp_path):
    write_volume(tmp_path / "ct.mha", volume)
    write_volume(tmp_path / "ct.nii.gz", volume)
    with pytest.raises(ValueError, match=r"ct\.mha and .*ct\.nii\.gz would both be written as ct: .*<tab>path"):
        list_scans(tmp_path)


def test_a_list_cannot_name_a_case_out_of_the_output(volume, tmp_path):
    write_volume(tmp_path / "ct.mha", volume)
    (tmp_path / "cohort.txt").write_text("../../etc\tct.mha", encoding="utf-8")
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

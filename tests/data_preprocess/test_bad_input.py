"""Bad input of every kind: one clear line each, no half-written or silently wrong case, and the others go on.

docs/bad_input.md lists what is tried here.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from data_preprocess import export, prepare
from data_preprocess.cases import CaseInfo, open_case, read_case_info
from data_preprocess.sources import masks
from data_preprocess.sources.base import RawCaseHandle
from data_preprocess.splits import read_splits
from tests.data_preprocess.small_case import GEOMETRY, SIZE, small_case, write_masks
from tests.dicom_files import change, ct_slices, save_all, structure_set, trace, uid_of
from tests.posix import ANY_NAME, IS_ROOT, NOT_UTF8, POSIX_ONLY, limited_file_size
from utils.errors import UserError
from utils.io.files import write_json
from utils.io.volumes import Volume, read_volume, write_volume
from utils.runtime.command_line import run_main

ROOT = Path(__file__).resolve().parents[2]


def rewrite(path, change_array=lambda array: array, **geometry):
    volume = read_volume(path)
    write_volume(path, Volume(array=change_array(volume.array), geometry=replace(volume.geometry, **geometry)))


def cut(path, fraction):
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])


def with_nan(array):
    array = array.astype(np.float32)
    array[3, 4, 5] = np.nan
    return array


MASK_FAULTS = {
    "no_ct": (lambda f: (f / "ct.nrrd").unlink(), "has no CT; add it as ct.nii.gz"),
    "two_cts": (lambda f: write_volume(f / "image.nrrd", small_case().volume), r"has 2 CTs (ct.nrrd, image.nrrd)"),
    "other_grid": (
        lambda f: rewrite(f / "segmentations" / "mandible.nrrd", spacing_zyx_mm=(3.0, 2.0, 2.4)),
        "lies on another grid than its CT",
    ),
    "shifted_grid": (
        lambda f: rewrite(f / "segmentations" / "mandible.nrrd", origin_xyz_mm=(-39.0, 12.5, -300.0)),
        "lies on another grid than its CT",
    ),
    "nan": (
        lambda f: rewrite(f / "ct.nrrd", with_nan),
        "1 of 15232 voxels are NaN or infinite",
    ),
    "stored_values": (
        lambda f: rewrite(f / "ct.nrrd", lambda a: (a + 1024).astype(np.uint16)),
        "air peaks at 21 and soft tissue at 1063, as in a CT stored as HU + 1024; export the CT in Hounsfield units",
    ),
    "scaled_to_1": (
        lambda f: rewrite(f / "ct.nrrd", lambda a: ((a + 1000) / 2000).astype(np.float32)),
        "values are not HU: 98 % of them lie between 0 and 0.53 (median 0)",
    ),
    "air": (
        lambda f: rewrite(f / "ct.nrrd", lambda a: np.full_like(a, -1000)),
        "values are not HU: 98 % of them lie",
    ),
    "cut_nrrd": (lambda f: cut(f / "ct.nrrd", 0.5), "is truncated"),
    "cut_mask": (lambda f: cut(f / "segmentations" / "mandible.nrrd", 0.7), "cannot be read as a volume"),
    "text": (lambda f: (f / "ct.nrrd").write_text("my notes", encoding="utf-8"), "cannot be read as a volume"),
    "color": (
        lambda f: sitk.WriteImage(sitk.Image(8, 7, 6, sitk.sitkVectorUInt8), str(f / "ct.nrrd")),
        "expected a 3-D volume with one value per voxel",
    ),
    "many_values": (
        lambda f: rewrite(
            f / "segmentations" / "mandible.nrrd", lambda a: a * (1 + np.arange(34) % 3).astype(np.uint8)
        ),
        "expected a binary mask, got values from 1 to 3",
    ),
    "all_empty": (
        lambda f: [rewrite(p, np.zeros_like) for p in (f / "segmentations").iterdir()],
        "no structure with voxels matches preset pddca",
    ),
    "unknown_names": (
        lambda f: [p.rename(p.with_name(f"PTV_{p.name}")) for p in list((f / "segmentations").iterdir())],
        "found PTV_brainstem, PTV_mandible",
    ),
    "two_files": (
        lambda f: shutil.copy(f / "segmentations" / "mandible.nrrd", f / "segmentations" / "mandible.seg.nrrd"),
        "mandible.nrrd and mandible.seg.nrrd both hold mandible; keep one of them",
    ),
    "one_organ_twice": (
        lambda f: write_volume(
            f / "segmentations" / "Bone_Mandible.nrrd", read_volume(f / "segmentations/mandible.nrrd")
        ),
        "structures 'Bone_Mandible' and 'mandible' are both mandible",
    ),
}
"""Case id to what is done to a folder of masks, and what is said of it."""


def structures_of(slices):
    raw = small_case()
    return structure_set(slices, {name: list(trace(mask.dense(), GEOMETRY)) for name, mask in raw.masks.items()})


def shift(slices):
    x, y, z = slices[4].ImagePositionPatient
    slices[4].ImagePositionPatient = [x, float(y) + 4, z]


def repeat(slices):
    slices.append(ct_slices(small_case().volume, patient=slices[0].PatientID)[4])
    slices[-1].SOPInstanceUID = uid_of(f"{slices[0].PatientID} again")
    slices[-1].PixelData = slices[0].PixelData


DICOM_FAULTS = {
    "cut_slice": (lambda s: change(s, 3, PixelData=b"\0\1"), "slice003.dcm is truncated"),
    "gap": (lambda s: s.pop(5), "slices are missing: after"),
    "repeated": (repeat, "repeat a position"),
    "shifted": (shift, "slices are shifted against each other: slice004.dcm by 4.00 mm"),
    "color": (lambda s: change(s, 2, SamplesPerPixel=3), "left out of it: 1 color image(s)"),
    "no_rescaling": (lambda s: change(s, 2, RescaleIntercept=None), "lack RescaleIntercept: slice002.dcm"),
    "multi_frame": (lambda s: change(s, 2, NumberOfFrames=9), "hold several images each"),
    "other_frame": (
        lambda s: [change(s, i, FrameOfReferenceUID=uid_of("another")) for i in range(len(s))],
        "found no CT series of this structure set's frame of reference",
    ),
    "mr": (lambda s: [change(s, i, Modality="MR") for i in range(len(s))], "found no CT series"),
}
"""Patient to what is done to the slices, and what is said of it."""


class Attempt:
    """What a command did with a folder of good and bad cases."""

    def __init__(self, arguments, output, log):
        log.clear()
        self.output = output
        self.status = run_main(prepare.main, [str(a) for a in [*arguments, "--output", output, "--workers", "1"]])
        lines = [record.getMessage() for record in log.records if record.levelname == "ERROR"]
        self.reasons = dict(line.removeprefix("error: ").split(": ", 1) for line in lines[:-1])
        self.prepared = sorted(path.name for path in output.iterdir() if path.is_dir())
        self.left_overs = [path for path in output.rglob("*") if "partial" in path.name]


@pytest.fixture(scope="module")
def log():
    """Records of the module's commands."""

    class Keeper(logging.Handler):
        records: list = []

        def emit(self, record):
            self.records.append(record)

        def clear(self):
            self.records.clear()

    keeper = Keeper()
    logging.getLogger().addHandler(keeper)
    logging.getLogger().setLevel(logging.INFO)
    yield keeper
    logging.getLogger().removeHandler(keeper)


@pytest.fixture(scope="module")
def masks_attempt(tmp_path_factory, log):
    root = tmp_path_factory.mktemp("masks")
    write_masks(root / "raw" / "good")
    for case_id, (spoil, _) in MASK_FAULTS.items():
        spoil(write_masks(root / "raw" / case_id))
    return Attempt(["--source", "masks", "--preset", "pddca", "--input", root / "raw"], root / "cases", log)


@pytest.fixture(scope="module")
def dicom_attempt(tmp_path_factory, log):
    root = tmp_path_factory.mktemp("dicom")
    for patient in ("good", *DICOM_FAULTS):
        slices = ct_slices(small_case().volume, patient=patient)
        structures = structures_of(slices)
        DICOM_FAULTS.get(patient, (lambda s: None, ""))[0](slices)
        save_all([*slices, structures], root / "raw" / patient)
    return Attempt(["--source", "dicom", "--preset", "pddca", "--input", root / "raw"], root / "cases", log)


@pytest.mark.parametrize("kind", MASK_FAULTS)
def test_bad_masks_and_cts_are_named(kind, masks_attempt):
    assert MASK_FAULTS[kind][1] in masks_attempt.reasons[kind]
    assert "\n" not in masks_attempt.reasons[kind]


@pytest.mark.parametrize("kind", DICOM_FAULTS)
def test_bad_dicom_is_named(kind, dicom_attempt):
    assert DICOM_FAULTS[kind][1] in dicom_attempt.reasons[kind]
    assert "\n" not in dicom_attempt.reasons[kind]


@pytest.mark.parametrize("name", ["masks_attempt", "dicom_attempt"])
def test_good_cases_are_prepared_and_bad_ones_leave_nothing(name, request):
    attempt = request.getfixturevalue(name)
    assert attempt.status == 1
    assert attempt.prepared == ["good"]
    assert attempt.left_overs == []
    assert sum(read_splits(attempt.output).values(), []) == ["good"]
    page = (attempt.output / "report.html").read_text(encoding="utf-8")
    assert f"Cases that could not be prepared: {len(attempt.reasons)}" in page


def refused(arguments, capsys):
    """The one line that a command that cannot begin prints."""
    status = run_main(prepare.main, [str(a) for a in arguments])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1
    return lines[0]


@pytest.mark.skipif(os.name == "nt", reason="Windows takes a backslash for a folder")
def test_names_that_cannot_name_a_file_are_refused(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "head\\neck")
    arguments = ["--source", "masks", "--preset", "pddca", "--input", tmp_path / "raw", "--output", tmp_path / "cases"]
    assert r"neck: 'head\\neck' cannot name a file; rename it" in refused(arguments, capsys)
    assert not (tmp_path / "cases").exists()


@ANY_NAME
@pytest.mark.parametrize("module", [prepare, export])
def test_names_that_are_not_utf8_end_no_run(module, tmp_path):
    folder = write_masks(tmp_path / "raw" / NOT_UTF8)
    (folder / "segmentations" / "mandible.nrrd").rename(folder / "segmentations" / f"{NOT_UTF8}.nrrd")
    (write_masks(tmp_path / "raw" / f"{NOT_UTF8}2") / "ct.nrrd").write_text("no CT", encoding="utf-8")
    write_masks(tmp_path / "raw" / "good")
    arguments = ["--source", "masks", "--preset", "pddca", "--input", tmp_path / "raw", "--workers", "1"]
    assert run_main(module.main, [str(a) for a in [*arguments, "--output", tmp_path / "out"]]) == 1
    if module is export:
        assert {path.name for path in tmp_path.glob("out/images/*")} == {"M%FCller.nii.gz", "good.nii.gz"}
    else:
        assert sorted(sum(read_splits(tmp_path / "out").values(), [])) == ["M%FCller", "good"]
        assert "M%FCller2" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert read_case_info(tmp_path / "out" / "M%FCller").unmatched_structures == ("M%FCller",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"raw: expected nnU-Net's layout, DatasetNNN_Name, found no dataset\.json; check --input and --source"),
        ({"labels": {"0": "background", "1": "mandible"}}, "lacks file_ending, channel_names"),
        ({"labels": {"mandible": [1, 2]}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}, "labels: expected"),
        (
            {"labels": {"a": 1}, "file_ending": ".nii", "channel_names": {"0": "T1", "1": "T2"}},
            "none of T1, T2 is called",
        ),
        (
            {"labels": {"a": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}},
            r"expected label maps \*\.nii\.gz \(file_ending of dataset\.json\) in labelsTr or",
        ),
    ],
)
def test_nnunet_folders_that_say_too_little_are_refused(content, message, tmp_path, capsys):
    if content:
        write_json(tmp_path / "raw" / "dataset.json", content)
    (tmp_path / "raw").mkdir(exist_ok=True)
    arguments = ["--source", "nnunet", "--preset", "pddca", "--input", tmp_path / "raw", "--output", tmp_path / "cases"]
    assert re.search(message, refused(arguments, capsys))


@pytest.mark.parametrize("change_label", [lambda a: a - 0.5, lambda a: a.astype(np.int16) - 1])
def test_invalid_label_maps_are_refused(change_label, tmp_path, log):
    raw = small_case()
    write_volume(tmp_path / "raw" / "images" / "p.nii.gz", raw.volume)
    label = change_label(raw.masks["mandible"].dense().astype(np.float32))
    write_volume(tmp_path / "raw" / "labels" / "p.nii.gz", Volume(array=label, geometry=GEOMETRY))
    arguments = ["--source", "labelmap", "--preset", "pddca", "--input", tmp_path / "raw"]
    attempt = Attempt(arguments, tmp_path / "cases", log)
    assert attempt.status == 2
    assert "expected a label map of whole numbers" in attempt.reasons["p"]
    assert attempt.prepared == attempt.left_overs == []


def test_layouts_of_any_organs_want_a_preset(tmp_path, capsys):
    message = refused(["--source", "masks", "--input", tmp_path, "--output", tmp_path / "cases"], capsys)
    assert "--preset is missing; --source masks has no default organs. Give one of hanseg, openkbp, pddca," in message


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody who may not read a file")
def test_files_that_may_not_be_read_are_named(tmp_path_factory):
    folder = write_masks(tmp_path_factory.mktemp("raw") / "case")
    for parent in [folder, folder / "segmentations", *list(folder.parents)[:4]]:
        parent.chmod(0o755)
    (folder / "ct.nrrd").chmod(0)
    os.seteuid(65534)
    try:
        with pytest.raises((OSError, ValueError), match=r"Permission denied.*ct\.nrrd"):
            masks.read_case(RawCaseHandle(case_id="case", location=folder))
    finally:
        os.seteuid(0)


@POSIX_ONLY
@pytest.mark.parametrize("module", [prepare, export])
def test_a_full_disk_leaves_no_half_case(module, tmp_path, caplog):
    """A limit on the size of files stops a writer in the middle of one, as a full disk does."""
    folder = write_masks(tmp_path / "raw" / "case")
    noise = np.random.default_rng(0).integers(-9, 9, SIZE, np.int16)
    rewrite(folder / "ct.nrrd", lambda a: a + noise)
    arguments = ["--source", "masks", "--preset", "pddca", "--workers", "1", "--input", str(tmp_path / "raw")]
    with limited_file_size(9000):
        status = run_main(module.main, [*arguments, "--output", str(tmp_path / "out")])
    assert status == 2
    assert re.search(r"error: case: .*cannot be written completely: is the disk full", caplog.text)
    left = [p for p in (tmp_path / "out").rglob("*") if p.suffix in (".npy", ".png", ".gz") and "labels" not in str(p)]
    assert left == []


@POSIX_ONLY
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_volume_that_does_not_fit_the_disk_is_no_file(suffix, tmp_path):
    noise = np.random.default_rng(0).integers(-900, 900, SIZE).astype(np.int16)
    with limited_file_size(9000), pytest.raises(UserError, match=f"^cannot be written completely.*: .*ct{suffix}$"):
        write_volume(tmp_path / f"ct{suffix}", Volume(array=noise, geometry=GEOMETRY))
    assert list(tmp_path.iterdir()) == []


@POSIX_ONLY
@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, caplog):
    for number in range(5):
        write_masks(tmp_path / "raw" / f"case_{number}")
    command = [sys.executable, "-m", "data_preprocess.prepare", "--source", "masks", "--preset", "pddca"]
    command += ["--input", str(tmp_path / "raw"), "--output", str(tmp_path / "cases"), "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(tmp_path.glob("cases/case_*/case.json")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = sorted(path.name for path in tmp_path.glob("cases/case_*"))
    assert 1 <= len(finished) < 5
    assert not (tmp_path / "cases" / "splits.json").exists()
    for case_id in finished:
        info: CaseInfo = read_case_info(tmp_path / "cases" / case_id)
        assert open_case(tmp_path / "cases" / case_id, info, ("mandible",)).label.any()
    with caplog.at_level("INFO"):
        assert run_main(prepare.main, command[3:]) == 0
    assert f"found 5 cases; {len(finished)} are already prepared" in caplog.text
    assert len(sum(read_splits(tmp_path / "cases").values(), [])) == 5


def test_a_mistake_in_own_splits_is_told_before_the_work_begins(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    write_json(tmp_path / "cases" / "splits.json", {"train": "p1"})
    arguments = ["--source", "masks", "--preset", "pddca", "--input", tmp_path / "raw", "--output", tmp_path / "cases"]
    assert "splits.json: expected a list of case ids" in refused(arguments, capsys)
    assert not (tmp_path / "cases" / "p1").exists()


def test_a_split_of_a_layout_without_splits_is_explained(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    arguments = ["--source", "masks", "--preset", "pddca", "--input", tmp_path / "raw", "--output", tmp_path / "cases"]
    assert "--split test: the data set names no splits; leave" in refused([*arguments, "--split", "test"], capsys)


def test_a_case_whose_masks_are_all_empty_needs_no_aliases(tmp_path, caplog):
    for path in (write_masks(tmp_path / "raw" / "p1") / "segmentations").iterdir():
        rewrite(path, np.zeros_like)
    arguments = ["--source", "masks", "--preset", "pddca", "--input", tmp_path / "raw", "--output", tmp_path / "cases"]
    assert run_main(prepare.main, [*map(str, arguments), "--workers", "1"]) == 2
    assert "no structure with voxels matches preset pddca; all are empty; contour one, or leave the" in caplog.text

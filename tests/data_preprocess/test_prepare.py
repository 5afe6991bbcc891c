"""prepare.py: raw cases to a folder of cases, again, with failures, killed half-way."""

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

import train_autoencoder
import train_backbone
from data_preprocess import prepare
from data_preprocess.cases import finished_case, open_case, read_case_info, read_dataset
from data_preprocess.inference_transform import InferenceTransform
from data_preprocess.prepare import prepare_case
from data_preprocess.quality_control.measurements import read_quality
from data_preprocess.sources.openkbp import list_cases, read_case
from data_preprocess.sources.phantom.source import generate_phantom
from data_preprocess.splits import read_splits
from tests.conftest import TINY
from tests.data_preprocess.layouts import write_dicom
from tests.data_preprocess.small_case import BOXES, small_case, write_masks
from utils.config.preset import load_preset
from utils.imaging.masks import crop_mask
from utils.io.volumes import Volume
from utils.runtime.command_line import run_main

PRESET = load_preset("openkbp")


def run(openkbp, output, *options):
    arguments = ["--source", "openkbp", "--input", openkbp, "--output", output, "--workers", "1", *options]
    return run_main(prepare.main, [str(argument) for argument in arguments])


@pytest.fixture
def raw(openkbp):
    """pt_2: a body of 18 x 12 x 10 voxels in radius at 2.5 x 3.5 x 3.5 mm, brainstem and mandible contoured."""
    return read_case(list_cases(openkbp)[1])


def test_prepared_case_by_hand(raw, tmp_path):
    info = prepare_case(raw, PRESET, tmp_path)
    assert read_case_info(tmp_path / "pt_2") == info
    assert info.original == raw.volume.geometry
    assert info.spacing_zyx_mm == PRESET.grid.spacing_zyx_mm
    assert info.split == "train"
    (z0, z1), (y0, y1), (x0, x1) = info.crop_box
    assert (z0, z1) == (127 - 67 - 4 - 1, 127 - 33 + 4 + 1)  # one for an even number, 35 slices, 10 mm on either side
    assert info.size_zyx == (z1 - z0, *PRESET.grid.crop_size_vox[1:])  # the patient is narrower than a window
    assert (y1 - y0, x1 - x0) == pytest.approx((72 * 3.906 / 3.5, 56 * 3.906 / 3.5))
    assert (y0 + y1) / 2 == pytest.approx(64, abs=3)
    assert (x0 + x1) / 2 == pytest.approx(60, abs=3)

    case = open_case(tmp_path / "pt_2", info, PRESET.organ_names)
    assert case.image.shape == case.label.shape == info.size_zyx
    assert sorted(info.organs) == ["brainstem", "mandible"]
    assert set(np.unique(case.label)) == {0, 1, 7}
    assert -1005 <= case.image.min() <= -1000
    assert 40 <= case.image.max() <= 45
    assert (tmp_path / "pt_2" / "preview.png").stat().st_size > 1000


def test_organs_keep_their_place_and_volume_in_millimeters(raw, tmp_path):
    info = prepare_case(raw, PRESET, tmp_path)
    corner_mm = np.multiply([start for start, _ in info.crop_box], raw.volume.geometry.spacing_zyx_mm)
    for name, alias in (("brainstem", "Brainstem"), ("mandible", "Mandible")):
        mask = raw.masks[alias].dense()
        expected_mm = (np.argwhere(mask).mean(axis=0) + 0.5) * raw.volume.geometry.spacing_zyx_mm
        found_mm = (np.array(info.organs[name].center_vox) + 0.5) * info.spacing_zyx_mm + corner_mm
        np.testing.assert_allclose(found_mm, expected_mm, atol=1.0)
        volume_mm3 = info.organs[name].num_voxels * np.prod(info.spacing_zyx_mm)
        assert volume_mm3 == pytest.approx(mask.sum() * np.prod(raw.volume.geometry.spacing_zyx_mm), rel=0.25)


@pytest.fixture(scope="module")
def long_phantom():
    """A phantom with chest, in which the spinal cord is contoured all the way down."""
    return generate_phantom(2, spacing_zyx_mm=(5.0, 4.0, 4.0), extent_zyx_mm=(520.0, 330.0, 420.0))


def test_training_and_validation_see_what_inference_sees(long_phantom, tmp_path):
    preset = load_preset("phantom")
    info = prepare_case(long_phantom, preset, tmp_path)
    seen = InferenceTransform.apply(long_phantom.volume, preset.grid)
    assert seen.transform.region.cut_mm > 200
    np.testing.assert_array_equal(open_case(tmp_path / info.case_id, info, preset.organ_names).image, seen.image)
    assert info.crop_box == tuple(zip(seen.transform.grid.start_vox, seen.transform.grid.stop_vox, strict=True))


def test_contours_below_the_field_of_view_are_cut_and_noted(long_phantom, tmp_path):
    preset = load_preset("phantom")
    geometry = long_phantom.geometry
    cord, toe = np.zeros((2, *geometry.size_zyx), dtype=bool)
    cord[:, 40:42, 50:52] = True
    toe[:3, 40:42, 50:52] = True
    masks = {"brainstem": crop_mask(cord, (0, 0, 0), geometry), "mandible": crop_mask(toe, (0, 0, 0), geometry)}
    info = prepare_case(replace(long_phantom, masks=masks), preset, tmp_path)
    first, last = map(round, info.crop_box[0])
    outside = 1 - (min(last, len(cord)) - first) / len(cord)
    assert info.notes == (
        f"brainstem: {outside:.1%} of it lies outside of the field of view",
        "mandible: 100.0% of it lies outside of the field of view",
    )
    assert list(info.organs) == ["brainstem"]
    quality = read_quality(tmp_path / info.case_id)
    assert list(quality.organs) == ["brainstem"]
    assert quality.organs["brainstem"].num_voxels == 4 * (len(cord) - first)
    assert quality.organs["brainstem"].center_mm[0] == pytest.approx((first + len(cord)) / 2 * 5.0)


def test_a_scan_that_cuts_into_the_patient_gets_air_around_it(tmp_path):
    phantom = generate_phantom(2, spacing_zyx_mm=(5.0, 4.0, 4.0))
    geometry = replace(phantom.geometry, size_zyx=(phantom.geometry.size_zyx[0], 34, phantom.geometry.size_zyx[2]))
    volume = Volume(array=np.ascontiguousarray(phantom.volume.array[:, :34]), geometry=geometry)
    masks = {"brainstem": crop_mask(np.ones((20, 4, 4), dtype=bool), (10, 28, 48), geometry)}
    info = prepare_case(replace(phantom, volume=volume, masks=masks), load_preset("phantom"), tmp_path)
    assert info.crop_box[1][1] > 34
    preset = load_preset("phantom")
    case = open_case(tmp_path / info.case_id, info, preset.organ_names)
    assert (case.image[:, -1] == -1000).all()
    transform = InferenceTransform.apply(volume, preset.grid).transform
    np.testing.assert_array_equal(case.inside_fov, transform.inside_fov())
    assert 0 < case.inside_fov.mean() < 1


def test_cases_of_earlier_versions_are_read(raw, tmp_path):
    info = prepare_case(raw, PRESET, tmp_path)
    path = tmp_path / "pt_2" / "case.json"
    path.write_text(path.read_text(encoding="utf-8").replace("crop_box", "box_zyx"), encoding="utf-8")
    assert read_case_info(tmp_path / "pt_2") == info


def test_case_killed_half_way_is_not_there(raw, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "save_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare_case(raw, PRESET, tmp_path / "cases")
    assert not finished_case(tmp_path / "cases", "pt_2")
    assert list((tmp_path / "cases").iterdir()) == []


def test_command_writes_the_folder_and_skips_it_the_second_time(openkbp, tmp_path):
    output = tmp_path / "cases"
    assert run(openkbp, output) == 0
    assert read_dataset(output) == PRESET
    assert read_splits(output) == {"train": ["pt_1"], "val": ["pt_2"], "test": ["pt_201"]}
    files = sorted(path.relative_to(output).as_posix() for path in output.glob("*/*"))
    names = ("case.json", "image.npy", "label.npy", "preview.png", "quality.json")
    assert files == [f"{case}/{name}" for case in ("pt_1", "pt_2", "pt_201") for name in names]

    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    assert run(openkbp, output) == 0
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*")} == before


def test_failing_case_does_not_stop_the_others(openkbp, tmp_path, caplog):
    csv = openkbp / "provided-data" / "train-pats" / "pt_1" / "ct.csv"
    content = csv.read_text(encoding="utf-8")
    csv.write_text(content + "nonsense,1\n", encoding="utf-8")
    output = tmp_path / "cases"
    assert run(openkbp, output) == 1
    assert "pt_1: " in caplog.text
    assert "ct.csv" in caplog.text
    assert "1 of 3 cases failed" in caplog.text
    assert read_splits(output) == {"train": ["pt_2"], "val": [], "test": ["pt_201"]}

    csv.write_text(content, encoding="utf-8")
    assert run(openkbp, output) == 0
    assert read_splits(output) == {"train": ["pt_1", "pt_2"], "val": [], "test": ["pt_201"]}


def test_a_bug_in_one_case_shows_file_and_line_and_the_others_are_prepared(openkbp, tmp_path, caplog, monkeypatch):
    measure = prepare.measure_case

    def buggy(masks, ct, body):
        return np.zeros(3)[7] if len(masks) == 2 else measure(masks, ct, body)

    monkeypatch.setattr(prepare, "measure_case", buggy)
    assert [len(read_case(handle).masks) for handle in list_cases(openkbp)].count(2) == 1
    assert run(openkbp, tmp_path / "cases") == 1
    assert re.search(r'test_prepare\.py", line \d+, in buggy', caplog.text)
    assert "bug: IndexError" in caplog.text
    assert "1 of 3 cases failed" in caplog.text


@pytest.mark.slow
def test_temporary_files_of_a_killed_run_are_ignored(openkbp, tmp_path):
    output = tmp_path / "cases"
    assert run(openkbp, output, "--limit", "1") == 0
    (output / "pt_1").rename(output / ".pt_1.4711.partial")
    (output / "splits.json").unlink()
    assert run(openkbp, output) == 0
    assert sorted(sum(read_splits(output).values(), [])) == ["pt_1", "pt_2", "pt_201"]


def test_split_is_chosen_before_the_limit(openkbp, tmp_path):
    output = tmp_path / "cases"
    assert run(openkbp, output, "--split", "test", "--limit", "1") == 0
    assert [path.name for path in output.iterdir() if path.is_dir()] == ["pt_201"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "{tmp}/nowhere"], "nowhere: does not exist; expected a folder of OpenKBP: a clone of open-kbp"),
        ([], "--input is missing; give a folder of OpenKBP"),
        (["--input", "{kbp}", "--preset", "nothing"], "nothing: no such preset"),
        (
            ["--input", "{kbp}/provided-data/train-pats", "--split", "test"],
            "--split, --limit and --shard exclude all 2 cases",
        ),
    ],
)
def test_user_errors_are_one_line_and_status_2(options, message, openkbp, tmp_path, capsys):
    options = [option.format(tmp=tmp_path, kbp=openkbp) for option in options]
    status = run_main(prepare.main, ["--source", "openkbp", "--output", str(tmp_path / "cases"), *options])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert len(lines) == 1
    assert message in lines[0]
    assert not (tmp_path / "cases").exists()


def test_another_preset_is_refused_before_any_work(openkbp, tmp_path, capsys):
    output = tmp_path / "cases"
    assert run(openkbp, output, "--limit", "1") == 0
    capsys.readouterr()
    assert run(openkbp, output, "--set", "grid.spacing_zyx_mm=[5.0,5.0,5.0]") == 2
    assert "was prepared at (2.5, 3.906, 3.906) mm" in capsys.readouterr().err
    assert not (output / "pt_2").exists()


def run_masks(source, output, *options):
    """Prepare tiny cases of masks."""
    arguments = ["--source", "masks", "--preset", "pddca", "--input", source, "--output", output, "--workers", "1"]
    return run_main(prepare.main, [str(argument) for argument in [*arguments, *options]])


@pytest.mark.parametrize("name", ["dataset.json", "index.json", "report.html", "p1/ct.nrrd"])
def test_files_of_others_are_not_replaced(name, tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    path = tmp_path / "cases" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"labels": {}}', encoding="utf-8")
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cases/{name}: not written by this command" in line
    assert [file for file in (tmp_path / "cases").rglob("*") if file.is_file()] == [path]


def test_the_raw_folder_as_output_loses_nothing(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert run_masks(tmp_path / "raw", tmp_path / "raw" / "p1" / "..") == 2
    assert "p1/..: holds the raw data; choose another folder" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_prepared_folder_takes_new_cases_but_replaces_no_folder(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    write_masks(tmp_path / "raw" / "p2")
    (tmp_path / "cases" / ".p2.4711.partial").mkdir()  # of a killed run
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    assert sorted(sum(read_splits(tmp_path / "cases").values(), [])) == ["p1", "p2"]
    assert not (tmp_path / "cases" / ".p2.4711.partial").exists()
    write_masks(tmp_path / "raw" / "p3")
    (tmp_path / "cases" / "p3").mkdir()
    (tmp_path / "cases" / "p3" / "notes.txt").write_text("somebody's", encoding="utf-8")
    capsys.readouterr()
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 2
    assert "p3/notes.txt: not written by this command" in capsys.readouterr().err


def test_cases_without_their_record_are_not_given_another_preset(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    for name in ("dataset.json", "index.json", "report.html"):
        (tmp_path / "cases" / name).unlink()
    assert run_masks(tmp_path / "raw", tmp_path / "cases", "--preset", "tcia_hn") == 2
    assert "p1/case.json" in capsys.readouterr().err


def test_splits_with_a_patient_in_two_of_them_stop_before_any_work(tmp_path, capsys):
    """Folders of the same name are one patient: two observers."""
    for observer in ("a", "b"):
        write_masks(tmp_path / "raw" / observer / "p1")
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    splits = '{"train": ["a-p1"], "val": [], "test": ["b-p1"]}'
    (tmp_path / "cases" / "splits.json").write_text(splits, encoding="utf-8")
    write_masks(tmp_path / "raw" / "p2")
    capsys.readouterr()
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 2
    assert "a-p1 is in train and b-p1 in test, but both are of patient p1" in capsys.readouterr().err
    assert not (tmp_path / "cases" / "p2").exists()


def test_a_case_whose_id_changes_is_not_prepared_twice(tmp_path, caplog):
    """A second folder of the name p1 changes the id of the first one: both get their path."""
    write_masks(tmp_path / "raw" / "a" / "p1")
    assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    write_masks(tmp_path / "raw" / "b" / "p1")
    with caplog.at_level("INFO"):
        assert run_masks(tmp_path / "raw", tmp_path / "cases") == 0
    assert "a-p1 is prepared as p1" in caplog.text
    assert sorted(sum(read_splits(tmp_path / "cases").values(), [])) == ["b-p1", "p1"]


def test_another_patient_in_the_same_files_is_another_case(tmp_path):
    """A folder in which new data replace the old ones."""
    for patient in ("P1", "P2"):
        write_dicom(tmp_path / "inbox", small_case(), patient)
        for path in (tmp_path / "inbox" / patient).iterdir():
            shutil.rmtree(tmp_path / "inbox" / "day" / path.name, ignore_errors=True)
            shutil.move(path, tmp_path / "inbox" / "day" / path.name)
        (tmp_path / "inbox" / patient).rmdir()
        arguments = ["--source", "dicom", "--preset", "pddca", "--input", tmp_path / "inbox", "--workers", "1"]
        arguments += ["--output", tmp_path / "cases"]
        assert run_main(prepare.main, [str(argument) for argument in arguments]) == 0
    assert sorted(sum(read_splits(tmp_path / "cases").values(), [])) == ["P1", "P2"]


def test_an_output_that_is_a_file_is_named(tmp_path, capsys):
    write_masks(tmp_path / "raw" / "p1")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "cases"):
        assert run_masks(tmp_path / "raw", output) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith("/file: expected a folder, but a file is in its place; choose another folder")


@pytest.mark.slow
def test_shards_prepare_all_cases_and_a_last_run_writes_the_splits(openkbp, tmp_path):
    output = tmp_path / "cases"
    for shard, case_id in (("1/2", ["pt_1", "pt_201"]), ("2/2", ["pt_1", "pt_2", "pt_201"])):
        assert run(openkbp, output, "--shard", shard) == 0
        assert sorted(path.name for path in output.iterdir() if path.is_dir()) == case_id
    assert not (output / "splits.json").exists()
    assert run(openkbp, output) == 0
    assert sorted(sum(read_splits(output).values(), [])) == ["pt_1", "pt_2", "pt_201"]
    assert (output / "report.html").is_file()


@pytest.mark.parametrize("shard", ["0/2", "3/2", "x", "1/0"])
def test_invalid_shards_are_refused(shard, openkbp, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(openkbp, tmp_path / "cases", "--shard", shard)
    assert stopped.value.code == 2
    assert "expected I/N with I from 1 to N" in capsys.readouterr().err


@pytest.mark.slow
def test_the_run_ends_with_a_table_and_what_to_check(openkbp, tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert run(openkbp, tmp_path / "cases") == 0
    assert re.search(r"brainstem +3 +96 +96 +96 +2\.94 +3\.84 +3\.84", caplog.text)
    assert "3 cases of 3 patients: 1 test, 1 train, 1 val" in caplog.text
    assert "raw spacing (z, y, x) 2.5 x 3.5 x 3.5 to 2.5 x 4 x 4 mm" in caplog.text
    assert "check pt_1: mandible: volume 6.4 ml, known volumes 15 to 170 ml" in caplog.text
    assert "2 of 3 cases need a check" in caplog.text


@pytest.mark.slow
def test_masks_alone_train_the_autoencoder_and_nothing_else(tmp_path, capsys):
    for number in range(6):
        write_masks(tmp_path / "raw" / f"case_{number}")
    cases = tmp_path / "cases"
    changes = [*TINY, "organs.parotid_left.small=true", "organs.parotid_right.small=true"]
    options = ["--source", "shapes", "--preset", "phantom", "--input", tmp_path / "raw", "--output", cases]
    options += [word for change in changes for word in ("--set", change)]
    assert run_main(prepare.main, [str(option) for option in [*options, "--workers", "1"]]) == 0
    info = read_case_info(cases / "case_0")
    case = open_case(cases / "case_0", info, tuple(BOXES))
    assert case.image is None
    assert not (cases / "case_0" / "image.npy").exists()
    assert sorted(info.organs) == sorted(BOXES)
    assert (cases / "case_0" / "preview.png").is_file()

    training = ["--cases", str(cases), "--max-steps", "1", "--batch-size", "2", "--workers", "0"]
    training += ["--device", "cpu", "--precision", "fp32"]
    assert run_main(train_autoencoder.main, [*training, "--run", str(tmp_path / "shapes")]) == 0
    assert (tmp_path / "shapes" / "best.pt").is_file()
    capsys.readouterr()
    assert run_main(train_backbone.main, [*training, "--run", str(tmp_path / "backbone")]) == 2
    assert "have no CT, for example case_" in capsys.readouterr().err

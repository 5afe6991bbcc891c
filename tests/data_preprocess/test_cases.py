"""cases.py: round trips, damage, incompatible presets, splits."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_preprocess.cases import (
    HELD_OUT,
    CaseInfo,
    check_compatible,
    describe_organs,
    finished_case,
    open_case,
    read_case_info,
    read_dataset,
    read_splits,
    write_dataset,
    write_splits,
)
from utils.imaging.geometry import Geometry

SIZE = (4, 6, 5)


@pytest.fixture
def written(tmp_path, add_case):
    """A case with a brainstem of two voxels and a chiasm of one, in the corner: folder, info, image, label."""
    image = np.random.default_rng(0).integers(-1000, 3000, SIZE).astype(np.int16)
    label = np.zeros(SIZE, dtype=np.uint8)
    label[1, 2, 3] = label[2, 4, 3] = 1
    label[3, 5, 4] = 2
    info = add_case(tmp_path, "case_a", image, label)
    return tmp_path / "case_a", info, image, label


def infos(names, split=None):
    geometry = Geometry(size_zyx=SIZE, spacing_zyx_mm=(1.0, 1.0, 1.0))
    return [
        CaseInfo(
            case_id=name,
            source="",
            split=split,
            spacing_zyx_mm=(1.0, 1.0, 1.0),
            size_zyx=SIZE,
            original=geometry,
            crop_box=((0, 4), (0, 6), (0, 5)),
            organs={},
        )
        for name in names
    ]


def test_case_comes_back_as_written(written, tiny_preset):
    folder, info, image, label = written
    assert read_case_info(folder) == info
    case = open_case(folder, read_case_info(folder), tiny_preset.organ_names)
    np.testing.assert_array_equal(case.image, image)
    np.testing.assert_array_equal(case.label, label)
    assert finished_case(folder.parent, "case_a")
    assert not finished_case(folder.parent, "case_b")


def test_organs_by_hand(written):
    organs = written[1].organs
    assert list(organs) == ["brainstem", "chiasm"]
    assert organs["brainstem"].num_voxels == 2
    assert organs["brainstem"].center_vox == (1.5, 3.0, 3.0)
    assert organs["brainstem"].voxels == ((1, 2, 3), (2, 4, 3))
    assert organs["chiasm"].center_vox == (3.0, 5.0, 4.0)


def test_voxel_samples_are_few_distinct_and_spread():
    label = np.ones((10, 20, 30), dtype=np.uint8)
    organ = describe_organs(label, ["brainstem"], ["brainstem"])["brainstem"]
    assert len(set(organ.voxels)) == len(organ.voxels) == 64
    assert organ.voxels[0] == (0, 0, 0)
    assert organ.voxels[-1] == (9, 19, 29)
    assert {z for z, _, _ in organ.voxels} == set(range(10))


def test_contoured_without_a_voxel_is_not_listed():
    label = np.ones(SIZE, dtype=np.uint8)
    assert list(describe_organs(label, ["brainstem", "chiasm"], ["brainstem", "chiasm"])) == ["brainstem"]
    assert describe_organs(label, ["brainstem", "chiasm"], ["chiasm"]) == {}


@pytest.mark.parametrize("name", ["image.npy", "label.npy"])
@pytest.mark.parametrize("keep_bytes", [0, 60, 200])
def test_truncated_array_is_an_error(name, keep_bytes, written, tiny_preset):
    folder, info, *_ = written
    (folder / name).write_bytes((folder / name).read_bytes()[:keep_bytes])
    with pytest.raises(ValueError, match=rf"case_a/{name}: cannot be read .*prepare the case again"):
        open_case(folder, info, tiny_preset.organ_names)


def test_missing_array_is_an_error(written, tiny_preset):
    folder, info, *_ = written
    (folder / "label.npy").unlink()
    with pytest.raises(ValueError, match="label.npy: cannot be read"):
        open_case(folder, info, tiny_preset.organ_names)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("image.npy", np.zeros((4, 5, 6), np.int16), r"expected int16 \(4, 6, 5\) .*, got int16 \(4, 5, 6\)"),
        ("label.npy", np.zeros(SIZE, np.int16), r"expected uint8 \(4, 6, 5\) as in case.json, got int16"),
    ],
)
def test_array_of_another_shape_or_type_is_an_error(name, array, message, written, tiny_preset):
    folder, info, *_ = written
    np.save(folder / name, array)
    with pytest.raises(ValueError, match=message):
        open_case(folder, info, tiny_preset.organ_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size_zyx": [4, 6]}, "size_zyx: expected a list of 3"),
        ({"colour": "red"}, "colour: unknown key"),
        ({"organs": {"chiasm": {"num_voxels": 1}}}, "organs.chiasm.center_vox: missing key"),
        ({"organs": {"chiasm": 3}}, "organs.chiasm.num_voxels: missing key"),
    ],
)
def test_damaged_case_file_is_an_error(change, message, written):
    path = written[0] / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_case_info(path.parent)


def test_cut_case_file_is_an_error(written):
    path = written[0] / "case.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="case.json: is not valid JSON"):
        read_case_info(path.parent)


def test_dataset_carries_its_preset(tmp_path, tiny_preset):
    write_dataset(tmp_path, tiny_preset)
    write_dataset(tmp_path, tiny_preset)
    assert read_dataset(tmp_path) == tiny_preset


def test_other_organs_are_refused(tmp_path, tiny_preset):
    write_dataset(tmp_path, tiny_preset)
    other = replace(tiny_preset, organs=tiny_preset.organs[:2], left_right_pairs=())
    with pytest.raises(ValueError, match="prepared with 9 organs .* has 2 .*brainstem, chiasm.*another folder"):
        write_dataset(tmp_path, other)
    assert read_dataset(tmp_path) == tiny_preset


def test_other_spacing_is_refused_other_settings_are_not(tmp_path, tiny_preset):
    coarse = replace(tiny_preset, grid=replace(tiny_preset.grid, spacing_zyx_mm=(5.0, 2.0, 2.0)))
    with pytest.raises(ValueError, match=r"prepared at \(3.0, 2.0, 1.5\) mm .* says \(5.0, 2.0, 2.0\)"):
        check_compatible(coarse, tiny_preset, tmp_path)
    check_compatible(replace(tiny_preset, name="mine", left_right_pairs=()), tiny_preset, tmp_path)


def test_no_folder_of_cases_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such folder of cases; run python -m data_preprocess.prepare"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no dataset.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="expected case format 1, got 99; prepare again"):
        read_dataset(tmp_path)


def test_splits_are_disjoint_cover_and_ignore_the_order_of_cases(tmp_path):
    cases = infos([f"pt_{i}" for i in range(50)])
    write_splits(tmp_path / "a", cases)
    write_splits(tmp_path / "b", cases[::-1])
    splits = read_splits(tmp_path / "a")
    assert splits == read_splits(tmp_path / "b")
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 35, "val": 5, "test": 10}
    assert sorted(sum(splits.values(), [])) == sorted(info.case_id for info in cases)


def test_test_cases_of_the_data_set_are_kept_apart(tmp_path):
    test = infos(["pt_201", "pt_202"], split="test")
    write_splits(tmp_path, [*infos([f"pt_{i}" for i in range(25)], split="train"), *test])
    splits = read_splits(tmp_path)
    assert splits["test"] == ["pt_201", "pt_202"]
    assert len(splits["val"]) == 3
    assert len(splits["train"]) == 22


def test_training_cases_of_the_data_set_are_not_taken_for_testing(tmp_path):
    write_splits(tmp_path, infos(["pt_1", "pt_2", "pt_3"], split="train"))
    assert [len(read_splits(tmp_path)[name]) for name in ("train", "val", "test")] == [2, 1, 0]


def test_new_cases_are_appended_and_old_ones_stay(tmp_path):
    old = infos([f"pt_{i}" for i in range(20)])
    write_splits(tmp_path, old)
    before = read_splits(tmp_path)
    new = [f"pt_{i}" for i in range(60, 90)]
    write_splits(tmp_path, [*old, *infos(new), *infos(["pt_91"], split="test")])
    after = read_splits(tmp_path)
    assert set(after["train"]) == {*before["train"], *new}
    assert after["val"] == before["val"]
    assert set(after["test"]) == {*before["test"], "pt_91"}
    write_splits(tmp_path, old)
    assert read_splits(tmp_path) == after


def test_cases_of_one_patient_stay_together(tmp_path):
    cases = [replace(info, patient=f"p{i // 2}") for i, info in enumerate(infos([f"scan_{i}" for i in range(60)]))]
    write_splits(tmp_path, cases[:-1])
    splits = read_splits(tmp_path)
    place = {case_id: name for name, case_ids in splits.items() for case_id in case_ids}
    assert all(place[f"scan_{i}"] == place[f"scan_{i + 1}"] for i in range(0, 58, 2))
    assert {name: len(ids) for name, ids in splits.items()} == {"train": 41, "val": 6, "test": 12}
    write_splits(tmp_path, cases)  # the second scan of a known patient joins the first
    assert "scan_59" in read_splits(tmp_path)[place["scan_58"]]


def test_a_patient_with_one_test_case_is_a_test_patient(tmp_path):
    cases = [replace(info, patient="p") for info in [*infos(["a"], split="train"), *infos(["b"], split="test")]]
    write_splits(tmp_path, [*cases, *infos([f"pt_{i}" for i in range(9)], split="train")])
    assert read_splits(tmp_path)["test"] == ["a", "b"]


def test_cases_that_the_data_set_reserves_are_held_out(tmp_path):
    write_splits(tmp_path, [*infos(["a", "b", "c"], split="train"), *infos(["d"], split=HELD_OUT)])
    splits = read_splits(tmp_path)
    assert splits[HELD_OUT] == ["d"]
    assert sorted(splits["train"] + splits["val"]) == ["a", "b", "c"]
    assert splits["test"] == []


def test_files_of_version_0_1_are_read(tmp_path, add_case):
    add_case(tmp_path, "a", np.zeros(SIZE, dtype=np.int16), np.zeros(SIZE, dtype=np.uint8))
    path = tmp_path / "a" / "case.json"
    content = json.loads(path.read_text())
    del content["unmatched_structures"]
    path.write_text(json.dumps(content | {"unknown_structures": ["PTV"], "split": "apart"}))
    info = read_case_info(tmp_path / "a")
    assert (info.unmatched_structures, info.split) == (("PTV",), HELD_OUT)
    (tmp_path / "splits.json").write_text('{"train": ["b"], "val": [], "test": [], "apart": ["a"]}')
    assert read_splits(tmp_path)[HELD_OUT] == ["a"]
    write_splits(tmp_path, [info, *infos(["c"], split=HELD_OUT)])
    assert json.loads((tmp_path / "splits.json").read_text())[HELD_OUT] == ["a", "c"]


def test_missing_splits_are_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"splits\.json: no such file"):
        read_splits(tmp_path)

"""cases.py: round trips, damage, incompatible presets, splits."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_preprocess.cases import (
    check_compatible,
    finished_case,
    measure_organs,
    open_case,
    read_case_info,
    read_dataset,
    write_dataset,
)

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
    organ = measure_organs(label, ["brainstem"], ["brainstem"])["brainstem"]
    assert len(set(organ.voxels)) == len(organ.voxels) == 64
    assert organ.voxels[0] == (0, 0, 0)
    assert organ.voxels[-1] == (9, 19, 29)
    assert {z for z, _, _ in organ.voxels} == set(range(10))


def test_contoured_without_a_voxel_is_not_listed():
    label = np.ones(SIZE, dtype=np.uint8)
    assert list(measure_organs(label, ["brainstem", "chiasm"], ["brainstem", "chiasm"])) == ["brainstem"]
    assert measure_organs(label, ["brainstem", "chiasm"], ["chiasm"]) == {}


@pytest.mark.parametrize("name", ["image.npy", "label.npy"])
@pytest.mark.parametrize("keep_bytes", [0, 60, 200])
def test_truncated_array_is_an_error(name, keep_bytes, written, tiny_preset):
    folder, info, *_ = written
    (folder / name).write_bytes((folder / name).read_bytes()[:keep_bytes])
    with pytest.raises(ValueError, match=rf"case_a.{name}: cannot be read .*prepare the case again"):
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
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_case_info(path.parent)


def test_cut_case_file_is_an_error(written):
    path = written[0] / "case.json"
    path.write_text(path.read_text(encoding="utf-8")[:100], encoding="utf-8")
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
    with pytest.raises(ValueError, match=r"prepared at \(3.0, 2.0, 1.5\) mm .* has \(5.0, 2.0, 2.0\)"):
        check_compatible(coarse, tiny_preset, tmp_path)
    check_compatible(replace(tiny_preset, name="mine", left_right_pairs=()), tiny_preset, tmp_path)


def test_no_folder_of_cases_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no such folder of cases; run python -m data_preprocess.prepare"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no dataset.json"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"format_version": 99}', encoding="utf-8")
    with pytest.raises(ValueError, match="expected case format 1, got 99; prepare again"):
        read_dataset(tmp_path)

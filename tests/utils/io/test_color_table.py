"""utils/io/color_table.py: names and colors for viewers."""

import pytest

from utils.config.preset import load_preset, preset_from_table, preset_to_table
from utils.errors import UserError
from utils.io.color_table import (
    COLOR_TABLE_NAME,
    check_color_table,
    find_label_names,
    read_color_table,
    segment_metadata,
    write_color_table,
)
from utils.io.files import write_json

PRESET = load_preset("pddca")


def test_color_table_lists_every_label_once(tmp_path):
    write_color_table(tmp_path, PRESET)
    lines = (tmp_path / COLOR_TABLE_NAME).read_text(encoding="utf-8").splitlines()
    assert lines[1:4] == ["0 background 0 0 0 0", "1 brainstem 64 160 255 255", "2 chiasm 255 80 255 255"]
    assert len(lines) == 1 + PRESET.num_classes
    assert read_color_table(tmp_path / COLOR_TABLE_NAME) == PRESET.organ_names


def test_a_table_of_the_same_organs_stays_as_it_is(tmp_path):
    write_color_table(tmp_path, PRESET)
    path = tmp_path / COLOR_TABLE_NAME
    path.write_text(path.read_text(encoding="utf-8").replace("64 160 255", "1 2 3"), encoding="utf-8")
    write_color_table(tmp_path, PRESET)
    assert "1 brainstem 1 2 3 255" in path.read_text(encoding="utf-8")


def test_label_maps_of_other_or_unknown_organs_are_not_renamed(tmp_path):
    (tmp_path / "p1.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds p1\.nii\.gz but no organs\.ctbl"):
        check_color_table(tmp_path, PRESET)
    (tmp_path / COLOR_TABLE_NAME).write_text("0 background 0 0 0 0\n1 liver 1 2 3 255\n", encoding="utf-8")
    with pytest.raises(UserError, match="label maps in this folder have liver"):
        check_color_table(tmp_path, PRESET)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"0 background 0 0 0 0\n2 chiasm 255 80 255 255\n", "`2 chiasm"),
        (b"0 a\n1\n", "`1`"),
        (b"\xff\xfe", "`.+`"),
        (b"", "no organ"),
        (b"# Color table\n0 background 0 0 0 0\n", "no organ"),
    ],
)
def test_damaged_color_tables_are_refused(content, found, tmp_path):
    path = tmp_path / COLOR_TABLE_NAME
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=rf"organs\.ctbl: expected lines .*, got {found}.*; correct or remove the file"
    ):
        read_color_table(path)


@pytest.mark.parametrize(
    "labels", [{"background": 0, "chiasm": 2, "brainstem": 1}, {"0": "background", "1": "brainstem", "2": "chiasm"}]
)
def test_both_versions_of_nnunet_name_labels(labels, tmp_path):
    write_json(tmp_path / "dataset.json", {"labels": labels})
    assert find_label_names(tmp_path) == find_label_names(tmp_path / "labelsTs") == {1: "brainstem", 2: "chiasm"}
    assert find_label_names(tmp_path / "imagesTs") is None


@pytest.mark.parametrize("labels", [None, {"head": [1, 2]}, ["brainstem"]])
def test_regions_and_other_content_are_refused(labels, tmp_path):
    write_json(tmp_path / "dataset.json", {"labels": labels})
    with pytest.raises(UserError, match=r"dataset\.json: labels: expected organ names with one number each"):
        find_label_names(tmp_path)


def test_two_files_that_contradict_each_other_are_refused(tmp_path):
    write_color_table(tmp_path, PRESET)
    names = {name: value for value, name in enumerate(("background", *PRESET.organ_names))}
    write_json(tmp_path / "dataset.json", {"labels": names})
    assert find_label_names(tmp_path)[2] == "chiasm"
    write_json(tmp_path / "dataset.json", {"labels": names | {"chiasm": 3, "mandible": 2}})
    with pytest.raises(UserError, match=r"organs\.ctbl and .*dataset\.json name the label values differently"):
        find_label_names(tmp_path)


def test_segment_fields_name_value_and_color():
    fields = segment_metadata(PRESET)
    assert fields["Segment1_Name"] == "chiasm"
    assert fields["Segment1_LabelValue"] == "2"
    assert fields["Segment1_Color"] == "1.0000 0.3137 1.0000"
    assert sum(key.endswith("_ID") for key in fields) == 9


def test_names_with_blanks_are_read_as_they_are_written(tmp_path):
    names = {"brainstem": "brain stem", "chiasm": "chiasm (of 2)", "mandible": "Unterkiefer \u00fc"}
    table = preset_to_table(PRESET)
    table["organs"] = {names.get(name, name): organ for name, organ in table["organs"].items()}
    preset = preset_from_table(table, "own.toml")
    write_color_table(tmp_path, preset)
    check_color_table(tmp_path, preset)
    found = read_color_table(tmp_path / COLOR_TABLE_NAME)
    assert [preset.find_organ(name) for name in found] == list(range(len(preset.organs)))
    assert all(" " not in name for name in found)  # which 3D Slicer could not read


@pytest.mark.parametrize("color", ["", " 1 2 3", " 1 2 3 255", " 0.1 0.2 0.3 1"])
def test_names_with_blanks_of_other_programs_are_read_too(color, tmp_path):
    path = tmp_path / COLOR_TABLE_NAME
    path.write_text(f"0 background{color}\n1 brain stem{color}\n2 chiasm{color}\n", encoding="utf-8")
    assert read_color_table(path) == ("brain stem", "chiasm")
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "brain_stem": 1, "chiasm": 2}})
    assert find_label_names(tmp_path) == {1: "brain_stem", 2: "chiasm"}

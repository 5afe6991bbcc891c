"""utils/config/toml_dataclass.py: tables to dataclasses, with every problem reported."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from utils.config.toml_dataclass import Range, apply_overrides, build, changed_keys, read_toml, to_table


@dataclass(frozen=True, kw_only=True)
class Box:
    size: tuple[int, int, int]
    margin_mm: Annotated[float, Range(0, 100)] = 5.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    name: str
    box: Box
    mode: Literal["fast", "slow"] = "fast"
    weights: tuple[float, ...] = ()
    boxes: tuple[Box, ...] = ()
    source: str | None = None
    mirrored: bool = False
    counts: Annotated[tuple[int, ...], Range(1)] = ()


def problems_of(table):
    problems = []
    assert build(Settings, table, problems) is None
    return problems


def test_lists_become_tuples_and_whole_numbers_floats():
    problems = []
    table = {
        "name": "a",
        "box": {"size": [1, 2, 3], "margin_mm": 4},
        "weights": [1, 2.5],
        "boxes": [{"size": [4, 5, 6]}],
    }
    settings = build(Settings, table, problems)
    assert problems == []
    assert settings == Settings(
        name="a", box=Box(size=(1, 2, 3), margin_mm=4.0), weights=(1.0, 2.5), boxes=(Box(size=(4, 5, 6)),)
    )
    assert isinstance(settings.box.margin_mm, float)
    assert isinstance(settings.weights[0], float)


def test_round_trip_through_a_plain_table():
    settings = Settings(name="a", box=Box(size=(1, 2, 3)), weights=(0.5,), boxes=(Box(size=(4, 5, 6)),), mirrored=True)
    table = to_table(settings)
    assert table["box"] == {"size": [1, 2, 3], "margin_mm": 5.0}
    assert build(Settings, table, []) == settings


def test_all_problems_of_a_table_are_reported_together():
    table = {"box": {"size": [1, 2], "shade": "red"}, "mode": "medium", "weights": 3, "nmae": "a", "mirrored": 1}
    assert problems_of(table) == [
        "nmae: unknown key",
        "name: missing key",
        "box.shade: unknown key",
        "box.size: expected a list of 3, got [1, 2]",
        "mode: expected one of 'fast', 'slow', got 'medium'",
        "weights: expected a list, got 3",
        "mirrored: expected true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": 3}, "name: expected text, got 3"),
        ({"box": 3}, "box: expected a section, got 3"),
        ({"box": {"size": [1, 2.5, 3]}}, "box.size[1]: expected a whole number, got 2.5"),
        ({"box": {"size": [True, 2, 3]}}, "box.size[0]: expected a whole number, got True"),
        ({"box": {"size": [1, 2, 3], "margin_mm": "5"}}, "box.margin_mm: expected a number, got '5'"),
        ({"boxes": [{"size": [1, 2, 3]}, {}]}, "boxes[1].size: missing key"),
        ({"box": {"size": [1, 2, 3], "margin_mm": 101}}, "box.margin_mm: expected 0 to 100, got 101.0"),
        ({"box": {"size": [1, 2, 3], "margin_mm": float("nan")}}, "box.margin_mm: expected 0 to 100, got nan"),
        ({"counts": [1, 0, 2]}, "counts: expected at least 1, got [1, 0, 2]"),
        ({"counts": [1, "0"]}, "counts[1]: expected a whole number, got '0'"),
        ({"source": 3}, "source: expected text, got 3"),
    ],
)
def test_a_wrong_value_is_reported_with_its_key(changed, problem):
    assert problems_of({"name": "a", "box": {"size": [1, 2, 3]}} | changed) == [problem]


def test_overrides_are_toml_or_bare_words():
    table = {"box": {"size": [1, 2, 3]}}
    overrides = ["box.size=[4, 5, 6]", "name=head", "mode = 'slow'", "new.deep.key=1.5", "mirrored=true"]
    assert apply_overrides(table, overrides) == []
    assert table == {
        "box": {"size": [4, 5, 6]},
        "name": "head",
        "mode": "slow",
        "new": {"deep": {"key": 1.5}},
        "mirrored": True,
    }


def test_overrides_that_cannot_be_applied_are_all_reported():
    table = {"name": "a"}
    problems = apply_overrides(table, ["no_value", "=3", "box.=3", "name.first=b"])
    assert problems == [
        "--set no_value: expected section.key=value",
        "--set =3: expected section.key=value",
        "--set box.=3: expected section.key=value",
        "--set name.first=b: name is a value, not a section",
    ]
    assert table == {"name": "a"}


def test_changed_keys_names_values_that_differ_and_keys_of_one_table():
    old = {"a": 1, "box": {"size": [1, 2], "margin": 3}, "gone": 1}
    new = {"a": 1, "box": {"size": [1, 3], "margin": 3}, "added": 2}
    assert changed_keys(old, new) == ["box.size", "gone", "added"]


def test_toml_errors_name_file_and_line(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("name = 'a'\nbox = [1, 2\nmode = 3\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"wrong\.toml: is not valid TOML \(.*line 3.*A name in brackets needs quotes"):
        read_toml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"wrong\.toml: is not text in UTF-8 .*; save it again"):
        read_toml(path)
    with pytest.raises(ValueError, match=r"absent\.toml: no such configuration file"):
        read_toml(tmp_path / "absent.toml")

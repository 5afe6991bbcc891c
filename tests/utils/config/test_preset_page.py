"""docs/presets.md lists every key of a preset with the values and the default that the dataclasses have."""

import json
import re
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from utils.config.preset import CONFIG_FOLDER, STAGES, Organ, Preset, load_preset

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "presets.md").read_text(encoding="utf-8")
SINGULAR = {int: "whole number", float: "number", str: "text", bool: "true or false"}
PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def describe_values(annotation):
    """The allowed values of a field, in the words of the page."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        described, allowed = describe_values(arguments[0]), str(arguments[1])
        return described if allowed == "a number" else f"{described}, {allowed}"
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is not tuple:
        return SINGULAR[annotation]
    if get_origin(arguments[0]) is tuple:
        return f"pairs of {PLURAL[get_args(arguments[0])[0]]}"
    return PLURAL[arguments[0]] if arguments[-1] is Ellipsis else f"{len(arguments)} {PLURAL[arguments[0]]}"


def expected_rows():
    """Key to its values and its default; the stages have the same keys, so they share the section `<stage>`."""
    hints = get_type_hints(Preset, include_extras=True)
    sections = {"organs.<name>": Organ, **{name: hint for name, hint in hints.items() if is_dataclass(hint)}}
    rows = {name: (describe_values(hints[name]), "") for name in hints if name not in sections and name != "organs"}
    for section, cls in sections.items():
        own = get_type_hints(cls, include_extras=True)
        for field in fields(cls):
            key = f"{'<stage>' if section in STAGES else section}.{field.name}"
            default = "" if field.default is MISSING else f"`{json.dumps(field.default)}`"
            rows[key] = (describe_values(own[field.name]), default)
    del rows["organs.<name>.name"]  # the section's name
    return rows


def test_the_page_has_a_row_for_every_key_with_its_values_and_default():
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    rows = {key.strip("`"): (values, default) for key, _, _, values, default in cells}
    assert rows == expected_rows()


def test_the_table_of_presets_is_complete_and_counts_their_organs():
    listed = {name: int(count) for name, count in re.findall(r"^\| (\w+) \| (\d+) \|", PAGE, re.MULTILINE)}
    assert listed == {path.stem: len(load_preset(path.stem).organs) for path in CONFIG_FOLDER.glob("*.toml")}


def test_the_example_of_the_page_is_valid(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    _, grid, settings = (CONFIG_FOLDER / "tcia_hn.toml").read_text(encoding="utf-8").partition("\n[grid]")
    path = tmp_path / "clinic.toml"
    path.write_text(example + grid + settings, encoding="utf-8")
    preset = load_preset(str(path))
    assert preset.organ_names == ("brainstem", "optic_nerve_left", "optic_nerve_right")
    assert preset.small_organs == (1, 2)

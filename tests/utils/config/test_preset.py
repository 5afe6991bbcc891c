"""utils/config/preset.py: the shipped presets, the errors of a wrong preset, and the page that lists all keys."""

import json
import re
import types
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from utils.config.preset import (
    CONFIG_FOLDER,
    RENAMED_KEYS,
    STAGES,
    Organ,
    Preset,
    load_preset,
    preset_from_table,
    preset_to_table,
)
from utils.config.toml_dataclass import Range
from utils.errors import UserError

PRESET_NAMES = sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml"))
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "presets.md").read_text(encoding="utf-8")
SINGULAR = {int: "whole number", float: "number", str: "text", bool: "true or false"}
PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def message_of(table, overrides):
    with pytest.raises(ValueError, match="docs/presets.md") as caught:
        preset_from_table(table, "own.toml", overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_shipped_preset_survives_a_round_trip(name):
    preset = load_preset(name)
    assert preset.name == name
    assert preset_from_table(preset_to_table(preset), "round trip") == preset


def test_the_pddca_preset_is_the_papers():
    preset = load_preset("pddca")
    assert preset.num_classes == 10
    assert [preset.organ_names[i] for i in preset.small_organs] == ["chiasm", "optic_nerve_left", "optic_nerve_right"]
    assert preset.grid.crop_size_vox == (40, 192, 192)
    assert preset.grid.spacing_zyx_mm == (2.5, 1.0, 1.0)
    assert [organ.focal_alpha for organ in preset.organs] == [1, 8, 1, 8, 8, 1, 1, 2, 2]
    assert (preset.backbone.learning_rate, preset.backbone.decay_epochs) == (0.1, (200, 400))
    assert preset.heatmap.sigma_vox == 5


TCIA_HN = (
    "Brain Brainstem Cochlea-Lt Cochlea-Rt Lacrimal-Lt Lacrimal-Rt Lens-Lt Lens-Rt Lung-Lt Lung-Rt Mandible "
    "Optic-Nerve-Lt Optic-Nerve-Rt Orbit-Lt Orbit-Rt Parotid-Lt Parotid-Rt Spinal-Canal Spinal-Cord "
    "Submandibular-Lt Submandibular-Rt"
)
HAN_SEG = (
    "A_Carotid_L A_Carotid_R Arytenoid Bone_Mandible Brainstem BuccalMucosa Cavity_Oral Cochlea_L Cochlea_R "
    "Cricopharyngeus Esophagus_S Eye_AL Eye_AR Eye_PL Eye_PR Glnd_Lacrimal_L Glnd_Lacrimal_R Glnd_Submand_L "
    "Glnd_Submand_R Glnd_Thyroid Glottis Larynx_SG Lips OpticChiasm OpticNrv_L OpticNrv_R Parotid_L Parotid_R "
    "Pituitary SpinalCord"
)


@pytest.mark.parametrize(("name", "structures", "count"), [("tcia_hn", TCIA_HN, 21), ("hanseg", HAN_SEG, 30)])
def test_presets_of_public_data_know_all_their_structures(name, structures, count):
    preset = load_preset(name)
    for spelled in (structures, structures.replace("-", "_"), structures.upper()):
        assert [preset.find_organ(structure) for structure in spelled.split()] == list(range(count))
    sides = [organ for organ in preset.organ_names if organ.endswith(("_left", "_right"))]
    assert sorted(sides) == sorted(organ for pair in preset.left_right_pairs for organ in pair)


def numbers_without_range(annotation, where=""):
    """Dotted names of the numbers in a dataclass whose type has no Range."""
    if is_dataclass(annotation):
        hints = typing.get_type_hints(annotation, include_extras=True)
        found = [numbers_without_range(hints[field.name], f"{where}.{field.name}") for field in fields(annotation)]
        return [name for names in found for name in names]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and any(isinstance(extra, Range) for extra in arguments[1:]):
        return []
    if origin in (Annotated, tuple, types.UnionType):
        return sorted({name for argument in arguments for name in numbers_without_range(argument, where)})
    return [where] if annotation in (int, float) else []


def test_every_number_of_the_settings_has_a_range():
    assert numbers_without_range(Preset) == []


def test_a_number_without_range_would_be_found():
    @dataclass
    class Inner:
        checked: Annotated[tuple[float, ...], Range(0)]
        pair: tuple[int, int]

    @dataclass
    class Outer:
        inners: tuple[Inner, ...]
        optional: float | None
        flag: bool

    globals().update(Inner=Inner)
    assert numbers_without_range(Outer) == [".inners.pair", ".optional"]


def old_table():
    """The phantom preset as version 0.1 stored it."""
    table = preset_to_table(load_preset("phantom"))
    for (section, old), new in RENAMED_KEYS.items():
        table[section][old] = table[section].pop(new)
    table["roi"]["center"] = "true"
    return table


def test_presets_of_version_0_1_still_load():
    assert preset_from_table(old_table(), "old checkpoint") == load_preset("phantom")


def test_an_old_key_on_the_command_line_is_answered_with_its_new_name():
    message = message_of(old_table(), ["roi.sos_share=0.5", "heatmap.floor=0.1"])
    assert "--set roi.sos_share=0.5: roi.sos_share is now called roi.sos_blend_weight" in message
    assert "--set heatmap.floor=0.1: heatmap.floor is now called heatmap.zero_below" in message
    assert message.startswith("own.toml with --set: 2 problems")


def test_flips_swap_left_and_right_organs():
    preset = load_preset("pddca")
    assert preset.mirrored_organs == (0, 1, 2, 4, 3, 6, 5, 8, 7)


def test_organs_are_found_by_name_and_alias_however_written():
    preset = load_preset("pddca")
    assert preset.find_organ("OpticNerve_L") == 3
    assert preset.find_organ("optic nerve left") == 3
    assert preset.find_organ("BRAINSTEM") == 0
    assert preset.find_organ("Parotid-R.") == 6
    assert preset.find_organ("Larynx") is None


def test_organs_are_found_by_their_names_in_clinics():
    preset = load_preset("pddca")
    assert preset.find_organ("Glnd_Submand_R") == 8
    assert preset.find_organ("OpticNrv_L") == 3
    assert preset.find_organ("Parotid_L+R") is None
    parts = load_preset("pddca", ["organs.chiasm.aliases=['eye']", "organs.mandible.aliases=['orbit']"])
    assert parts.find_organ("Eye") == 1
    assert parts.find_organ("Globe") is None  # chiasm and mandible both have it as an alias


def test_overrides_replace_single_values():
    preset = load_preset("phantom", ["networks.width=2", "backbone.epochs=3", "networks.sos_input=image"])
    assert (preset.networks.width, preset.backbone.epochs, preset.networks.sos_input) == (2.0, 3, "image")
    assert preset.sol == load_preset("phantom").sol


def test_a_preset_file_of_ones_own_is_named_by_its_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text((CONFIG_FOLDER / "phantom.toml").read_text(encoding="utf-8"), encoding="utf-8")
    assert load_preset(str(path)).name == "mine"


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match="pdca: no such preset; choose one of .*pddca.*phantom"):
        load_preset("pdca")


def test_all_problems_are_reported_together_with_file_and_key():
    table = preset_to_table(load_preset("phantom"))
    table["organs"]["chiasm"]["shade"] = 3
    table["organs"]["mandible"] = "big"
    del table["organs"]["brainstem"]["focal_alpha"]
    del table["grid"]["crop_size_vox"]
    table["loss"]["dice_weight"] = "much"
    lines = message_of(table, ["backbone.epochs=1.5", "nonsense"]).splitlines()
    assert lines[0] == "own.toml with --set: 7 problems in the configuration (docs/presets.md lists all keys):"
    assert {line.strip() for line in lines[1:]} == {
        "--set nonsense: expected section.key=value",
        "organs.brainstem.focal_alpha: missing key",
        "organs.chiasm.shade: unknown key",
        "organs.mandible: expected a section, got 'big'",
        "grid.crop_size_vox: missing key",
        "loss.dice_weight: expected a number, got 'much'",
        "backbone.epochs: expected a whole number, got 1.5",
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("grid.spacing_zyx_mm=[2.5,0,1]", "grid.spacing_zyx_mm: expected 0.01 to 100, got [2.5, 0.0, 1.0]"),
        ("grid.roi_size_vox=[16,24,96]", "grid.roi_size_vox: [16, 24, 96] does not fit into the crop [40, 80, 80]"),
        ("intensity.clip_hu=[300,-100]", "intensity.clip_hu: expected [low, high], got [300.0, -100.0]"),
        ("augmentation.zoom_z=[0,1]", "augmentation.zoom_z: expected 0.1 to 10, got [0.0, 1.0]"),
        ("sampling.organ_fraction=1.5", "sampling.organ_fraction: expected 0 to 1, got 1.5"),
        ("sol.validate_every=0", "sol.validate_every: expected at least 1, got 0"),
        ("backbone.learning_rate=nan", "backbone.learning_rate: expected at least 0, got nan"),
        ("organs.chiasm.focal_alpha=-1", "organs.chiasm.focal_alpha: expected at least 0, got -1.0"),
        ("organs.chiasm.color=[0,0,256]", "organs.chiasm.color: expected 0 to 255, got [0, 0, 256]"),
        ("intensity.shift_hu=nan", "intensity.shift_hu: expected a number, got nan"),
        ("grid=3", "grid: expected a section, got 3"),
        ("left_right_pairs=[['chiasm','nose']]", "left_right_pairs: nose is not among the organs"),
        ("left_right_pairs=[['chiasm','chiasm']]", "left_right_pairs: chiasm occurs twice"),
        ("organs.parotid_left.small=true", "parotid_left and parotid_right must both be small or both not"),
        ("organs.chiasm.aliases=['mandible']", "organs.chiasm: mandible has the same name or alias 'mandible'"),
        ("organs={}", "organs: expected 1 to 255 organs, got 0"),
        ("organs.nose.small=true", "organs.nose.focal_alpha: missing key"),
        ("organs.chiasm.name='nose'", "organs.chiasm.name: unknown key"),
    ],
)
def test_contradictions_are_refused(override, problem):
    assert problem in message_of(preset_to_table(load_preset("phantom")), [override])


@pytest.mark.parametrize("table", [None, 3, ["organs"]])
def test_what_is_no_table_is_no_preset(table):
    with pytest.raises(
        UserError, match=r"cases/dataset\.json: expected the sections of a preset, got .*; write the fil"
    ):
        preset_from_table(table, "cases/dataset.json")


@pytest.mark.parametrize("name", ["a/b", "a\\b", ".chiasm", " ", "left:right", "a\nb"])
def test_organs_whose_name_cannot_name_a_file_are_refused(name):
    table = preset_to_table(load_preset("phantom"))
    table["organs"][name] = table["organs"].pop("chiasm")
    assert f"organs.{name}: cannot name a file; use letters, digits, blanks, _ and -" in message_of(table, [])


def test_problems_of_options_name_the_option():
    message = message_of(preset_to_table(load_preset("phantom")), ["grid.x=1"])
    assert message == "own.toml with --set: grid.x: unknown key; docs/presets.md lists all keys"


def test_missing_sections_are_called_so():
    table = {name: section for name, section in preset_to_table(load_preset("phantom")).items() if name != "grid"}
    assert message_of(table, []) == "own.toml: grid: missing section; docs/presets.md lists all keys"


def test_a_preset_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + (CONFIG_FOLDER / "phantom.toml").read_bytes())
    assert load_preset(str(path)).organ_names == load_preset("phantom").organ_names


def test_a_preset_without_small_organs_is_possible():
    names = ("chiasm", "optic_nerve_left", "optic_nerve_right")
    assert load_preset("phantom", [f"organs.{name}.small=false" for name in names]).small_organs == ()


def test_overrides_leave_the_table_as_it_is():
    table = preset_to_table(load_preset("phantom"))
    preset = preset_from_table(table, "test", ["organs.chiasm.tolerance_mm=7"])
    assert preset.organs[preset.find_organ("chiasm")].tolerance_mm == 7
    assert table == preset_to_table(load_preset("phantom"))


def describe_values(annotation):
    """The allowed values of a field, in the words of the page."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        described, allowed = describe_values(arguments[0]), str(arguments[1])
        return described if allowed == "a number" else f"{described}, {allowed}"
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is not tuple:
        return SINGULAR[annotation]
    if typing.get_origin(arguments[0]) is tuple:
        return f"pairs of {PLURAL[typing.get_args(arguments[0])[0]]}"
    return PLURAL[arguments[0]] if arguments[-1] is Ellipsis else f"{len(arguments)} {PLURAL[arguments[0]]}"


def expected_rows():
    """Key to its values and its default; the stages have the same keys, so they share the section `<stage>`."""
    hints = typing.get_type_hints(Preset, include_extras=True)
    sections = {"organs.<name>": Organ, **{name: hint for name, hint in hints.items() if is_dataclass(hint)}}
    rows = {name: (describe_values(hints[name]), "") for name in hints if name not in sections and name != "organs"}
    for section, cls in sections.items():
        own = typing.get_type_hints(cls, include_extras=True)
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
    assert listed == {name: len(load_preset(name).organs) for name in PRESET_NAMES}


def test_the_example_of_the_page_is_valid(tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    _, grid, settings = (CONFIG_FOLDER / "tcia_hn.toml").read_text(encoding="utf-8").partition("\n[grid]")
    path = tmp_path / "clinic.toml"
    path.write_text(example + grid + settings, encoding="utf-8")
    preset = load_preset(str(path))
    assert preset.organ_names == ("brainstem", "optic_nerve_left", "optic_nerve_right")
    assert preset.small_organs == (1, 2)

"""Builds frozen dataclasses from TOML files and reports every problem of a file at once."""

import contextlib
import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError

Table = dict[str, typing.Any]
TYPE_NAMES = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Range:
    """The allowed values of a number, written beside its type: `Annotated[float, Range(0, 1)]`.

    Beside the type of a tuple it applies to each number. `Range()` allows every number except NaN.
    """

    low: float = -math.inf
    high: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{self.low} to {self.high}"
        return "a number" if self.low == -math.inf else f"at least {self.low}"


def read_toml(path: Path) -> Table:
    """Read a TOML file.

    Raises:
        UserError: the file is missing or not valid TOML; the message names the file and the line.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file; check the path")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8 ({error}); save it again in this encoding") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            f"{path}: is not valid TOML ({error}); correct the line. A name in brackets needs quotes unless it "
            "consists of A to Z, a to z, 0 to 9, _ and -"
        ) from error


def apply_overrides(table: Table, overrides: Sequence[str]) -> list[str]:
    """Set `section.key=value` entries in place. A value that is not valid TOML is taken as text.

    Returns:
        One line per override that cannot be applied.
    """
    problems = []
    for override in overrides:
        dotted, equals, text = override.partition("=")
        *sections, key = dotted.strip().split(".")
        if not equals or not all([*sections, key]):
            problems.append(f"--set {override}: expected section.key=value")
            continue
        target = table
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                problems.append(f"--set {override}: {section} is a value, not a section")
                break
        else:
            target[key] = text.strip()
            with contextlib.suppress(tomllib.TOMLDecodeError):
                target[key] = tomllib.loads(f"value = {text.strip()}")["value"]
    return problems


def build(cls: type, table: Table, problems: list[str], where: str = "") -> typing.Any:
    """Build the dataclass `cls` from a TOML table and check keys, types and ranges.

    Args:
        cls: a dataclass whose fields are numbers, text, booleans, tuples of them, or other dataclasses.
        table: parsed TOML. Lists become tuples, and integers become floats where a float is expected. A tuple of
            dataclasses may be given as sections: the name of a section becomes the field `name`.
        problems: one line is added per unknown key, missing key, wrong type and value outside its `Range`.
        where: dotted name of the section, for the messages.

    Returns:
        An instance, or None if `table` has problems.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before = len(problems)
    problems += [f"{where}{key}: unknown key" for key in table if key not in fields]
    values = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], problems, f"{where}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{where}{name}: missing {'section' if _is_section(hints[name]) else 'key'}")
    return cls(**values) if len(problems) == before else None


def _is_section(expected: typing.Any) -> bool:
    """Whether a value is written as sections: it is a dataclass, or a tuple of them."""
    parts = (expected, *typing.get_args(expected))
    return any(isinstance(part, type) and dataclasses.is_dataclass(part) for part in parts)


def changed_keys(old: Table, new: Table, where: str = "") -> list[str]:
    """The dotted names of keys whose values differ between two tables, or that only one of them has."""
    names = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names += changed_keys(before, after, f"{where}{key}.")
        elif before != after:
            names.append(f"{where}{key}")
    return names


def to_table(instance: typing.Any) -> Table:
    """The table from which `build` makes an equal instance: dictionaries, lists, numbers, text."""
    return json.loads(json.dumps(dataclasses.asdict(instance)))  # tuples become lists


def _convert(expected: typing.Any, value: typing.Any, problems: list[str], where: str) -> typing.Any:
    if dataclasses.is_dataclass(expected):
        if isinstance(value, dict):
            return build(expected, value, problems, f"{where}.")
        problems.append(f"{where}: expected a section, got {value!r}")
        return None
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin is typing.Annotated:
        return _convert_in_range(*arguments, value, problems, where)
    if origin is types.UnionType:  # X | None
        return None if value is None else _convert(arguments[0], value, problems, where)
    if origin is typing.Literal:
        if value not in arguments:
            problems.append(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, problems, where)
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        problems.append(f"{where}: expected {TYPE_NAMES.get(expected, expected.__name__)}, got {value!r}")
    return value


def _convert_in_range(
    expected: typing.Any, allowed: Range, value: typing.Any, problems: list[str], where: str
) -> typing.Any:
    before = len(problems)
    converted = _convert(expected, value, problems, where)
    numbers = list(converted) if isinstance(converted, tuple) else [converted]
    if len(problems) == before and not all(number in allowed for number in numbers):
        problems.append(f"{where}: expected {allowed}, got {numbers if isinstance(converted, tuple) else converted}")
    return converted


def _convert_tuple(arguments: tuple, value: typing.Any, problems: list[str], where: str) -> tuple | None:
    variadic = len(arguments) == 2 and arguments[1] is Ellipsis
    if isinstance(value, dict) and dataclasses.is_dataclass(arguments[0]):
        return tuple(_convert_named(arguments[0], *item, problems, where) for item in value.items())
    if not isinstance(value, list | tuple) or (not variadic and len(value) != len(arguments)):
        count = "a list" if variadic else f"a list of {len(arguments)}"
        problems.append(f"{where}: expected {count}, got {value!r}")
        return None
    types_ = [arguments[0]] * len(value) if variadic else arguments
    return tuple(_convert(t, v, problems, f"{where}[{i}]") for i, (t, v) in enumerate(zip(types_, value, strict=True)))


def _convert_named(cls: type, name: str, section: object, problems: list[str], where: str) -> typing.Any:
    if isinstance(section, dict):
        problems += [f"{where}.{name}.name: unknown key"] * ("name" in section)
        section = {**section, "name": name}
    return _convert(cls, section, problems, f"{where}.{name}")

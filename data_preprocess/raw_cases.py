"""Which raw cases a command reads, and how: shared by `prepare` and `export`."""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_preprocess.cases import HELD_OUT
from data_preprocess.hounsfield import validate_hounsfield
from data_preprocess.sources import SOURCES, RawCase, RawCaseHandle
from utils.config.preset import CONFIG_FOLDER, Preset, load_preset
from utils.errors import UserError
from utils.io.files import printable, validate_file_name
from utils.runtime.command_line import Shard, positive_int


def raw_arguments(description: str) -> argparse.ArgumentParser:
    """The options that say which raw cases to read."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=sorted(SOURCES), help="layout of the raw data")
    parser.add_argument("--input", type=Path, help="folder of the raw data (the phantom source draws its own)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--preset", help="name in configs/ or path of a .toml; by default the one named like the source"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    parser.add_argument("--workers", type=positive_int, default=2, help="number of processes (default: %(default)s)")
    parser.add_argument(
        "--split", choices=("train", "test"), help="read only the data set's own training or test cases"
    )
    reserved = (
        "put the cases that the data set reserves (PDDCA's on-site cases) into this split; by default they are left out"
    )
    parser.add_argument("--held-out", choices=("train", "test"), help=reserved)
    parser.add_argument(
        "--shard", type=Shard.parse, metavar="I/N", help="read only every N-th case, from the I-th (1 to N)"
    )
    parser.add_argument("--limit", type=positive_int, help="read only the first cases, at most this many")
    return parser


def load_raw_preset(arguments: argparse.Namespace) -> Preset:
    """Load the preset that the command line names, or else the one named like the source.

    Raises:
        UserError: the preset is invalid, or there is none named like the source, since it may hold any organs.
    """
    if arguments.preset is None and not (CONFIG_FOLDER / f"{arguments.source}.toml").is_file():
        known = ", ".join(sorted(path.stem for path in CONFIG_FOLDER.glob("*.toml")))
        raise UserError(
            f"--preset is missing; --source {arguments.source} has no default organs. Give one of {known}, or the path "
            "of your own (docs/presets.md)"
        )
    return load_preset(arguments.preset or arguments.source, arguments.set)


def list_raw_cases(arguments: argparse.Namespace) -> list[RawCaseHandle]:
    """List every case of the raw data.

    Raises:
        UserError: there are none, two have the same name, a name cannot name a file, or --output is the raw data.
    """
    if arguments.input is not None and arguments.input.resolve() == arguments.output.resolve():
        raise UserError(f"--output {arguments.output}: holds the raw data; choose another folder")
    handles = [
        replace(h, case_id=printable(h.case_id), patient=h.patient and printable(h.patient))
        for h in SOURCES[arguments.source].list_cases(arguments.input)
    ]
    counts = Counter(validate_file_name(handle.case_id, handle.location) for handle in handles)
    if repeated := [name for name, count in counts.items() if count > 1]:
        paths = ", ".join(str(handle.location) for handle in handles if handle.case_id == repeated[0])
        raise UserError(f"{counts[repeated[0]]} cases are called {repeated[0]}: {paths}; rename all but one")
    if arguments.held_out:
        handles = [replace(h, split=arguments.held_out if h.split == HELD_OUT else h.split) for h in handles]
    return handles


def select_raw_cases(handles: Sequence[RawCaseHandle], arguments: argparse.Namespace) -> list[RawCaseHandle]:
    """Select the cases that the command line asks for.

    Raises:
        UserError: there are none.
    """
    selected = [handle for handle in handles if arguments.split in (None, handle.split)][: arguments.limit]
    if arguments.shard:
        selected = arguments.shard.select(selected)
    if not selected:
        where = arguments.input or arguments.source
        if arguments.split and all(handle.split is None for handle in handles):
            raise UserError(
                f"{where}: --split {arguments.split}: the data set names no splits; leave the option out, or give "
                "prepared cases to export with --cases"
            )
        raise UserError(f"{where}: --split, --limit and --shard exclude all {len(handles)} cases; relax one of them")
    return selected


def read_raw_case(handle: RawCaseHandle, source: str, preset: Preset) -> RawCase:
    """Read the preset's organs of a case of a layout (`source`), and its CT, if it has one, as int16 HU.

    Raises:
        UserError: a file is damaged or does not fit the others, or the CT is not in HU.
    """
    raw = SOURCES[source].read_case(handle, preset)
    if raw.volume is None:
        return raw
    try:
        checked = validate_hounsfield(raw.volume.array, correct_offset=False)
    except UserError as error:
        raise UserError(str(error), f"CT of {raw.source}") from error
    return replace(raw, volume=replace(raw.volume, array=checked.array), notes=(*raw.notes, *checked.notes))

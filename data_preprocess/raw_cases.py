"""Which raw cases a command works on: shared by `prepare` and `export`."""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from data_preprocess.cases import HELD_OUT
from data_preprocess.sources import SOURCES, RawCaseHandle
from utils.config.preset import CONFIG_FOLDER
from utils.errors import UserError
from utils.io.files import validate_file_name
from utils.runtime.command_line import Shard, positive_int


def raw_arguments(description: str) -> argparse.ArgumentParser:
    """The options that say which raw cases to read."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, choices=sorted(SOURCES), help="layout of the raw data")
    parser.add_argument("--input", type=Path, help="folder of the raw data (the phantom source draws its own)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--preset", help="name in configs/ or path of a .toml; the source's own by default")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes")
    parser.add_argument("--split", choices=("train", "test"), help="only the cases that the data set puts there")
    parser.add_argument(
        "--held-out",
        choices=("train", "test"),
        help="split of the cases that the data set reserves (PDDCA's five on-site cases); by default they are not used",
    )
    parser.add_argument("--shard", type=Shard.parse, metavar="I/N", help="only every N-th case, from the I-th (1 to N)")
    parser.add_argument("--limit", type=positive_int, help="only the first so many cases")
    return parser


def preset_name(arguments: argparse.Namespace) -> str:
    """The preset that the command line names, or else the one that is called like the source.

    Raises:
        UserError: the layout holds any organs, so that it has no preset of its own.
    """
    if arguments.preset is None and not (CONFIG_FOLDER / f"{arguments.source}.toml").is_file():
        raise UserError(f"--source {arguments.source}: holds any organs; say with --preset which ones to take")
    return arguments.preset or arguments.source


def list_raw_cases(arguments: argparse.Namespace) -> list[RawCaseHandle]:
    """Every case of the raw data.

    Raises:
        UserError: there are none, two share a name, or a name is unfit for a file.
    """
    references = SOURCES[arguments.source].list_cases(arguments.input)
    _check_names(references)
    if arguments.held_out:
        references = [replace(r, split=arguments.held_out if r.split == HELD_OUT else r.split) for r in references]
    return references


def select_raw_cases(references: Sequence[RawCaseHandle], arguments: argparse.Namespace) -> list[RawCaseHandle]:
    """Those that the command line asks for.

    Raises:
        UserError: none.
    """
    wanted = [reference for reference in references if arguments.split in (None, reference.split)][: arguments.limit]
    if arguments.shard:
        wanted = arguments.shard.select(wanted)
    if not wanted:
        raise UserError(
            f"{arguments.input or arguments.source}: none of {len(references)} cases is left by --split, --limit and "
            "--shard"
        )
    return wanted


def _check_names(references: Iterable[RawCaseHandle]) -> None:
    counts = Counter(validate_file_name(reference.case_id, reference.location) for reference in references)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise UserError(f"{counts[repeated[0]]} cases are called {repeated[0]}; rename all but one")

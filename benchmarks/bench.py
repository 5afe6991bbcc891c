"""Compare FocusNet's speed and memory with a baseline (float32, one-hot losses, windows that overlap by one half).

    python -m benchmarks.bench --output bench.json

Prints the time of both, their ratio, and FocusNet's speed as a fraction of that of a large bf16 matrix product.
"""

import argparse
import json
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import get_args

import torch

from benchmarks import tasks
from benchmarks.ab_timing import Measurement, matmul_gflops, time_alternately
from data_preprocess.sources import RawCase
from data_preprocess.sources.phantom.source import generate_phantom
from utils.config.preset import STAGES, load_preset
from utils.io.files import write_json
from utils.io.own_files import read_record, require_own
from utils.runtime.command_line import run_main
from utils.runtime.device import Precision, choose_compute

NAMES = ("forward", *(f"step/{stage}" for stage in STAGES), "whole CT", "preparation", "evaluation", "loading")
VARIANTS = {"baseline": {"baseline": True}, "focusnet": {"baseline": False}}
COLUMNS = {
    "baseline_s": ".3f",
    "focusnet_s": ".3f",
    "ratio": ".2f",
    "baseline_peak_gib": ".2f",
    "focusnet_peak_gib": ".2f",
    "focusnet_gflops": ".0f",
    "fraction_of_peak": ".0%",
    "baseline_waiting_fraction": ".1%",
    "focusnet_waiting_fraction": ".1%",
}
"""Results in the printed table, with their formats; not every task has all of them."""

CT_SPACING_ZYX_MM = (2.5, 0.98, 0.98)
CT_EXTENT_ZYX_MM = (362.5, 501.76, 501.76)

logger = logging.getLogger(__name__)


def chosen_tasks(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[..., tasks.Task]]]:
    """Names and builders of the chosen tasks."""
    preset, device, precision = load_preset(arguments.preset, arguments.set), arguments.device, arguments.precision
    for name in arguments.tasks:
        kind, _, stage = name.partition("/")
        if kind == "forward":
            yield name, partial(tasks.forward, preset, device, precision)
        elif kind == "step":
            yield name, partial(tasks.step, stage, preset, device)
        elif kind == "whole CT":
            yield name, partial(tasks.whole_ct, big_phantom(), arguments.checkpoint, preset, device, precision)
        elif kind == "loading" and arguments.cases is None:
            logger.info("loading is skipped: it needs --cases")
        elif kind == "loading":
            yield name, partial(tasks.loading, arguments.cases, arguments.set, device)
        else:
            yield name, partial(getattr(tasks, kind), big_phantom(), preset)


@cache
def big_phantom() -> RawCase:
    """A CT of 512 x 512 x 145 voxels with contours; rendering it takes half a minute."""
    return generate_phantom(0, spacing_zyx_mm=CT_SPACING_ZYX_MM, extent_zyx_mm=CT_EXTENT_ZYX_MM)


def to_row(name: str, baseline: Measurement, focusnet: Measurement, peak_gflops: float) -> dict[str, object]:
    """The results of a task for the JSON file."""
    row = {
        "task": name,
        "baseline_s": baseline.seconds,
        "focusnet_s": focusnet.seconds,
        "ratio": baseline.seconds / focusnet.seconds,
        "baseline_peak_gib": baseline.peak_gib,
        "focusnet_peak_gib": focusnet.peak_gib,
    }
    if focusnet.gflop:
        row |= {
            "gflop": focusnet.gflop,
            "baseline_gflops": focusnet.gflop / baseline.seconds,
            "focusnet_gflops": focusnet.gflop / focusnet.seconds,
            "fraction_of_peak": focusnet.gflop / focusnet.seconds / peak_gflops,
        }
    if focusnet.extra is not None:
        row |= {"baseline_waiting_fraction": baseline.extra, "focusnet_waiting_fraction": focusnet.extra}
    return row


def print_line(task: str, cells: dict[str, str]) -> None:
    """Print a line of the table; results without a cell are blank."""
    print(f"{task:<24}", *(f"{cells.get(name, ''):>{len(name)}}" for name in COLUMNS), sep="  ", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=NAMES,
        default=list(NAMES),
        metavar="TASK",
        help="tasks to time: " + ", ".join(NAMES),
    )
    parser.add_argument("--preset", default="pddca", help="preset of the networks (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    parser.add_argument(
        "--checkpoint", type=Path, help="model of the whole CT; by default the preset's networks with random weights"
    )
    parser.add_argument("--cases", type=Path, help="folder of prepared cases that the task loading reads")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs per task (default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; by default a GPU if there is one")
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        help="the program's precision in forward and whole CT; default: that of the scripts",
    )
    parser.add_argument("--output", type=Path, help="JSON file to write the numbers to")
    arguments = parser.parse_args(argv)
    if arguments.output is not None and read_record(arguments.output, ("machine", "tasks")) is None:
        require_own([arguments.output])
    device = choose_compute(arguments.device, None).device
    peaks = {str(dtype)[6:]: matmul_gflops(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    machine = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "matrix_product_gflops": peaks,
    }
    print(json.dumps(machine))
    print_line("task", {name: name for name in COLUMNS})
    rows = []
    for name, build in chosen_tasks(arguments):
        rows.append(to_row(name, **time_alternately(build, VARIANTS, arguments.repeats), peak_gflops=peaks["bfloat16"]))
        print_line(name, {key: format(value, COLUMNS[key]) for key, value in rows[-1].items() if key in COLUMNS})
        if arguments.output is not None:
            write_json(arguments.output, {"machine": machine, "preset": arguments.preset, "tasks": rows})
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

"""Kill a small training repeatedly at random moments; it must end bit for bit as an undisturbed one does.

python -m tests.soak_training --cases demo/cases --output /tmp/soak --kills 20
"""

import argparse
import importlib
import logging
import multiprocessing
import os
import random
import shutil
import sys
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

import torch

from utils.io.checkpoint import read_checkpoint
from utils.runtime.command_line import run_main

SMALL = ("grid.crop_size_vox=[16,32,24]", "networks.width=0.25")
SCHEDULE = ("backbone.epochs=6", "backbone.steps_per_epoch=4", "backbone.validate_every=2")
MAX_LIFETIME = 0.7
"""Latest moment of a kill, as a fraction of the shortest duration of a whole run so far."""

logger = logging.getLogger(__name__)


class SoakResult(NamedTuple):
    """The result of a soak test."""

    kills: int
    finished_runs: int
    """Runs that finished after kills and were compared with the undisturbed one."""
    seconds_undisturbed: float
    seconds: float


def soak(cases: Path, folder: Path, *, kills: int, overrides: tuple[str, ...] = SMALL, seed: int = 0) -> SoakResult:
    """Train once undisturbed, then kill and resume trainings; compare every training that reaches its end.

    Args:
        cases: a folder of cases.
        folder: for runs and logs.
        kills: total number of SIGKILLs.
        overrides: changes of the cases' preset.
        seed: of the random moments.

    Raises:
        RuntimeError: a run failed, or its result differs.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_backbone"])  # a fresh process of it starts at once
    settings = [word for value in (*SCHEDULE, *overrides) for word in ("--set", value)]
    options = ["--cases", str(cases), "--resume", "auto", "--device", "cpu", "--precision", "fp32", "--batch-size", "2"]
    options += settings
    folder.mkdir(parents=True, exist_ok=True)
    whole, cut, started = folder / "whole", folder / "cut", time.monotonic()
    _finish(_start(context, [*options, "--run-dir", str(whole)], folder / "whole.log"))
    undisturbed = time.monotonic() - started

    moments, killed, finished, shortest = random.Random(seed), 0, 0, undisturbed
    while killed < kills:
        launched, is_new = time.monotonic(), not cut.exists()
        child = _start(context, [*options, "--run-dir", str(cut)], folder / "cut.log")
        child.join(moments.uniform(0, MAX_LIFETIME * shortest))
        if child.exitcode is None:
            child.kill()
            child.join()
            killed += 1
            logger.info("kill %d of %d", killed, kills)
        else:
            finished += _compare(child, whole, cut)
            shortest = min(shortest, time.monotonic() - launched) if is_new else shortest
            shutil.rmtree(cut)
    finished += _compare(_start(context, [*options, "--run-dir", str(cut)], folder / "cut.log"), whole, cut)
    return SoakResult(killed, finished, undisturbed, time.monotonic() - started)


def train_quietly(argv: list[str], log: Path) -> None:
    """Run train_backbone.py with its output in a file; the target of a child process."""
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # of workers: the system's, as in a process from a shell
    sys.exit(run_main(importlib.import_module("train_backbone").main, argv))


def _start(context: BaseContext, argv: list[str], log: Path) -> multiprocessing.Process:
    child = context.Process(target=train_quietly, args=(argv, log))
    child.start()
    return child


def _finish(child: multiprocessing.Process) -> None:
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"a training ended with status {child.exitcode}; see its log")


def _compare(child: multiprocessing.Process, whole: Path, cut: Path) -> int:
    """Wait for a run's end and compare its results: 1, the number of runs compared."""
    _finish(child)
    for name in ("last.pt", "best.pt"):
        left, right = (read_checkpoint(run / name) for run in (whole, cut))
        if not _equal(left["networks"], right["networks"]) or not _equal(left["state"], right["state"]):
            raise RuntimeError(f"{cut / name} differs from {whole / name}")
    if (whole / "metrics.csv").read_bytes() != (cut / "metrics.csv").read_bytes():
        raise RuntimeError(f"{cut}/metrics.csv differs from {whole}/metrics.csv")
    left_over = [path.name for path in cut.iterdir() if "partial" in path.name]
    if left_over:
        raise RuntimeError(f"{cut}: temporary files were left: {', '.join(left_over)}")
    return 1


def _equal(left: object, right: object) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(_equal(*pair) for pair in zip(left, right, strict=True))
    return torch.equal(left, right) if torch.is_tensor(left) else left == right


def main(argv: list[str] | None = None) -> int:
    """Run the soak test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="prepared cases, such as make demo's demo/cases")
    parser.add_argument("--output", type=Path, required=True, help="folder for runs and logs")
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    arguments = parser.parse_args(argv)
    report = soak(arguments.cases, arguments.output, kills=arguments.kills, seed=arguments.seed)
    logger.info(
        "%d kills in %d runs, each equal to the undisturbed one bit for bit; %.0f s undisturbed, %.0f s in all",
        *report,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

"""One run of a training script: its options, device, ranks and folder, and whether it resumes an earlier process."""

import argparse
import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from utils.errors import UserError
from utils.io.files import check_folder
from utils.io.own_files import read_record, require_own
from utils.runtime.command_line import Shard, nonnegative_int, positive_int
from utils.runtime.device import (
    Compute,
    Precision,
    best_float_precision,
    choose_compute,
    computes_bf16,
    make_deterministic,
)
from utils.runtime.distributed import decided_by_rank0, distributed_context, num_restarts
from utils.training.checkpoint_rotation import NOTHING_TO_RESUME, CheckpointRotation
from utils.training.run_log import CONFIGURATION_KEYS, RUN_FILES, read_configuration

logger = logging.getLogger(__name__)

NOT_REPEATED = {"run_dir", "config_from", "resume", "max_minutes"}
"""Options that `--config-from` does not take from the other run."""
RENAMED_OPTIONS = {"accumulate": "grad_accumulation_steps", "local_norms": "no_sync_batchnorm"}
"""Options in the config.json of earlier releases."""


@dataclass(kw_only=True)
class TrainingOptions:
    """The options of a training script."""

    cases: Path
    run_dir: Path
    preset: str | None = None
    init_from: list[Path] = field(default_factory=list)
    autoencoder: Path | None = None
    config_from: Path | None = None
    cross_validation: str | None = None
    resume: Literal["required", "auto"] | None = None
    max_minutes: float | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    grad_accumulation_steps: int = 1
    no_sync_batchnorm: bool = False
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    deterministic: bool = False
    seed: int = 0
    workers: int = 1
    set: list[str] = field(default_factory=list)


def parse_training_options(
    description: str, argv: list[str] | None, *, with_autoencoder: bool = False
) -> TrainingOptions:
    """Parse the options of a training script; `--autoencoder` is one of them only if asked for.

    Raises:
        UserError: the run of `--config-from` has no readable configuration.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # the defaults are those of TrainingOptions
    )
    add = parser.add_argument
    add("--cases", type=Path, help="folder written by data_preprocess.prepare; required without --config-from")
    add("--run-dir", type=Path, required=True, help="folder for checkpoints, logs and the configuration")
    add("--preset", help="name in configs/ or path of a .toml; by default the one stored with the cases")
    add(
        "--init-from",
        type=Path,
        action="append",
        metavar="CHECKPOINT",
        help="load the weights of this checkpoint's networks; repeatable",
    )
    if with_autoencoder:
        add("--autoencoder", type=Path, metavar="CHECKPOINT", help="best.pt of train_autoencoder.py")
    config_help = "take options, preset and splits from this run's config.json; options on the command line override it"
    add("--config-from", type=Path, metavar="RUN", help=config_help)
    fold_help = "validate on fold K of N folds of the train and val patients, train on the others"
    add("--cross-validation", type=_fold, metavar="K/N", help=fold_help)
    resume_help = "continue the run from its last.pt; with 'auto', start a new run if there is none"
    add("--resume", nargs="?", const="required", choices=("required", "auto"), help=resume_help)
    add("--max-minutes", type=_duration, metavar="M", help="after M minutes write last.pt and exit with status 75")
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=positive_int, help="number of epochs instead of the preset's; scales the schedule"
    )
    length.add_argument("--max-steps", type=positive_int, help="stop after this many optimizer steps")
    add("--batch-size", type=positive_int, help="crops per process and microbatch, instead of the preset's")
    add("--grad-accumulation-steps", type=positive_int, metavar="N", help="microbatches per optimizer step")
    add(
        "--no-sync-batchnorm", action="store_true", help="normalize each rank's crops alone, not the crops of all ranks"
    )
    add("--device", help="cpu, cuda, cuda:N or mps (Apple); by default a GPU if there is one")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="by default bf16 where it is faster than fp32")
    add("--compile", action="store_true", help="use torch.compile on the networks")
    add("--deterministic", action="store_true", help="use deterministic algorithms only; slower on a GPU")
    add("--seed", type=nonnegative_int, help="seed of all random draws; by default 0")
    add("--workers", type=nonnegative_int, help="processes that read crops; 0 reads in the training process")
    add("--set", action="append", metavar="SECTION.KEY=VALUE", help="override a value of the preset; repeatable")
    given = vars(parser.parse_args(argv))
    if "config_from" in given and "preset" in given:
        parser.error("--config-from has its own preset; leave out --preset, or change values with --set")
    recorded = _recorded_options(given["config_from"]) if "config_from" in given else {}
    if "epochs" in given or "max_steps" in given:
        recorded |= {"epochs": None, "max_steps": None}
    if "cases" not in {**recorded, **given}:
        parser.error("the following arguments are required: --cases")
    return TrainingOptions(**{**recorded, **given})


def _recorded_options(run_dir: Path) -> dict[str, Any]:
    """The options recorded in a run folder that another run can repeat."""
    options = {RENAMED_OPTIONS.get(name, name): value for name, value in read_configuration(run_dir)["options"].items()}
    repeated = TrainingOptions.__dataclass_fields__.keys() - NOT_REPEATED
    known = {name: value for name, value in options.items() if name in repeated}
    paths = {name: Path(known[name]) for name in ("cases", "autoencoder") if known.get(name) is not None}
    return {**known, **paths, "init_from": [Path(path) for path in known.get("init_from", [])]}


def _duration(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not minutes >= 0:
        raise argparse.ArgumentTypeError(f"expected minutes, at least 0, got {text!r}")
    return minutes


def _fold(text: str) -> str:
    if Shard.parse(text).count == 1:
        raise argparse.ArgumentTypeError(f"expected at least 2 folds, got {text!r}")
    return text


class TrainingRun:
    """A new or a resumed run, with its device, ranks and checkpoints; seeds torch, but writes nothing yet.

    A run is resumed if `--resume` asks for it, or if torchrun restarted the process after another rank had crashed.

    Raises:
        UserError: the folder already holds a run and `--resume` is not given, or files of somebody else that a run
            would replace; there is no run to resume; or the device is missing or does not support the precision or
            `--compile`.
    """

    def __init__(self, options: TrainingOptions) -> None:
        self.options = options
        check_folder(options.run_dir)
        self.checkpoints = CheckpointRotation(options.run_dir)
        exists = self.checkpoints.exists()
        if options.resume == "required" and not exists:
            raise UserError(NOTHING_TO_RESUME.format(options.run_dir))
        self.is_resuming = exists and (options.resume is not None or num_restarts() > 0)
        if exists and not self.is_resuming:
            raise UserError(
                f"{options.run_dir}: already holds a run; run the same command with --resume to continue it, or "
                "choose another --run-dir"
            )
        if not exists:  # a run that was killed before its first checkpoint has its configuration
            files = [options.run_dir / name for name in RUN_FILES]
            require_own(files, files if read_record(files[0], CONFIGURATION_KEYS) else ())
        self.ranks = distributed_context()
        torch.manual_seed(options.seed)
        self.compute = self._choose_compute()
        if options.compile and self.compute.device.type == "cpu" and self.compute.precision == "bf16":
            raise UserError(
                "--compile: the bf16 gradients that torch.compile computes on a CPU can be wrong "
                "(docs/performance.md); add --precision fp32 or leave out --compile"
            )
        if options.deterministic:
            make_deterministic(self.compute.device)

    def _choose_compute(self) -> Compute:
        """The device and precision; a precision that the command line leaves open is rank 0's choice."""
        options = self.options
        compute = choose_compute(options.device, options.precision or "fp32", self.ranks.local_rank)
        if options.precision is not None:
            return compute
        choice = decided_by_rank0(self.ranks, "precision", lambda: self._open_precision(compute.device))
        return replace(compute, precision=choice)

    def _open_precision(self, device: torch.device) -> Precision:
        if self.options.compile and device.type == "cpu":
            return "fp32"
        if self.is_resuming and (earlier := _recorded_precision(self.options.run_dir, device)):
            logger.info("precision: %s, as before", earlier)
            return earlier
        return best_float_precision(device)


def _recorded_precision(run_dir: Path, device: torch.device) -> Precision | None:
    """In which a run computed so far; None if it is not recorded, or was another kind of device's."""
    compute = (read_record(run_dir / "config.json", CONFIGURATION_KEYS) or {}).get("compute", {})
    if compute.get("device") != device.type:
        return None
    needs_bf16 = compute["precision"] == "bf16" and device.type == "cpu"
    return None if needs_bf16 and not computes_bf16() else compute["precision"]

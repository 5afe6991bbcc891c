"""One run of a training script: its options, device, ranks and folder."""

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError
from utils.runtime.command_line import Shard, nonnegative_int, positive_int
from utils.runtime.device import Compute, choose_compute, make_deterministic
from utils.runtime.distributed import DistributedContext, distributed_context
from utils.training.checkpoint_rotation import CheckpointRotation
from utils.training.preemption import was_restarted
from utils.training.run_log import read_configuration

NOT_REPEATED = ("run", "repeat", "resume", "auto_resume", "max_minutes")


@dataclass(kw_only=True)
class TrainingOptions:
    """Options of a training run, as given."""

    cases: Path
    run: Path
    preset: str | None = None
    init_from: list[Path] = field(default_factory=list)
    autoencoder: Path | None = None
    repeat: Path | None = None
    cross_validation: str | None = None
    resume: bool = False
    auto_resume: bool = False
    keep_last: int = 2
    max_minutes: float | None = None
    max_skipped: int = 10
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    local_norms: bool = False
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    deterministic: bool = False
    seed: int = 0
    workers: int = 1
    set: list[str] = field(default_factory=list)


def parse_training_options(description: str, argv: list[str] | None, *, adversarial: bool = False) -> TrainingOptions:
    """Parse the options of a training script.

    Args:
        description: first line of its help.
        argv: arguments; None takes the process's.
        adversarial: whether `--autoencoder` is an option.

    Raises:
        UserError: the run to repeat has no readable configuration.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = parser.add_argument("--cases", type=Path, required=True, help="folder written by data_preprocess.prepare")
    run_help = "folder for checkpoints, logs and the configuration; torchrun refuses --run, but takes --run-folder"
    parser.add_argument("--run", "--run-folder", type=Path, required=True, help=run_help)
    parser.add_argument("--preset", help="name in configs/ or path of a .toml; by default the one the cases carry")
    parser.add_argument(
        "--init-from", type=Path, action="append", default=[], metavar="CHECKPOINT", help="take its networks' weights"
    )
    if adversarial:
        parser.add_argument("--autoencoder", type=Path, metavar="CHECKPOINT", help="of train_autoencoder.py")
    parser.add_argument(
        "--repeat", type=Path, metavar="RUN", help="take options, preset and splits from the config.json in this folder"
    )
    fold_help = "train without fold K of N, whose patients validate; the test split stays"
    parser.add_argument("--cross-validation", type=_fold, metavar="K/N", help=fold_help)
    _add_survival(parser)
    _add_batches(parser)
    parser.add_argument("--device", help="cpu, cuda or cuda:N; a GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="bf16 where the hardware computes in it")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--deterministic", action="store_true", help="the same numbers in every run; slower on a GPU")
    parser.add_argument("--seed", type=nonnegative_int, default=0)
    parser.add_argument(
        "--workers", type=nonnegative_int, default=1, help="processes that read crops; 0 reads in this one"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    repeated = _find_repeated(argv)
    if repeated is not None:
        recorded = recorded_options(repeated)
        parser.set_defaults(**{name: value for name, value in recorded.items() if name not in NOT_REPEATED})
        cases.required = False
    return TrainingOptions(**vars(parser.parse_args(argv)))


def recorded_options(run: Path) -> dict:
    """The options that a run folder records, with paths as paths.

    Raises:
        UserError: it holds no readable config.json.
    """
    options = read_configuration(run)["options"]
    known = {name: value for name, value in options.items() if name in TrainingOptions.__dataclass_fields__}
    for name in ("cases", "autoencoder"):
        if known.get(name) is not None:
            known[name] = Path(known[name])
    known["init_from"] = [Path(path) for path in known.get("init_from", [])]
    if known.get("autoencoder") is None:
        known.pop("autoencoder", None)  # no option of the other scripts
    return known


def _find_repeated(argv: list[str] | None) -> Path | None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--repeat", type=Path)
    return parser.parse_known_args(argv)[0].repeat


def _add_survival(parser: argparse.ArgumentParser) -> None:
    """What becomes of a run that is killed, stopped or goes wrong."""
    parser.add_argument("--resume", action="store_true", help="continue the run from its last.pt")
    parser.add_argument(
        "--auto-resume", action="store_true", help="the same if there is one, else start: for jobs that are requeued"
    )
    parser.add_argument(
        "--keep-last", type=positive_int, default=2, metavar="N", help="checkpoints to go on from, last.pt included"
    )
    stop_help = "stop so long after the start, write last.pt and exit with status 75"
    parser.add_argument("--max-minutes", type=_duration, metavar="M", help=stop_help)
    skip_help = "give up after so many steps in a row whose loss is not finite; they are left out until then"
    parser.add_argument("--max-skipped", type=positive_int, default=10, metavar="N", help=skip_help)


def _add_batches(parser: argparse.ArgumentParser) -> None:
    """How long a run is, and what makes up a step."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=positive_int, help="instead of the preset's; landmarks of the schedule scale")
    length.add_argument("--max-steps", type=positive_int, help="stop after so many optimizer steps")
    parser.add_argument("--batch-size", type=positive_int, help="crops per process and batch, instead of the preset's")
    parser.add_argument("--accumulate", type=positive_int, default=1, metavar="N", help="batches that make up one step")
    parser.add_argument(
        "--local-norms",
        action="store_true",
        help="each process normalizes its own crops instead of all ranks' together",
    )


def _duration(text: str) -> float:
    minutes = float(text)
    if not minutes >= 0:  # NaN is not
        raise argparse.ArgumentTypeError(f"expected minutes, at least 0, got {text!r}")
    return minutes


def _fold(text: str) -> str:
    Shard.parse(text, min_count=2)
    return text


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the trainer needs besides the stage."""

    options: TrainingOptions
    splits: dict[str, Any]
    """Case ids of train, val and test, for the record."""
    compute: Compute
    ranks: DistributedContext


def is_resuming(options: TrainingOptions) -> bool:
    """Whether the run continues one: it must, or it may (a scheduler's or torchrun's restart) and there is one.

    Raises:
        UserError: it must, and there is none.
    """
    exists = CheckpointRotation(options.run, options.keep_last).exists()
    if options.resume and not exists:
        raise UserError(f"{options.run}: nothing to resume, there is no last.pt; start without --resume")
    return options.resume or (exists and (options.auto_resume or was_restarted()))


def start_or_resume_run(options: TrainingOptions, splits: dict[str, Any]) -> TrainingRun:
    """Check the run folder, choose the device and seed the weights; nothing is written yet.

    Returns:
        The run; `resume` of its options says whether it continues one.

    Raises:
        UserError: the folder already holds a run and `--resume` is not given, or the other way round.
    """
    options = replace(options, resume=is_resuming(options))
    if not options.resume and CheckpointRotation(options.run, options.keep_last).exists():
        raise UserError(f"{options.run}: already holds a run; continue it with --resume or choose another --run folder")
    ranks = distributed_context()
    torch.manual_seed(options.seed)
    compute = choose_compute(options.device, options.precision, ranks.local_rank)
    if options.deterministic:
        make_deterministic(compute.device)
    return TrainingRun(options=options, splits=splits, compute=compute, ranks=ranks)

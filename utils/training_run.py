"""One run of a training script: its options, device, ranks and folder."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from utils.checkpoint_history import CheckpointHistory
from utils.compute import Compute, choose_compute
from utils.determinism import make_deterministic
from utils.distributed import Ranks, find_ranks
from utils.preemption import was_restarted
from utils.training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the trainer needs besides the stage."""

    options: TrainingOptions
    splits: dict[str, Any]
    """Case ids of train, val and test, for the record."""
    compute: Compute
    ranks: Ranks


def goes_on(options: TrainingOptions) -> bool:
    """Whether the run continues one: it must, or it may (a scheduler's or torchrun's restart) and there is one.

    Raises:
        ValueError: it must, and there is none.
    """
    exists = CheckpointHistory(options.run, options.keep_last).exists()
    if options.resume and not exists:
        raise ValueError(f"{options.run}: nothing to resume, there is no last.pt; start without --resume")
    return options.resume or (exists and (options.auto_resume or was_restarted()))


def open_run(options: TrainingOptions, splits: dict[str, Any]) -> TrainingRun:
    """Check the run folder, choose the device and seed the weights; nothing is written yet.

    Returns:
        The run; `resume` of its options says whether it continues one.

    Raises:
        ValueError: the folder already holds a run and `--resume` is not given, or the other way round.
    """
    options = replace(options, resume=goes_on(options))
    if not options.resume and CheckpointHistory(options.run, options.keep_last).exists():
        raise ValueError(
            f"{options.run}: already holds a run; continue it with --resume or choose another --run folder"
        )
    ranks = find_ranks()
    torch.manual_seed(options.seed)
    compute = choose_compute(options.device, options.precision, ranks.local_rank)
    if options.deterministic:
        make_deterministic(compute.device)
    return TrainingRun(options=options, splits=splits, compute=compute, ranks=ranks)

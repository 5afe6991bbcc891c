"""One run of a training script: its options, device, ranks and folder."""

from dataclasses import dataclass
from typing import Any

import torch

from utils.compute import Compute, choose_compute
from utils.distributed import Ranks, find_ranks
from utils.training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What the trainer needs besides the stage."""

    options: TrainingOptions
    splits: dict[str, Any]
    """Case ids of train, val and test, for the record."""
    compute: Compute
    ranks: Ranks


def open_run(options: TrainingOptions, splits: dict[str, Any]) -> TrainingRun:
    """Check the run folder, choose the device and seed the weights; nothing is written yet.

    Raises:
        ValueError: the folder already holds a run and `--resume` is not given, or the other way round.
    """
    last = options.run / "last.pt"
    if options.resume and not last.is_file():
        raise ValueError(f"{options.run}: nothing to resume, there is no last.pt; start without --resume")
    if last.is_file() and not options.resume:
        raise ValueError(
            f"{options.run}: already holds a run; continue it with --resume or choose another --run folder"
        )
    ranks = find_ranks()
    torch.manual_seed(options.seed)
    compute = choose_compute(options.device, options.precision, ranks.local_rank)
    return TrainingRun(options=options, splits=splits, compute=compute, ranks=ranks)

"""Train one stage from its command line."""

from collections.abc import Callable
from typing import Any, NamedTuple

from utils.config.preset import Preset
from utils.runtime.command_line import STOPPED
from utils.training.preemption import runs_under_torchrun
from utils.training.run import TrainingRun, parse_training_options, start_or_resume_run
from utils.training.stage import Stage
from utils.training.step_loader import build_step_loader
from utils.training.trainer import Trainer


class TrainingCases(NamedTuple):
    """The data of a run."""

    preset: Preset
    splits: dict[str, list[str]]
    """Case ids of train, val and test, for config.json."""
    train: Any
    """What the stage builds its data set from."""
    val: Any
    """What the stage builds its validation from."""


def run_stage(
    stage_class: type[Stage],
    open_cases: Callable[[TrainingRun], TrainingCases],
    description: str,
    argv: list[str] | None,
) -> int:
    """Train a stage with the options of the command line.

    Args:
        stage_class: built from preset, device and seed.
        open_cases: finds preset, splits and cases of a run.
        description: the script's help text.
        argv: arguments; None takes those of the process.

    Returns:
        The exit status: 0, or `STOPPED` if the run was asked to stop before its end. Under torchrun, which takes every
        other status for a failure and restarts the processes, it is always 0; status.json tells the two apart.

    Raises:
        UserError: options, cases or checkpoints do not fit.
    """
    options = parse_training_options(description, argv, with_autoencoder=stage_class.name == "adversarial")
    run = start_or_resume_run(options)
    cases = open_cases(run)
    stage = stage_class(cases.preset, run.compute, options.seed)
    if not run.is_resuming:
        stage.load_initial_networks(options)
    schedule = getattr(cases.preset, stage.name)
    loader = build_step_loader(stage.build_dataset(cases.train), schedule, run)
    trainer = Trainer(stage, loader, stage.build_validation(cases.val), schedule, run, cases.splits)
    if run.is_resuming:
        trainer.resume()
    is_finished = trainer.fit()
    return 0 if is_finished or runs_under_torchrun() else STOPPED

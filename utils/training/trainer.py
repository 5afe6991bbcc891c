"""The one training loop. A stage says what is trained on which loss; the trainer does everything else."""

import logging
import math
import time
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from utils.config.preset import ScheduleSettings, preset_to_table
from utils.config.toml_dataclass import changed_keys
from utils.errors import UserError
from utils.io.checkpoint import load_networks, save_checkpoint
from utils.io.files import remove_temp_files
from utils.runtime.command_line import STOPPED
from utils.runtime.distributed import process_group
from utils.runtime.memory import TRAINING_LIMIT_MIB, keep_freed_memory
from utils.runtime.sync_batchnorm import convert_sync_batchnorm
from utils.training.checkpoint_rotation import CheckpointRotation
from utils.training.errors import reraise_out_of_memory, reraise_write_failure
from utils.training.loss_meter import LossMeter
from utils.training.optimization import BatchNormSnapshot, NotFiniteError, OptimizerStep, build_optimizer, learning_rate
from utils.training.preemption import StopRequest, StopTraining, any_rank_requested_stop, runs_under_torchrun
from utils.training.run import TrainingRun
from utils.training.run_log import RunLog, write_configuration, write_status
from utils.training.stage import Stage, Validation
from utils.training.step_loader import StepLoader

logger = logging.getLogger(__name__)

NUM_SANITY_VAL_CASES = 2
"""Validated before the first step, so that a broken validation fails in minute one."""


class Trainer:
    """Trains a stage: epochs, validation, checkpoints, logs.

    Args:
        stage: what to train.
        feed: training samples of this rank.
        schedule: of the stage.
        run: options, device, ranks.
    """

    def __init__(self, stage: Stage, feed: StepLoader, schedule: ScheduleSettings, run: TrainingRun) -> None:
        options, compute, ranks = run.options, run.compute, run.ranks
        self.stage, self.feed, self.schedule, self.run = stage, feed, schedule, run
        self.folder, self.compute, self.ranks = options.run, compute, ranks
        self.total_steps = options.max_steps or (options.epochs or schedule.epochs) * feed.steps_per_epoch
        self.uses_sync_batchnorm = ranks.world_size > 1 and not options.local_norms
        for name, part in stage.parts.items():
            compute.place(part).requires_grad_(name in stage.trained)
            if self.uses_sync_batchnorm and name in stage.trained:
                convert_sync_batchnorm(part, compute.device.type)
        optimizers = {name: build_optimizer(stage.parts[name].parameters(), schedule) for name in stage.trained}
        self.update = OptimizerStep(optimizers, compute, ranks)
        self.guard = BatchNormSnapshot([stage.parts[name] for name in stage.trained])
        self.stop = StopRequest(options.max_minutes)
        self.epoch = 0
        self.step = 0
        self.tally = LossMeter()
        self.best_score = -math.inf
        self.history = CheckpointRotation(self.folder, options.keep_last)
        if options.resume:
            self._load()
        self.first_step = self.step  # each process makes a step or validates, however little time it has

    def fit(self) -> int:
        """Train until the run's last step, validating and saving on the way.

        Returns:
            The exit status: 0, or `STOPPED` if the run was asked to stop before its end. Torchrun, which would call
            that a failure and start the processes again, gets 0; status.json tells the two apart.
        """
        keep_freed_memory(limit_mib=TRAINING_LIMIT_MIB)
        stopped = False
        memory = reraise_out_of_memory(self.stage.name, self.feed.batch_size, self.stage.preset.grid.crop_size_vox)
        with process_group(self.ranks, self.compute.device.type), self.stop, memory:
            for name, part in self.stage.parts.items():
                trained = name in self.stage.trained
                live = self.ranks.wrap(part, broadcast_buffers=not self.uses_sync_batchnorm) if trained else part
                self.stage.live[name] = torch.compile(live) if self.run.options.compile else live
            try:
                self._fit()
            except StopTraining:
                stopped = True
                self._write_status("stopped")
        return STOPPED if stopped and not runs_under_torchrun() else 0

    def _fit(self) -> None:
        self._require_same_step()
        if self.ranks.is_rank_zero:
            remove_temp_files(self.folder)
            self._write_configuration()
            self._write_status("running")
        log = RunLog(self.folder, self.epoch) if self.ranks.is_rank_zero else None
        if not self._is_done():
            with self.stop.at_once():
                self._validate(NUM_SANITY_VAL_CASES)
        progress = tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            desc=self.stage.name,
            disable=None if self.ranks.is_rank_zero else True,  # None: shown where a person watches
        )
        with ExitStack() as stack:
            stack.callback(progress.close)
            if log is not None:
                stack.callback(log.close)
            while not self._is_done():
                self._train_epoch(progress)
                self._end_epoch(log)
        self._write_status("finished")

    def _is_done(self) -> bool:
        """Whether all steps were made and the epoch of the last one is closed."""
        return self.step >= self.total_steps and self.tally.num_steps == 0

    def _train_epoch(self, progress: tqdm) -> None:
        """Make the steps that the epoch still lacks."""
        self.started = time.perf_counter()
        for name, part in self.stage.live.items():
            part.train(name in self.stage.trained)
        for samples in self.feed.steps(self.epoch, self.tally.num_steps) if self.step < self.total_steps else ():
            self.update.set_learning_rate(learning_rate(self.schedule, self.step, self.total_steps))
            losses = self._make_step(samples)
            self.step += 1
            progress.update()
            if losses is not None:
                progress.set_postfix(epoch=self.epoch, loss=f"{float(losses['loss']):.4f}", refresh=False)
            if self.step == self.total_steps:
                break
            if any_rank_requested_stop(self.stop, self.ranks, self.compute.device):
                self._save_and_stop()

    def _make_step(self, samples: list[Any]) -> dict[str, torch.Tensor] | None:
        """One step of the optimizers from the batches that make it up: mean losses, or None if they are not finite."""
        self.guard.keep()
        sums: dict[str, torch.Tensor] = {}
        try:
            for i, sample in enumerate(samples):
                self.update.begin(i, len(samples))
                batch = self.stage.prepare(_to_device(sample, self.compute.device))
                with self._no_gradient_sync(unless=self.update.is_last_batch):
                    losses = self.stage.optimize(batch, self.update)
                for name, value in losses.items():
                    sums[name] = sums.get(name, 0) + value.detach() / len(samples)
        except NotFiniteError as error:
            self._discard_step(error, samples)
            return None
        self.update.end()
        self.tally.add(sums)
        return sums

    def _discard_step(self, error: NotFiniteError, samples: list[Any]) -> None:
        """Leave out a step whose loss is not finite, undoing what it changed, or give up.

        Raises:
            UserError: too many in a row.
        """
        self.update.drop()
        self.guard.restore()
        self.tally.skip()
        cases = ", ".join(dict.fromkeys(case_id for sample in samples for case_id in sample.case_id))
        if error.ours:
            logger.warning("step %d: %s and is left out; its cases are %s", self.step, error, cases)
        limit = self.run.options.max_skipped
        if self.tally.skipped_in_a_row >= limit:
            raise UserError(
                f"step {self.step}: {error}, and so it was in {limit} steps in a row (--max-skipped), last with cases "
                f"{cases}; the last checkpoint is good. Lower the learning rate (--set "
                f"{self.stage.name}.learning_rate=...), or use --precision fp32, and --resume"
            )

    def _no_gradient_sync(self, *, unless: bool) -> ExitStack:
        """A context in which ranks do not exchange gradients yet, because more are to be added."""
        stack = ExitStack()
        for part in () if unless else self.stage.live.values():
            inner = getattr(part, "_orig_mod", part)  # torch.compile's wrapper
            if isinstance(inner, DistributedDataParallel):
                stack.enter_context(inner.no_sync())
        return stack

    def _end_epoch(self, log: RunLog | None) -> None:
        """Validate if it is time, record and save."""
        self.tally.share(self.ranks)
        last = self.step == self.total_steps
        rate = learning_rate(self.schedule, self.step - 1, self.total_steps)
        values = {"step": self.step, "learning_rate": rate, **self.tally.means()}
        validation = None
        if last or (self.epoch + 1) % self.schedule.validate_every == 0:
            self._save_last()  # a validation may be long, and is repeated if it is cut short
            if self.step > self.first_step and any_rank_requested_stop(self.stop, self.ranks, self.compute.device):
                raise StopTraining
            with self.stop.at_once():
                validation = self._validate(self.schedule.validation_cases)
            values.update(score=validation.score, **validation.metrics)
        if log is not None:
            self._record(log, values, validation)
        if validation is not None and validation.score > self.best_score:
            self.best_score = validation.score
            self._save_best()
        self.epoch += 1
        self.tally = LossMeter(skipped_in_a_row=self.tally.skipped_in_a_row)
        self._save_last()
        self.ranks.barrier()
        if not last and any_rank_requested_stop(self.stop, self.ranks, self.compute.device):
            raise StopTraining

    def _validate(self, num_cases: int) -> Validation:
        """Validate the same networks on all ranks."""
        for part in self.stage.parts.values():
            part.eval()
        if not self.uses_sync_batchnorm:
            self.ranks.broadcast_from_rank0([buffer for part in self.stage.parts.values() for buffer in part.buffers()])
        with torch.no_grad():
            return self.stage.validate(num_cases)

    def _record(self, log: RunLog, values: dict[str, float], validation: Validation | None) -> None:
        log.add_epoch(self.epoch, values, time.perf_counter() - self.started)
        if validation is not None:
            log.add_picture(self.epoch, validation.picture)
            metrics = {"loss": values.get("loss", math.nan), **validation.metrics}
            shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
            logger.info("epoch %d  step %d  %s", self.epoch + 1, self.step, shown)

    def _save_and_stop(self) -> None:
        """Save in the middle of an epoch.

        Raises:
            StopTraining: always.
        """
        self.tally.share(self.ranks)
        self._save_last()
        self.ranks.barrier()
        raise StopTraining

    def _write_configuration(self) -> None:
        stage, run = self.stage, self.run
        options = vars(run.options)
        write_configuration(self.folder, stage=stage.name, preset=stage.preset, options=options, splits=run.splits)
        ranks, options = self.ranks.world_size, run.options
        logger.info(
            "%s: samples per step: %d (batch size %d x %d ranks x %d accumulated), learning rate %g, norms over %s",
            stage.name,
            self.feed.batch_size * ranks * options.accumulate,
            self.feed.batch_size,
            ranks,
            options.accumulate,
            self.schedule.learning_rate,
            "the batches of all ranks" if self.uses_sync_batchnorm else "each batch",
        )

    def _write_status(self, state: str) -> None:
        if self.ranks.is_rank_zero:
            reason = self.stop.reason or ""
            write_status(self.folder, state, step=self.step, total_steps=self.total_steps, reason=reason)

    def _save_last(self) -> None:
        if self.ranks.is_rank_zero:
            stage, state = self.stage, self._state()
            self.history.write(
                lambda path: save_checkpoint(
                    path, stage=stage.name, preset=stage.preset, networks=stage.parts, state=state
                )
            )

    def _save_best(self) -> None:
        if self.ranks.is_rank_zero:
            path, stage = self.folder / "best.pt", self.stage
            with reraise_write_failure(path):
                save_checkpoint(path, stage=stage.name, preset=stage.preset, networks=stage.parts, state={})

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "tally": self.tally.state(),
            "best_score": self.best_score,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.update.optimizers.items()},
            "scaler": self.update.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }

    def _load(self) -> None:
        path, content = self.history.read()
        state = content["state"]
        if content["stage"] != self.stage.name or not state:
            raise UserError(
                f"{path}: expected the last.pt of stage {self.stage.name!r}, got one of {content['stage']!r}; "
                "--resume continues the same script in the same --run folder"
            )
        load_networks(self.stage.parts, content, self.stage.parts, path)
        changed = changed_keys(content["preset"], preset_to_table(self.stage.preset))
        if changed:
            logger.warning("%s: the run goes on with other values than it had of %s", path, ", ".join(changed))
        for name, optimizer in self.update.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        if state["scaler"]:  # empty unless the run was in fp16
            self.update.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.epoch, self.step, self.best_score = state["epoch"], state["step"], state["best_score"]
        self.tally = LossMeter.from_state(state["tally"], self.compute.device)

    def _require_same_step(self) -> None:
        """Refuse ranks that found different checkpoints: their run folder is not shared."""
        device = self.compute.device
        mean = self.ranks.all_reduce_mean({"step": torch.tensor(float(self.step), device=device)})["step"]
        if self.ranks.any(float(mean) != self.step, device):
            raise UserError(
                f"{self.folder}: ranks found checkpoints of different steps (this one {self.step}); the run folder "
                "must be the same for all machines"
            )


def _to_device(sample: tuple, device: torch.device) -> Any:
    moved = (item.to(device, non_blocking=True) if torch.is_tensor(item) else item for item in sample)
    return type(sample)(*moved)

"""Trains a stage: epochs, validation, checkpoints and logs. train_step.py makes the steps."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from utils.config.preset import preset_to_table
from utils.config.toml_dataclass import changed_keys
from utils.errors import UserError, is_out_of_memory
from utils.io.checkpoint import checkpoint_preset, load_networks, save_checkpoint
from utils.io.files import remove_all_partials, write_json
from utils.runtime.command_line import STOPPED
from utils.runtime.console import Progress
from utils.runtime.distributed import is_under_torchrun, process_group
from utils.runtime.memory import TRAINING_LIMIT_MIB, keep_freed_memory
from utils.runtime.sync_batchnorm import convert_sync_batchnorm
from utils.training.checkpoint_rotation import reraise_write_failure
from utils.training.loss_meter import LossMeter
from utils.training.optimization import Optimizers, learning_rate
from utils.training.preemption import StopRequest, StopTraining
from utils.training.run import TrainingRun, parse_training_options
from utils.training.run_log import RunLog, write_configuration
from utils.training.stage import Stage, TrainingCases, Validation
from utils.training.step_loader import StepLoader
from utils.training.step_record import StepRecord, StepRecords
from utils.training.train_step import train_step
from utils.training.weight_average import WeightAverage

logger = logging.getLogger(__name__)

NUM_SANITY_VAL_CASES = 2
"""Validated before the first step, so that a broken validation fails in minute one."""
MAX_NONFINITE_STEPS = 10
"""Discarded steps in a row after which a run gives up, as soon as it reads them."""


def run_stage(
    stage_class: type[Stage], open_cases: Callable[[TrainingRun], TrainingCases], help_text: str, argv: list[str] | None
) -> int:
    """Train a stage with the options of the command line.

    Returns:
        The exit status: 0, or `STOPPED` if the run was asked to stop before its end. Under torchrun, which takes every
        status but 0 for a failure and restarts the processes, it is always 0; status.json tells the two apart.

    Raises:
        UserError: options, cases or checkpoints do not fit.
    """
    options = parse_training_options(help_text, argv, with_autoencoder=stage_class.name == "adversarial")
    run = TrainingRun(options)
    cases = open_cases(run)
    stage = stage_class(cases.preset, run.compute, options.seed)
    if not run.is_resuming:
        stage.load_initial_networks(options)
    trainer = Trainer(stage, cases, run)
    if run.is_resuming:
        trainer.resume()
    return 0 if trainer.fit() or is_under_torchrun() else STOPPED


class Trainer:
    """Trains a stage.

    Raises:
        UserError: the cases do not suffice.
    """

    def __init__(self, stage: Stage, cases: TrainingCases, run: TrainingRun) -> None:
        self.stage, self.run, self.ranks, self.cases = stage, run, run.ranks, cases
        self.schedule, self.run_dir, self.device = stage.schedule, run.options.run_dir, run.compute.device
        self.loader = StepLoader(
            dataset=stage.build_dataset(cases.train),
            batch_size=run.options.batch_size or self.schedule.batch_size,
            steps_per_epoch=self.schedule.steps_per_epoch,
            batches_per_step=run.options.grad_accumulation_steps,
            ranks=run.ranks,
            num_workers=run.options.workers,
            pin_memory=self.device.type == "cuda",
        )
        self.validate = stage.build_validation(cases.val)
        num_epochs = run.options.epochs or self.schedule.epochs
        self.total_steps = run.options.max_steps or num_epochs * self.schedule.steps_per_epoch
        self.uses_sync_batchnorm = run.ranks.world_size > 1 and not run.options.no_sync_batchnorm
        for name, network in stage.networks.items():
            network.requires_grad_(name in stage.trained)
            if self.uses_sync_batchnorm and name in stage.trained:
                convert_sync_batchnorm(network, self.device.type)
        trained = {name: stage.networks[name] for name in stage.trained}
        self.optimizers = Optimizers(trained, self.schedule, run.compute)
        self.weight_average = WeightAverage(trained, self.schedule.ema_decay)
        self.stop = StopRequest(run.options.max_minutes)
        self.epoch, self.step, self.best_score = 0, 0, -math.inf
        self.meter = LossMeter()
        self.records = StepRecords(self.device)
        self.newest: StepRecord | None = None
        """Of the records that were read."""

    def resume(self) -> None:
        """Load the last checkpoint and set the random states of torch; log which values of the preset have changed.

        Raises:
            UserError: the checkpoint is damaged, of another stage or of other networks.
        """
        path, content = self.run.checkpoints.read()
        state, stage = content["state"], self.stage
        if content["stage"] != stage.name or not state:
            raise UserError(
                f"{path}: expected the last.pt of stage {stage.name!r}, got one of {content['stage']!r}; "
                "run the script that started this run, or choose another --run-dir"
            )
        before = preset_to_table(checkpoint_preset(content, path))
        if changed := changed_keys(before, preset_to_table(stage.preset)):
            logger.warning("%s: the run continues with changed values of %s", path, ", ".join(changed))
        load_networks(stage.networks, content, path)
        self.optimizers.load_state_dict(state)
        self.weight_average.load_state_dict(state.get("weight_average", {}))  # earlier releases did not average
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
        self.epoch, self.step, self.best_score = state["epoch"], state["step"], state["best_score"]
        meter = state["loss_meter"] if "loss_meter" in state else state["tally"]  # as earlier releases called it
        self.meter = LossMeter.from_state_dict(meter, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything besides the networks that a resumed run needs."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "loss_meter": self.meter.state_dict(),
            "best_score": self.best_score,
            **self.optimizers.state_dict(),
            "weight_average": self.weight_average.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }

    def fit(self) -> bool:
        """Train until the run's last step; validate and save on the way.

        Returns:
            Whether the run is finished; False if it was asked to stop and saved its state.

        Raises:
            UserError: too many steps in a row are not finite, memory does not suffice, or data cannot be read.
        """
        keep_freed_memory(limit_mib=TRAINING_LIMIT_MIB)
        self.first_step = self.step  # each process makes a step or validates, however little time it has
        with process_group(self.ranks, self.device.type), self.stop, self._explained_out_of_memory():
            self._wrap_networks()
            self._require_same_step()
            self._start_run_folder()
            try:
                self._run_epochs()
            except StopTraining:
                self._write_status("stopped")
                return False
            self._write_status("finished")
            return True

    def _run_epochs(self) -> None:
        is_writer = self.ranks.is_rank_zero
        if not self._is_finished():
            with self.stop.immediate():
                self._validate(NUM_SANITY_VAL_CASES)
        progress = Progress(self.total_steps, "step", self.stage.name, done=self.step, is_shown=is_writer)
        with progress, closing(RunLog(self.run_dir, self.epoch)) if is_writer else nullcontext() as log:
            while not self._is_finished():
                self._train_epoch(progress)
                self._end_epoch(log)

    def _stop_requested(self) -> bool:
        """Whether any rank was requested to stop; the same answer on all ranks."""
        return self.ranks.any(self.stop.requested(), self.device)

    def _is_finished(self) -> bool:
        """Whether all steps are made and the epoch of the last one has ended."""
        return self.step >= self.total_steps and self.meter.num_steps == 0

    def _train_epoch(self, progress: Progress) -> None:
        """Make the remaining steps of the epoch; if a rank is asked to stop, save and raise StopTraining."""
        self.started = time.perf_counter()
        for name, network in self.stage.wrapped.items():
            network.train(name in self.stage.trained)
        steps = self.loader.steps(self.epoch, self.meter.num_steps) if self.step < self.total_steps else ()
        for microbatches in steps:
            self._make_step(microbatches)
            self.step += 1
            is_reading_due = self.records.is_reading_due(self.step)
            if is_reading_due:
                self._read_steps()
            progress.update(self._describe_progress)
            if self.step == self.total_steps:
                break
            if (is_reading_due or self.ranks.world_size == 1) and self._stop_requested():
                self._read_steps()
                self.meter.all_reduce_mean(self.ranks)
                self._save_last()
                self.ranks.barrier()
                raise StopTraining

    def _describe_progress(self) -> str:
        if self.newest is None:
            return f"epoch {self.epoch + 1}"
        loss = "discarded" if self.newest.is_discarded else f"{self.newest.loss:.4f}"
        return f"epoch {self.epoch + 1}, loss {loss}"

    def _make_step(self, microbatches: list[Any]) -> None:
        """Make one step of the optimizers; what came of it stays on the device."""
        rate = learning_rate(self.schedule, self.step, self.total_steps)
        result = train_step(self.stage, microbatches, self.optimizers, rate)
        self.weight_average.update(result.is_made)
        self.meter.add(result.losses, result.is_discarded)
        cases = dict.fromkeys(case_id for samples in microbatches for case_id in samples.case_id)
        self.records.add(self.step, list(cases), result)

    def _read_steps(self) -> None:
        """Wait for the device; log discarded steps with their cases, and give up after too many in a row."""
        for record in self.records.read():
            self.newest = record
            self.meter.note(record.is_discarded)
            if not record.is_discarded:
                continue
            where, cases = f"step {record.step}: {record.reason}", ", ".join(record.case_ids)
            if record.on_this_rank:
                logger.warning("%s; the step is discarded. Its cases are %s", where, cases)
            if self.meter.num_discarded_in_a_row >= MAX_NONFINITE_STEPS:
                raise UserError(
                    f"{where}; {MAX_NONFINITE_STEPS} steps in a row were not finite. The cases of this one are "
                    f"{cases}; the last checkpoint is good. Lower the learning rate "
                    f"(--set {self.stage.name}.learning_rate=...) or use --precision fp32, then run the command "
                    "again with --resume"
                )

    def _end_epoch(self, log: RunLog | None) -> None:
        """Validate if it is time, record and save; if a rank is asked to stop, raise StopTraining."""
        self._read_steps()
        self.meter.all_reduce_mean(self.ranks)
        is_last = self.step == self.total_steps
        rate = learning_rate(self.schedule, self.step - 1, self.total_steps)
        values = {"step": self.step, "learning_rate": rate, **self.meter.means()}
        validation = None
        if is_last or (self.epoch + 1) % self.schedule.validate_every == 0:
            self._save_last()  # a validation may be long, and is repeated if it is interrupted
            if self.step > self.first_step and self._stop_requested():
                raise StopTraining
            with self.stop.immediate():
                validation = self._validate(self.schedule.validation_cases)
            values.update(score=validation.score, **validation.metrics)
        if log is not None:
            self._record(log, values, validation)
        if validation is not None and validation.score > self.best_score:
            self.best_score = validation.score
            self._save_best()
        self.epoch += 1
        self.meter = LossMeter(num_discarded_in_a_row=self.meter.num_discarded_in_a_row)
        self._save_last()
        self.ranks.barrier()
        if not is_last and self._stop_requested():
            raise StopTraining

    def _validate(self, num_cases: int) -> Validation:
        """Validate the averaged weights, the same ones on all ranks."""
        networks = self.stage.networks.values()
        for network in networks:
            network.eval()
        with torch.no_grad(), self.weight_average.applied():
            if not self.uses_sync_batchnorm:
                self.ranks.broadcast_from_rank0([buffer for network in networks for buffer in network.buffers()])
            return self.validate(num_cases)

    def _record(self, log: RunLog, values: dict[str, float], validation: Validation | None) -> None:
        log.add_epoch(self.epoch, values, time.perf_counter() - self.started)
        if validation is not None:
            if validation.picture is not None:  # rank 0 may have found all its cases unreadable
                log.add_picture(self.epoch, validation.picture)
            metrics = {"loss": values.get("loss", math.nan), **validation.metrics}
            text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
            logger.info("epoch %d  step %d  %s", self.epoch + 1, self.step, text)

    def _save_last(self) -> None:
        if self.ranks.is_rank_zero:
            self.run.checkpoints.write(lambda path: self._save(path, self.state_dict()))

    def _save_best(self) -> None:
        path = self.run_dir / "best.pt"
        if self.ranks.is_rank_zero:
            with reraise_write_failure(path), self.weight_average.applied():
                self._save(path)

    def _save(self, path: Path, state: dict[str, Any] | None = None) -> None:
        content = {"stage": self.stage.name, "preset": self.stage.preset, "networks": self.stage.networks}
        save_checkpoint(path, **content, arrangement=self.cases.arrangement, state=state)

    def _wrap_networks(self) -> None:
        """Wrap the networks for training on several ranks, and compile them if asked."""
        for name, network in self.stage.networks.items():
            if name in self.stage.trained:
                network = self.ranks.wrap(network, broadcast_buffers=not self.uses_sync_batchnorm)
            self.stage.wrapped[name] = torch.compile(network) if self.run.options.compile else network

    def _require_same_step(self) -> None:
        """Refuse ranks that found different checkpoints: their run folder is not shared."""
        mean = self.ranks.all_reduce_mean({"step": torch.tensor(float(self.step), device=self.device)})["step"]
        if self.ranks.any(float(mean) != self.step, self.device):
            raise UserError(
                f"{self.run_dir}: ranks found checkpoints of different steps (this one {self.step}); the run folder "
                "must be the same for all machines"
            )

    def _start_run_folder(self) -> None:
        if not self.ranks.is_rank_zero:
            return
        stage, options = self.stage, self.run.options
        remove_all_partials(self.run_dir)
        write_configuration(
            self.run_dir, stage=stage.name, preset=stage.preset, options=vars(options), compute=self.run.compute,
            splits=self.cases.splits, is_resumed=self.run.is_resuming,
        )  # fmt: skip
        self._write_status("running")
        sizes = self.loader.batch_size, self.ranks.world_size, self.loader.batches_per_step
        logger.info(
            "%s: crops per step: %d (batch size %d x %d ranks x %d accumulation steps), learning rate %g, batch norm "
            "over %s", stage.name, math.prod(sizes), *sizes, self.schedule.learning_rate,
            "the batches of all ranks" if self.uses_sync_batchnorm else "each rank's batch",
        )  # fmt: skip

    def _write_status(self, state: str) -> None:
        """Write status.json: "running", which a killed run keeps, "stopped" on request with all saved, "finished"."""
        if self.ranks.is_rank_zero:
            progress = {"step": self.step, "total_steps": self.total_steps, "reason": self.stop.reason or ""}
            write_json(self.run_dir / "status.json", {"state": state, **progress})

    @contextmanager
    def _explained_out_of_memory(self) -> Iterator[None]:
        """Turn running out of memory into a UserError that names the settings which reduce it."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            crop_size, batch_size = self.stage.preset.grid.crop_size_vox, self.loader.batch_size
            smaller = f"--batch-size {max(1, batch_size // 2)} --grad-accumulation-steps 2 (the same crops per step), "
            raise UserError(
                f"{self.stage.name}: out of memory with {batch_size} crops of {'x'.join(map(str, crop_size))} voxels. "
                f"Use {smaller if batch_size > 1 else ''}--precision bf16, a smaller crop "
                "(--set grid.crop_size_vox=[z,y,x]) or narrower networks (--set networks.width=...). Run the command "
                "again with --resume; after a change of networks.width start a new run"
            ) from error

"""utils/training/run.py: the command line of training, and the run folder."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from utils.errors import UserError
from utils.io.files import write_json
from utils.training import run
from utils.training.run import TrainingOptions, TrainingRun, parse_training_options
from utils.training.run_log import RUN_FILES

REQUIRED = ["--cases", "cases", "--run-dir", "run"]


def parse(*arguments, with_autoencoder=False):
    return parse_training_options("Train.", [*REQUIRED, *arguments], with_autoencoder=with_autoencoder)


def test_defaults_are_those_of_the_dataclass():
    assert asdict(parse()) == asdict(TrainingOptions(cases=Path("cases"), run_dir=Path("run")))


def test_options_may_be_repeated():
    options = parse("--init-from", "a.pt", "--init-from", "b.pt", "--set", "a.b=1", "--set", "c.d=2", "--resume")
    assert options.init_from == [Path("a.pt"), Path("b.pt")]
    assert options.set == ["a.b=1", "c.d=2"]
    assert options.resume == "required"
    assert parse("--resume", "auto").resume == "auto"


def test_a_preset_beside_another_runs_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse("--config-from", "runs/other", "--preset", "pddca")
    assert "leave out --preset, or change values with --set" in capsys.readouterr().err


def test_only_the_adversarial_stage_takes_an_autoencoder():
    assert parse("--autoencoder", "a.pt", with_autoencoder=True).autoencoder == Path("a.pt")
    with pytest.raises(SystemExit):
        parse("--autoencoder", "a.pt", with_autoencoder=False)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--epochs", "0"],
        ["--max-steps", "-1"],
        ["--batch-size", "1.5"],
        ["--seed", "-1"],
        ["--workers", "-1"],
        ["--workers", "²"],
        ["--precision", "fp8"],
        ["--epochs", "2", "--max-steps", "3"],
        ["--grad-accumulation-steps", "0"],
        ["--resume", "perhaps"],
        ["--max-minutes", "soon"],
        ["--max-minutes", "-1"],
        ["--max-minutes", "nan"],
        ["--cross-validation", "0/5"],
        ["--cross-validation", "6/5"],
        ["--cross-validation", "1/1"],
        ["--cross-validation", "3"],
    ],
)
def test_impossible_values_are_refused_with_status_2(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*wrong)
    assert caught.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_run_folder_is_neither_overwritten_nor_made_up(tmp_path):
    fresh = TrainingOptions(cases=tmp_path, run_dir=tmp_path / "run", device="cpu", precision="fp32", seed=5)
    run = TrainingRun(fresh)
    assert torch.initial_seed() == 5
    assert (run.ranks.world_size, run.compute.precision, run.is_resuming) == (1, "fp32", False)
    assert not fresh.run_dir.exists()

    resumed = TrainingOptions(**asdict(fresh) | {"resume": "required"})
    with pytest.raises(ValueError, match="run: has no last.pt to resume from; run the command without --resume"):
        TrainingRun(resumed)
    fresh.run_dir.mkdir()
    (fresh.run_dir / "last.pt").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="run: already holds a run; run the same command with --resume"):
        TrainingRun(fresh)
    assert TrainingRun(resumed).is_resuming


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_folder_with_files_of_others_is_no_run_folder(name, tmp_path):
    options = TrainingOptions(cases=tmp_path, run_dir=tmp_path, device="cpu", precision="fp32")
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"{name}: not written by this command"):
        TrainingRun(options)
    (tmp_path / "config.json").write_text('{"options": {}, "splits": {}, "preset": {}}', encoding="utf-8")
    assert not TrainingRun(options).is_resuming  # of a run that was killed before its first checkpoint


def test_a_run_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("", encoding="utf-8")
    options = TrainingOptions(cases=tmp_path, run_dir=tmp_path / "run", device="cpu", precision="fp32")
    with pytest.raises(UserError, match="run: expected a folder, but a file is in its place"):
        TrainingRun(options)


def test_compiled_bf16_training_on_a_cpu_is_refused(tmp_path, monkeypatch):
    options = {"cases": Path("cases"), "run_dir": tmp_path, "device": "cpu", "compile": True}
    with pytest.raises(UserError, match=r"--compile: .* wrong .*; add --precision fp32 or leave out --compile"):
        TrainingRun(TrainingOptions(**options, precision="bf16"))
    assert TrainingRun(TrainingOptions(**options, precision="fp32")).compute.precision == "fp32"
    monkeypatch.setattr(run, "best_float_precision", lambda device: "bf16")
    assert TrainingRun(TrainingOptions(**options)).compute.precision == "fp32"


def test_a_resumed_run_keeps_the_precision_that_was_measured_for_it(tmp_path, monkeypatch):
    options = TrainingOptions(cases=tmp_path, run_dir=tmp_path / "run", device="cpu")
    resumed = replace(options, resume="required")

    def precision_of(options, *, measured, has_bf16=True):
        monkeypatch.setattr(run, "best_float_precision", lambda device: measured)
        monkeypatch.setattr(run, "computes_bf16", lambda: has_bf16)
        return TrainingRun(options).compute.precision

    assert precision_of(options, measured="bf16") == "bf16"
    options.run_dir.mkdir()
    (options.run_dir / "last.pt").touch()
    record = {"options": {}, "splits": {}, "preset": {}}
    write_json(options.run_dir / "config.json", record)  # of an earlier release
    assert precision_of(resumed, measured="fp32") == "fp32"
    write_json(options.run_dir / "config.json", record | {"compute": {"device": "cpu", "precision": "bf16"}})
    assert precision_of(resumed, measured="fp32") == "bf16"
    assert precision_of(replace(resumed, precision="fp32"), measured="bf16") == "fp32"
    assert precision_of(resumed, measured="fp32", has_bf16=False) == "fp32"  # on an older CPU
    write_json(options.run_dir / "config.json", record | {"compute": {"device": "cuda", "precision": "bf16"}})
    assert precision_of(resumed, measured="fp32") == "fp32"


@pytest.mark.parametrize("text", ["x", "nan", "-1"])
def test_a_duration_is_a_number_of_minutes(text, capsys):
    with pytest.raises(SystemExit):
        parse_training_options("", ["--cases", "c", "--run-dir", "r", "--max-minutes", text])
    assert f"--max-minutes: expected minutes, at least 0, got '{text}'" in capsys.readouterr().err

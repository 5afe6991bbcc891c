"""The five training scripts on tiny cases: what they write, what they leave alone, and how they refuse."""

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import adv_train
import train_autoencoder
import train_backbone
import train_backbone_heatmap
import train_SOL
from benchmarks import tasks
from data_preprocess import prepare
from models.focusnet import build_network
from models.pretrained import WEIGHTS_FOLDER
from utils.config.preset import CONFIG_FOLDER, load_preset
from utils.io.checkpoint import read_checkpoint, save_checkpoint
from utils.io.files import write_json
from utils.runtime.command_line import run_main
from utils.training.trainer import Trainer

pytestmark = pytest.mark.slow  # they train every stage first; test_training_faults.py has fast tests of one stage

SCRIPTS = {
    "backbone": train_backbone,
    "sol": train_SOL,
    "backbone_heatmap": train_backbone_heatmap,
    "autoencoder": train_autoencoder,
    "adversarial": adv_train,
}
NETWORKS = {
    "backbone": ["s_net"],
    "sol": ["s_net", "sol_net"],
    "backbone_heatmap": ["s_net", "sol_net"],
    "autoencoder": ["autoencoder"],
    "adversarial": ["s_net", "sol_net", "sos_net", "autoencoder"],
}
STARTS_FROM = {
    "sol": ["--init-from", "backbone"],
    "adversarial": ["--init-from", "sol", "--autoencoder", "autoencoder"],
}
STEPS_PER_EPOCH = 2


def arguments_of(stage, cases, runs, **changed):
    """Two epochs of two steps, on the CPU in fp32; `changed` replaces or, where None, removes options."""
    start = STARTS_FROM.get(stage, [])
    options = {
        "--cases": cases,
        "--run-dir": runs / stage,
        "--epochs": 2,
        "--batch-size": 2,
        "--device": "cpu",
        "--precision": "fp32",
        "--workers": 0,
        **{flag: runs / name / "best.pt" for flag, name in zip(start[::2], start[1::2], strict=True)},
        **{f"--{name.replace('_', '-')}": value for name, value in changed.items()},
    }
    given = [str(word) for option in options.items() if option[1] is not None for word in option]
    return [*given, "--set", f"{stage}.steps_per_epoch={STEPS_PER_EPOCH}", "--set", f"{stage}.validate_every=1"]


def train(stage, arguments):
    return run_main(SCRIPTS[stage].main, arguments)


@pytest.fixture(scope="module")
def runs(case_folder, tmp_path_factory):
    """The folder of runs of all stages, each started from the one before."""
    folder = tmp_path_factory.mktemp("runs")
    for stage in SCRIPTS:
        assert train(stage, arguments_of(stage, case_folder, folder)) == 0
    return folder


def rows_of(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same(left, right):
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, list | tuple):
        for pair in zip(left, right, strict=True):
            assert_same(*pair)
    elif torch.is_tensor(left):
        assert torch.equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_run_folder_holds_everything_needed_to_use_and_repeat_the_run(stage, runs, case_folder):
    run = runs / stage
    names = {path.name for path in run.iterdir()}
    checkpoints = {"last.pt", "last.1.pt", "best.pt"}
    tables = {"config.json", "metrics.csv", "timing.csv", "status.json"}
    assert names == {*checkpoints, *tables, "validation.png", "tensorboard"}
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["stage"], config["options"]["epochs"]) == (stage, 2)
    assert config["compute"] == {"device": "cpu", "precision": "fp32"}
    assert config["splits"] == json.loads((case_folder / "splits.json").read_text(encoding="utf-8"))
    assert config["preset"][stage]["steps_per_epoch"] == STEPS_PER_EPOCH

    rows = rows_of(run)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("1", "4")]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert all(row["score"] for row in rows)


@pytest.mark.parametrize("stage", SCRIPTS)
@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_checkpoints_load_safely_and_describe_themselves(stage, name, runs, case_folder):
    content = torch.load(runs / stage / name, weights_only=True)
    assert (content["stage"], list(content["networks"])) == (stage, NETWORKS[stage])
    preset = load_preset("phantom")
    assert list(content["preset"]["organs"]) == list(preset.organ_names)
    dataset = json.loads((case_folder / "dataset.json").read_text(encoding="utf-8"))
    assert content["preset"]["grid"] == dataset["preset"]["grid"]
    assert bool(content["state"]) == (name == "last.pt")


@pytest.mark.parametrize(("stage", "frozen"), [("sol", ["s_net"]), ("adversarial", ["s_net", "sol_net"])])
def test_frozen_networks_do_not_change_by_a_bit(stage, frozen, runs):
    before = read_checkpoint(runs / STARTS_FROM[stage][1] / "best.pt")["networks"]
    after = read_checkpoint(runs / stage / "last.pt")["networks"]
    for name in frozen:
        assert_same(before[name], after[name])


def test_the_autoencoder_learns_on_in_the_adversarial_stage(runs):
    before, after = (
        read_checkpoint(runs / name)["networks"]["autoencoder"]
        for name in ("autoencoder/best.pt", "adversarial/last.pt")
    )
    assert not torch.equal(before["head.weight"], after["head.weight"])


def assert_same_run(left, right):
    for name in ("last.pt", "best.pt"):
        ours, theirs = read_checkpoint(left / name), read_checkpoint(right / name)
        assert_same(ours["networks"], theirs["networks"])
        assert_same(ours["state"], theirs["state"])
    assert rows_of(left) == rows_of(right)


@pytest.mark.parametrize("stage", SCRIPTS)
def test_resumed_is_uninterrupted_bit_for_bit(stage, runs, case_folder, tmp_path, monkeypatch):
    arguments = arguments_of(stage, case_folder, runs, run_dir=tmp_path / stage)
    make_step = Trainer._make_step

    def interrupt(trainer, samples):
        if trainer.step == STEPS_PER_EPOCH + 1:
            raise KeyboardInterrupt
        return make_step(trainer, samples)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_make_step", interrupt)
        assert train(stage, arguments) == 130
    assert read_checkpoint(tmp_path / stage / "last.pt")["state"]["epoch"] == 1
    assert train(stage, [*arguments, "--resume"]) == 0
    assert_same_run(runs / stage, tmp_path / stage)


def test_the_number_of_workers_does_not_change_a_run(runs, case_folder, tmp_path):
    """In the stage that draws random numbers besides augmentation's."""
    assert (
        train("adversarial", arguments_of("adversarial", case_folder, runs, run_dir=tmp_path / "run", workers=1)) == 0
    )
    assert_same_run(runs / "adversarial", tmp_path / "run")


def refused(stage, arguments, capsys):
    """The message of a script that must refuse its arguments with one line and status 2."""
    capsys.readouterr()
    assert train(stage, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1, error
    return error


@pytest.fixture
def own_cases(case_folder, tmp_path):
    """A copy of the cases, to be spoiled."""
    return Path(shutil.copytree(case_folder, tmp_path / "cases"))


@pytest.fixture(scope="module")
def odd_checkpoints(runs, tmp_path_factory):
    """A truncated checkpoint, and two of a preset with other organs, of the same and of another width."""
    folder = tmp_path_factory.mktemp("odd")
    whole = (runs / "backbone" / "best.pt").read_bytes()
    (folder / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    for name, width in (("openkbp", 0.25), ("wide", 0.5)):
        preset = load_preset("openkbp", [f"networks.width={width}"])
        networks = {"s_net": build_network("s_net", preset)}
        save_checkpoint(folder / f"{name}.pt", stage="backbone", preset=preset, networks=networks)
    return folder


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("backbone", {"cases": "{runs}/nowhere"}, "nowhere: no such folder of cases"),
        ("backbone", {"cases": "{runs}"}, "has no dataset.json, so it is not a folder of cases"),
        ("backbone", {"preset": "openkbp"}, "was prepared with 9 organs"),
        ("backbone", {"preset": "pddca"}, "was prepared at (3.0, 2.0, 1.5) mm"),
        ("backbone", {"preset": "pdca"}, "pdca: no such preset; choose one of"),
        ("backbone", {"device": "tpu"}, "--device tpu: no such device"),
        ("backbone", {"init_from": "{odd}/truncated.pt"}, "truncated.pt: is damaged, or not a checkpoint"),
        ("backbone", {"init_from": "{odd}/wide.pt"}, "its s_net does not fit this preset: networks.width is 0.5 there"),
        ("sol", {"init_from": "{odd}/openkbp.pt"}, "no checkpoint has its weights of chiasm, optic_nerve_left, optic"),
        ("backbone", {"init_from": "{runs}/autoencoder/best.pt"}, "expected a checkpoint with s_net, got one of stage"),
        ("sol", {"init_from": None}, "no checkpoint with a trained s_net was given; give --init-from the best.pt of"),
        ("sol", {"init_from": "{runs}/nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ("sol", {"init_from": "{runs}/autoencoder/best.pt"}, "'autoencoder' with autoencoder; give --init-from"),
        ("autoencoder", {"init_from": "{runs}/backbone/best.pt"}, "expected a checkpoint with autoencoder"),
        ("adversarial", {"init_from": "{runs}/backbone/best.pt"}, "no checkpoint with a trained sol_net was given"),
        ("adversarial", {"autoencoder": None}, "--autoencoder is missing; give the best.pt of train_autoencoder.py"),
        ("adversarial", {"autoencoder": "{runs}/sol/best.pt"}, "--autoencoder takes the best.pt of train_autoencoder"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_one_clear_line_and_leave_nothing(
    stage, options, message, runs, odd_checkpoints, case_folder, tmp_path, capsys
):
    given = {name: value and value.format(runs=runs, odd=odd_checkpoints) for name, value in options.items()}
    arguments = arguments_of(stage, **{"cases": case_folder, "runs": runs, "run_dir": tmp_path / "run"} | given)
    assert message in refused(stage, arguments, capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(split, own_cases, runs, tmp_path, capsys):
    splits = json.loads((own_cases / "splits.json").read_text(encoding="utf-8"))
    write_json(own_cases / "splits.json", {**splits, split: []})
    error = refused("backbone", arguments_of("backbone", own_cases, runs, run_dir=tmp_path / "run"), capsys)
    assert f"splits.json: the {split} split is empty" in error
    assert not (tmp_path / "run").exists()


def test_a_case_that_is_gone_or_damaged_is_refused(own_cases, runs, tmp_path, capsys):
    arguments = arguments_of("backbone", own_cases, runs, run_dir=tmp_path / "run")
    image = own_cases / "case_1" / "image.npy"
    image.write_bytes(image.read_bytes()[:1000])
    assert "case_1/image.npy: cannot be read" in refused("backbone", arguments, capsys)
    shutil.rmtree(own_cases / "case_1")
    assert "case_1/case.json: no such file" in refused("backbone", arguments, capsys)
    assert not (tmp_path / "run").exists()


def test_a_validation_split_without_small_organs_cannot_choose_among_localizers(own_cases, runs, tmp_path, capsys):
    info = json.loads((own_cases / "case_5" / "case.json").read_text(encoding="utf-8"))
    for name in ("chiasm", "optic_nerve_left"):
        del info["organs"][name]
    write_json(own_cases / "case_5" / "case.json", info)
    for stage in ("sol", "adversarial"):
        error = refused(stage, arguments_of(stage, own_cases, runs, run_dir=tmp_path / "run"), capsys)
        assert "is contoured in any of the 1 cases of the val split" in error
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_continued_only_on_demand_and_by_its_own_stage(runs, case_folder, tmp_path, capsys):
    arguments = arguments_of("backbone", case_folder, runs)
    before = (runs / "backbone" / "last.pt").read_bytes()
    assert "backbone: already holds a run; run the same command with --resume" in refused("backbone", arguments, capsys)
    assert (runs / "backbone" / "last.pt").read_bytes() == before

    elsewhere = arguments_of("backbone", case_folder, runs, run_dir=tmp_path / "run")
    assert "run: has no last.pt to resume from" in refused("backbone", [*elsewhere, "--resume"], capsys)
    assert not (tmp_path / "run").exists()

    shutil.copytree(runs / "sol", tmp_path / "run")
    error = refused(
        "backbone_heatmap",
        [*arguments_of("backbone_heatmap", case_folder, runs, run_dir=tmp_path / "run"), "--resume"],
        capsys,
    )
    assert "expected the last.pt of stage 'backbone_heatmap', got one of 'sol'" in error


def test_a_wrong_key_on_the_command_line_is_named(runs, case_folder, tmp_path, capsys):
    arguments = arguments_of("backbone", case_folder, runs, run_dir=tmp_path / "run")
    assert train("backbone", [*arguments, "--set", "loss.dice_wieght=1", "--set", "backbone.epochs=x"]) == 2
    error = capsys.readouterr().err
    assert "loss.dice_wieght: unknown key" in error
    assert "backbone.epochs: expected a whole number, got 'x'" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_networks_train_and_are_saved_under_their_own_names(runs, case_folder, tmp_path):
    arguments = arguments_of("autoencoder", case_folder, runs, run_dir=tmp_path / "run")
    assert train("autoencoder", [*arguments, "--compile"]) == 0
    plain, compiled = (read_checkpoint(run / "last.pt")["networks"] for run in (runs / "autoencoder", tmp_path / "run"))
    assert plain["autoencoder"].keys() == compiled["autoencoder"].keys()
    assert [float(row["loss"]) for row in rows_of(tmp_path / "run")] == pytest.approx(
        [float(row["loss"]) for row in rows_of(runs / "autoencoder")], rel=1e-3
    )


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("stage", SCRIPTS)
def test_the_benchmark_of_a_step_runs(stage, baseline):
    overrides = ["grid.crop_size_vox=[16,32,24]", "networks.width=0.25"]
    tasks.step(stage, load_preset("phantom", overrides), "cpu", baseline=baseline).run()


def test_the_benchmark_of_loading_measures_the_fraction_of_time_spent_waiting(case_folder):
    assert 0 <= tasks.loading(case_folder, [], "cpu", baseline=True, num_steps=2).run() <= 1


OTHER_ORGANS = """
description = "Two organs of the published model, and one that it does not know"
left_right_pairs = []
[organs.lips]
small = true
focal_alpha = 1.0
color = [0, 255, 0]
tolerance_mm = 2.5
[organs.larynx]
small = true
focal_alpha = 2.0
color = [0, 0, 255]
tolerance_mm = 2.5
[organs.mandible]
focal_alpha = 1.0
color = [255, 0, 0]
tolerance_mm = 1.0
"""


def test_the_published_model_is_a_head_start_for_other_organs(real_data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = (CONFIG_FOLDER / "openkbp.toml").read_text(encoding="utf-8")
    (tmp_path / "own.toml").write_text(OTHER_ORGANS + settings[settings.index("[grid]") :], encoding="utf-8")
    patients = tmp_path / "train-pats"
    patients.mkdir()
    for name in ("pt_196", "pt_36", "pt_120"):  # small, with larynx and mandible
        shutil.copy(real_data / "openkbp" / "train-pats" / f"{name}.tar.xz", patients)
    raw = ["--source", "openkbp", "--input", patients, "--workers", 1]
    prepared = [*raw, "--preset", tmp_path / "own.toml", "--output", tmp_path / "cases"]
    assert run_main(prepare.main, [str(word) for word in prepared]) == 0

    published = WEIGHTS_FOLDER / "openkbp.pt"
    losses = {}
    for name, start in (("own", published), ("scratch", None)):
        shorter = {"epochs": 1, "batch_size": 1, "init_from": start, "run_dir": tmp_path / name}
        arguments = arguments_of("backbone_heatmap", tmp_path / "cases", tmp_path, **shorter)
        assert train("backbone_heatmap", [*arguments, "--set", "grid.crop_size_vox=[56,32,24]"]) == 0
        losses[name] = float(rows_of(tmp_path / name)[0]["loss"])
    assert losses["own"] < 0.8 * losses["scratch"]
    assert f"{published}: took s_net, sol_net, without brainstem, spinal_cord, parotid_right, parotid_l" in caplog.text
    assert "random weights: s_net of lips; sol_net of lips\n" in caplog.text

    shapes = arguments_of("autoencoder", tmp_path / "cases", tmp_path, epochs=1, init_from=published)
    assert train("autoencoder", shapes) == 0
    start = {"init_from": tmp_path / "own" / "best.pt", "autoencoder": published}
    adversarial = arguments_of("adversarial", tmp_path / "cases", tmp_path, epochs=1, batch_size=1, **start)
    caplog.clear()
    assert train("adversarial", adversarial) == 0
    assert f"{published}: took autoencoder\n" in caplog.text

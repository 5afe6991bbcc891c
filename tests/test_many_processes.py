"""Training with torchrun: two ranks with batch 1 are one rank with batch 2, and a killed rank is no loss."""

import csv
import json
import math
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

import adv_train
import train_autoencoder
import train_backbone
import train_backbone_heatmap
import train_SOL
from models.focusnet import build_network
from utils.config.preset import preset_from_table
from utils.io.checkpoint import read_checkpoint
from utils.runtime.command_line import run_main
from utils.training.trainer import Trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="this torch was built without gloo"),
    pytest.mark.skipif(os.name == "nt", reason="torchrun wants libuv, which PyTorch lacks on Windows"),
]

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {
    "backbone": train_backbone,
    "sol": train_SOL,
    "backbone_heatmap": train_backbone_heatmap,
    "autoencoder": train_autoencoder,
    "adversarial": adv_train,
}
STARTS_FROM = {
    "sol": {"--init-from": "backbone"},
    "adversarial": {"--init-from": "sol", "--autoencoder": "autoencoder"},
}
NETWORKS = {
    "backbone": ["s_net"],
    "sol": ["s_net", "sol_net"],
    "backbone_heatmap": ["s_net", "sol_net"],
    "autoencoder": ["autoencoder"],
    "adversarial": ["s_net", "sol_net", "sos_net"],
}
DRAWN = {"backbone": 0, "sol": 1, "backbone_heatmap": 0, "autoencoder": 0, "adversarial": 2}
"""Which of the networks learns and starts from the seed's weights."""
STEPS = 3
LEARNING_RATES = {"backbone": 0.02, "backbone_heatmap": 0.02, "adversarial": 0.001}
"""The adversarial loss of untrained networks is steep: larger steps multiply rounding errors by a thousand."""


def arguments_of(stage, cases, folder, name, batch_size):
    """Several steps of SGD: Adam makes whole steps of the rounding errors of weights whose true gradient is zero."""
    first = folder / "one"
    starts = [word for key, value in STARTS_FROM.get(stage, {}).items() for word in (key, first / value / "best.pt")]
    options = ["--cases", cases, "--run-dir", folder / name / stage, *starts, "--batch-size", batch_size]
    rate = LEARNING_RATES.get(stage, 0.01)
    values = {"steps_per_epoch": STEPS, "optimizer": "sgd", "learning_rate": rate, "epochs": 1, "validation_cases": 3}
    changed = [word for key, value in values.items() for word in ("--set", f"{stage}.{key}={value}")]
    return [str(word) for word in [*options, "--workers", 0, "--device", "cpu", "--precision", "fp32", *changed]]


def torchrun(*arguments, **environment):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=900,  # on a machine that does much else
    )


DRIVER = """
import importlib, json, os, sys
sys.path.insert(0, {root!r})
import torch
from utils.training.trainer import Trainer

fit = Trainer.fit

def fit_and_keep(trainer):
    is_finished = fit(trainer)
    weights = {{name: network.state_dict() for name, network in trainer.stage.networks.items()}}
    torch.save(weights, {folder!r} + f"/{{trainer.stage.name}}_rank{{trainer.ranks.rank}}.pt")
    return is_finished

Trainer.fit = fit_and_keep
os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # each script meets at a port of its own, as if started alone
for port, module, arguments in json.load(open(sys.argv[1])):
    os.environ["MASTER_PORT"] = str(port)
    importlib.import_module(module).main(arguments)
"""


def free_ports():
    """Ports below those that a system gives to connections by itself: gloo's own could take such a one in between."""
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        yield port


@pytest.fixture(scope="module")
def both(case_folder, tmp_path_factory):
    """Folder of all stages' runs by one rank with batch 2, and folder of the same by two ranks with batch 1."""
    folder = tmp_path_factory.mktemp("ranks")
    for stage, script in SCRIPTS.items():
        assert run_main(script.main, arguments_of(stage, case_folder, folder, "one", 2)) == 0
    jobs = [
        (port, module.__name__, arguments_of(stage, case_folder, folder, "two", 1))
        for port, (stage, module) in zip(free_ports(), SCRIPTS.items(), strict=False)
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    (folder / "driver.py").write_text(DRIVER.format(root=str(ROOT), folder=str(folder)), encoding="utf-8")
    finished = torchrun(folder / "driver.py", folder / "jobs.json")
    assert finished.returncode == 0, finished.stderr
    return folder


def largest_change(after, stage, folder):
    """By how much the weights of the network that trains have moved since the script's seed drew them."""
    config = json.loads((folder / "one" / stage / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(config["options"]["seed"])
    networks = {
        name: build_network(name, preset_from_table(config["preset"], source="config.json")) for name in NETWORKS[stage]
    }
    name, network = list(networks.items())[DRAWN[stage]]
    return max(
        float((after[f"{name}.{key}"] - value.detach()).abs().max()) for key, value in network.named_parameters()
    )


def tensors_of(networks):
    return {f"{name}.{key}": value for name, weights in networks.items() for key, value in weights.items()}


@pytest.mark.parametrize("stage", SCRIPTS)
def test_two_ranks_with_batch_1_are_one_rank_with_batch_2(stage, both):
    one, two = (tensors_of(read_checkpoint(both / name / stage / "last.pt")["networks"]) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=2e-5, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert largest_change(one, stage, both) > 5e-4  # 25 times what the ranks may differ by


@pytest.mark.parametrize("stage", SCRIPTS)
def test_ranks_hold_the_same_weights_and_statistics_to_the_bit(stage, both):
    first, second = (torch.load(both / f"{stage}_rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in tensors_of(first).items():
        assert torch.equal(value, tensors_of(second)[key]), key


@pytest.mark.parametrize("stage", SCRIPTS)
def test_metrics_and_the_shared_validation_are_those_of_one_rank(stage, both):
    rows = []
    for name in ("one", "two"):
        with (both / name / stage / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows.append({key: float(value) for [row] in [list(csv.DictReader(file))] for key, value in row.items()})
    assert rows[0].keys() == rows[1].keys()
    assert rows[1] == pytest.approx(rows[0], abs=1e-4, rel=1e-4)


KILLER = """
import math, os, signal, sys
sys.path.insert(0, {root!r})
import train_backbone
from utils.training.trainer import Trainer

make_step, training_step = Trainer._make_step, train_backbone.BackboneStage.training_step
current = []

def die_once(trainer, samples):
    current[:] = [trainer.step, trainer.ranks.rank]
    if current == [5, 1] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    return make_step(trainer, samples)

def poison(stage, batch):
    return training_step(stage, batch._replace(image=batch.image * math.nan) if current == [1, 0] else batch)

Trainer._make_step, train_backbone.BackboneStage.training_step = die_once, poison
sys.exit(train_backbone.main(sys.argv[1:]))
"""


def poison_step_1(monkeypatch):
    make_step, training_step = Trainer._make_step, train_backbone.BackboneStage.training_step
    current = []

    def note_step(trainer, samples):
        current[:] = [trainer.step]
        return make_step(trainer, samples)

    def poison(stage, batch):
        return training_step(stage, batch._replace(image=batch.image * math.nan) if current == [1] else batch)

    monkeypatch.setattr(Trainer, "_make_step", note_step)
    monkeypatch.setattr(train_backbone.BackboneStage, "training_step", poison)


def test_a_killed_rank_and_a_loss_that_is_not_finite_on_one_rank(case_folder, tmp_path, monkeypatch):
    """Both ranks leave out step 1, and start again after rank 1 is killed: as one rank that only leaves out step 1."""
    (tmp_path / "killer.py").write_text(KILLER.format(root=str(ROOT)), encoding="utf-8")
    more = ["--set", "backbone.epochs=2"]
    command = [tmp_path / "killer.py", *arguments_of("backbone", case_folder, tmp_path, "two", 1), *more]
    finished = torchrun("--max-restarts", 1, *command)
    assert finished.returncode == 0, finished.stderr
    poison_step_1(monkeypatch)
    assert run_main(train_backbone.main, [*arguments_of("backbone", case_folder, tmp_path, "one", 2), *more]) == 0

    one, two = (read_checkpoint(tmp_path / name / "backbone" / "last.pt") for name in ("one", "two"))
    assert one["state"]["step"] == two["state"]["step"] == 2 * STEPS
    for key, value in tensors_of(one["networks"]).items():
        torch.testing.assert_close(tensors_of(two["networks"])[key], value, atol=1e-4, rtol=1e-4)
    run = tmp_path / "two" / "backbone"
    assert json.loads((run / "config.json").read_text(encoding="utf-8"))["is_resumed"]  # by torchrun's second start
    assert json.loads((run / "status.json").read_text(encoding="utf-8"))["state"] == "finished"
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        assert [row["discarded_steps"] for row in csv.DictReader(file)] == ["1", ""]


DECIDER = """
import sys
sys.path.insert(0, {root!r})
from utils.runtime.distributed import decided_by_rank0, distributed_context, process_group

ranks = distributed_context()
choice = decided_by_rank0(ranks, "precision", lambda: f"that of rank {{ranks.rank}}")
with process_group(ranks, "cpu"):
    open(sys.argv[1] + f"/{{ranks.rank}}.txt", "w").write(choice)
"""


@pytest.mark.parametrize("served_by_torchrun", [True, False])
def test_rank_0_chooses_before_the_ranks_are_connected(served_by_torchrun, tmp_path):
    (tmp_path / "decider.py").write_text(DECIDER.format(root=str(ROOT)), encoding="utf-8")
    own = {} if served_by_torchrun else {"TORCHELASTIC_USE_AGENT_STORE": "False"}
    finished = torchrun(tmp_path / "decider.py", tmp_path, **own)
    assert finished.returncode == 0, finished.stderr
    assert [(tmp_path / f"{rank}.txt").read_text(encoding="utf-8") for rank in range(2)] == ["that of rank 0"] * 2


def test_ranks_may_normalize_their_own_crops_and_accumulate_gradients(case_folder, tmp_path):
    options = ["--no-sync-batchnorm", "--grad-accumulation-steps", 2, "--max-steps", 2]
    command = [ROOT / "train_backbone.py", *arguments_of("backbone", case_folder, tmp_path, "two", 1), *options]
    finished = torchrun(*command)
    assert finished.returncode == 0, finished.stderr
    assert "crops per step: 4 (batch size 1 x 2 ranks x 2 accumulation steps)" in finished.stderr
    assert "batch norm over each rank's batch" in finished.stderr
    assert read_checkpoint(tmp_path / "two" / "backbone" / "last.pt")["state"]["step"] == 2

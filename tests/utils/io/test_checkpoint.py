"""utils/io/checkpoint.py: what is written is read back, and nothing else is."""

import pickle
import subprocess

import pytest
import torch
from torch import nn

from utils.config.preset import load_preset
from utils.io import checkpoint
from utils.io.checkpoint import (
    checkpoint_preset,
    git_commit,
    load_networks,
    read_checkpoint,
    require_networks,
)
from utils.io.checkpoint import save_checkpoint as save

PRESET = load_preset("phantom")


def network(width=3):
    return nn.Sequential(nn.Conv3d(1, width, 3), nn.BatchNorm3d(width))


def same_weights(left, right):
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture
def path(tmp_path):
    """A checkpoint of stage "sol" with two networks."""
    torch.manual_seed(0)
    path = tmp_path / "run" / "last.pt"
    save(path, stage="sol", preset=PRESET, networks={"s_net": network(), "sol_net": network(2)}, state={"epoch": 3})
    return path


def test_round_trip(path):
    content = read_checkpoint(path)
    assert (content["stage"], content["state"], list(content["networks"])) == (
        "sol",
        {"epoch": 3},
        ["s_net", "sol_net"],
    )
    assert checkpoint_preset(content, path) == PRESET
    torch.manual_seed(0)
    original, loaded = network(), network()
    load_networks({"s_net": loaded}, content, path)
    assert same_weights(loaded, original)


def test_a_checkpoint_of_an_earlier_release_is_read(path):
    content = torch.load(path, weights_only=True)
    torch.save(
        {**{key: value for key, value in content.items() if key != "networks"}, "parts": content["networks"]}, path
    )
    assert list(read_checkpoint(path)["networks"]) == ["s_net", "sol_net"]


def test_it_loads_without_executing_anything_in_it(path):
    assert torch.load(path, weights_only=True)["format_version"] == 1


def test_a_failure_while_writing_leaves_the_old_checkpoint(path):
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError, TypeError)):
        save(path, stage="sol", preset=PRESET, networks={"s_net": network()}, state={"hook": lambda: None})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_truncated_checkpoints_are_refused(path, fraction):
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"last\.pt: is damaged, or not a checkpoint"):
        read_checkpoint(path)


def test_flipped_bits_in_the_weights_are_noticed(path):
    weights = read_checkpoint(path)["networks"]["s_net"]["0.weight"].numpy().tobytes()
    content = path.read_bytes()
    place = content.index(weights) + 10
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    for content in (b"", b"text", pickle.dumps({"format_version": 1}), b"\x80\x02]q\x00."):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"other\.pt: is damaged, or not a checkpoint"):
            read_checkpoint(path)
    for content in ([1, 2], {"format_version": 0}, {"state_dict": {}}):
        torch.save(content, path)
        with pytest.raises(ValueError, match=r"other\.pt: expected checkpoint format"):
            read_checkpoint(path)
    torch.save(network(), path)  # a whole module, which only unpickling could rebuild
    with pytest.raises(ValueError, match=r"other\.pt: is damaged, or not a checkpoint"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=r"absent\.pt: no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pt")


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(path):
    content = read_checkpoint(path)
    wider = network(width=5)
    before = {key: value.clone() for key, value in wider.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"last\.pt: its s_net does not fit .*0\.weight: expected \(5, 1, 3, 3, 3\), got"
    ):
        load_networks({"s_net": wider}, content, path)
    assert all(torch.equal(before[key], value) for key, value in wider.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (nn.Sequential(nn.Conv3d(1, 3, 3, bias=False), nn.BatchNorm3d(3)), r"0\.bias is unexpected"),
        (nn.Sequential(nn.Conv3d(1, 3, 3), nn.BatchNorm3d(3), nn.PReLU()), r"2\.weight is missing"),
    ],
)
def test_missing_and_superfluous_weights_are_named(changed, message, path):
    with pytest.raises(ValueError, match=message):
        load_networks({"s_net": changed}, read_checkpoint(path), path)


def test_a_checkpoint_without_the_networks_needed_names_its_stage_and_the_remedy(path):
    with pytest.raises(
        ValueError, match="expected a checkpoint with sos_net, got one of stage 'sol'.*; train it first"
    ):
        require_networks(read_checkpoint(path), ["s_net", "sos_net"], path, "train it first")


def test_the_commit_is_that_of_the_clone_and_not_of_a_repository_around_an_installation(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "First"], check=True)
    commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], encoding="utf-8").strip()
    for root, expected in ((tmp_path, commit), (tmp_path / "environment" / "program", "unknown")):
        (root / "utils" / "io").mkdir(parents=True)
        monkeypatch.setattr(checkpoint, "__file__", str(root / "utils" / "io" / "checkpoint.py"))
        assert git_commit() == expected

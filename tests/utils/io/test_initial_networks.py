"""utils/io/initial_networks.py: a training starts from what a checkpoint has, also from one of other organs."""

import logging
from dataclasses import replace

import pytest
import torch
from torch import nn

from utils.config.preset import Preset, load_preset
from utils.io.checkpoint import read_checkpoint, save_checkpoint
from utils.io.initial_networks import load_initial_networks

PRESET = load_preset("phantom")


class Rows(nn.Module):
    """A row of weights per class, as S-Net has."""

    def __init__(self, preset: Preset, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Linear(2, width)
        self.head = nn.Conv3d(width, preset.num_classes, 1)

    @staticmethod
    def organ_weights(preset):
        return "head.", ("", *preset.organ_names)


class Branches(nn.Module):
    """A module per small organ, as SOS-Net has."""

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Linear(2, 2) for _ in preset.small_organs)

    @staticmethod
    def organ_weights(preset):
        return "branches.", preset.small_organ_names


def networks_of(preset):
    return {"s_net": Rows(preset), "sos_net": Branches(preset), "autoencoder": nn.Linear(4, 4)}


def with_organs(*names):
    """A preset with these organs; all but the mandible are small."""
    mandible = next(organ for organ in PRESET.organs if organ.name == "mandible")
    organs = tuple(replace(mandible, name=name, aliases=(), small=name != "mandible") for name in names)
    return replace(PRESET, organs=organs, left_right_pairs=())


@pytest.fixture(autouse=True)
def _random_and_logged(caplog):
    torch.manual_seed(0)
    caplog.set_level(logging.INFO)


@pytest.fixture
def path(tmp_path):
    """A checkpoint with all networks but the localizer's, of the nine organs of the phantoms."""
    path = tmp_path / "nine.pt"
    save_checkpoint(path, stage="adversarial", preset=PRESET, networks=networks_of(PRESET))
    return path


def same_weights(network, state):
    return all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


def test_networks_are_what_checkpoints_share_and_the_later_wins(path, tmp_path, caplog):
    second, other = tmp_path / "second.pt", Rows(PRESET)
    save_checkpoint(second, stage="backbone", preset=PRESET, networks={"s_net": other})
    networks = {"s_net": Rows(PRESET), "sos_net": Branches(PRESET), "sol_net": nn.Linear(3, 3)}
    before = {key: value.clone() for key, value in networks["sol_net"].state_dict().items()}
    load_initial_networks(networks, [path, second], PRESET, required=("s_net", "sos_net"))
    assert same_weights(networks["s_net"], other.state_dict())
    assert same_weights(networks["sos_net"], read_checkpoint(path)["networks"]["sos_net"])
    assert same_weights(networks["sol_net"], before)
    assert caplog.messages == [f"{path}: took s_net, sos_net", f"{second}: took s_net", "random weights: sol_net"]


def test_required_networks_must_come_from_somewhere(path):
    with pytest.raises(ValueError, match="no checkpoint with a trained s_net was given; train it"):
        load_initial_networks({"s_net": Rows(PRESET)}, [], PRESET, required=("s_net",), remedy="train it")
    with pytest.raises(ValueError, match="expected a checkpoint with sol_net, got one of stage 'adversarial'"):
        load_initial_networks({"sol_net": Rows(PRESET)}, [path], PRESET)


def test_organs_of_the_same_name_keep_their_weights_wherever_they_stand(path, caplog):
    own = with_organs("larynx", "mandible", "optic_nerve_right", "chiasm")
    networks, given = networks_of(own), read_checkpoint(path)["networks"]
    before = {name: {k: v.clone() for k, v in network.state_dict().items()} for name, network in networks.items()}
    load_initial_networks(networks, [path], own)

    rows, theirs = networks["s_net"].state_dict(), given["s_net"]
    at = {name: i for i, name in enumerate(PRESET.organ_names, 1)}
    for key in ("head.weight", "head.bias"):
        expected = [theirs[key][0], before["s_net"][key][1], *(theirs[key][at[name]] for name in own.organ_names[1:])]
        assert torch.equal(rows[key], torch.stack(expected))
    assert torch.equal(rows["body.weight"], theirs["body.weight"])

    branches = networks["sos_net"].state_dict()  # of larynx, right optic nerve and chiasm
    small = PRESET.small_organ_names
    for key in ("weight", "bias"):
        assert torch.equal(branches[f"branches.0.{key}"], before["sos_net"][f"branches.0.{key}"])
        for k, name in ((1, "optic_nerve_right"), (2, "chiasm")):
            assert torch.equal(branches[f"branches.{k}.{key}"], given["sos_net"][f"branches.{small.index(name)}.{key}"])
    assert same_weights(networks["autoencoder"], given["autoencoder"])

    first, second = caplog.messages
    assert first.startswith(
        f"{path}: took s_net, sos_net, autoencoder, without brainstem, optic_nerve_left, parotid_le"
    )
    assert second == "random weights: s_net of larynx; sos_net of larynx"


def test_an_organ_that_was_not_small_has_no_branch_to_take(path, caplog):
    own = with_organs("brainstem", "chiasm")
    load_initial_networks(networks_of(own), [path], own)
    assert caplog.messages[-1] == "random weights: sos_net of brainstem"


def test_names_are_compared_as_those_of_raw_data(path):
    own = with_organs("OpticChiasm", "Bone_Mandible")
    network, given = Rows(own), read_checkpoint(path)["networks"]["s_net"]
    load_initial_networks({"s_net": network}, [path], own)
    rows = [0, *(PRESET.organ_names.index(name) + 1 for name in ("chiasm", "mandible"))]
    assert torch.equal(network.head.weight, given["head.weight"][rows])


def test_a_frozen_network_without_weights_of_an_organ_is_refused(path):
    own = with_organs("chiasm", "larynx", "lens_left")
    message = r"does not train s_net, but no checkpoint has its weights of larynx, lens_left; give .*heatmap\.py first"
    with pytest.raises(ValueError, match=message):
        load_initial_networks(networks_of(own), [path], own, required=("s_net",))


def test_the_setting_that_makes_a_network_unfit_is_named(path):
    own = replace(with_organs("chiasm", "larynx"), networks=replace(PRESET.networks, width=1.0))
    message = r"its s_net does not fit this preset: networks.width is 0.5 there and 1.0 here; use --set with the check"
    with pytest.raises(ValueError, match=message):
        load_initial_networks({"s_net": Rows(own, width=6)}, [path], own)

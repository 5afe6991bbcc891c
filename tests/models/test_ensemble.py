"""models/ensemble.py: the mean of several models' results, and models that cannot be averaged."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from models.ensemble import EnsemblePredictor, average_small_organs
from models.focusnet import FocusNet, build_network
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor, SmallOrganResult
from models.pretrained import load_model
from models.tta import TTAPredictor
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.io.checkpoint import save_checkpoint
from utils.runtime.device import choose_compute

TINY = ["networks.width=0.1", "grid.crop_size_vox=[8,24,20]", "grid.roi_size_vox=[4,12,8]"]
ALL = ("s_net", "sol_net", "sos_net")
CPU = choose_compute("cpu", "fp32")


def write_checkpoint(path, preset, seed=0, names=ALL):
    torch.manual_seed(seed)
    networks = {name: build_network(name, preset) for name in names}
    save_checkpoint(path, stage="adversarial", preset=preset, networks=networks)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, preset = tmp_path_factory.mktemp("members"), load_preset("phantom", TINY)
    return [write_checkpoint(folder / f"{seed}.pt", preset, seed) for seed in (0, 1)]


@pytest.mark.parametrize("tta", [False, True])
def test_the_result_is_the_mean_of_the_members(checkpoints, tta):
    image = torch.randint(-200, 300, (9, 26, 20), dtype=torch.int16)
    alone = [load_model(path, CPU, tta=tta).predictor.predict(image) for path in checkpoints]
    model = load_model(checkpoints[0], CPU, others=checkpoints[1:], tta=tta)
    both = model.predictor.predict(image)
    assert not torch.allclose(alone[0].probabilities, alone[1].probabilities, atol=1e-3)
    for name in ("probabilities", "heatmaps"):
        expected = (getattr(alone[0], name) + getattr(alone[1], name)) / 2
        torch.testing.assert_close(getattr(both, name), expected, atol=1e-5, rtol=0)
    assert len(both.small_organs) == len(alone[0].small_organs) > 0
    assert model.name == "0 and 1 more"
    assert model.tta == tta


def test_a_small_organ_has_the_peak_of_the_mean_and_is_found_if_a_member_found_it():
    heatmaps = torch.zeros(2, 2, 3, 4)
    heatmaps[0, 1, 2, 3], heatmaps[1, 0, 0, 1] = 0.5, 0.25
    missed = [SmallOrganResult(organ, (0, 0, 0), 0.1, localized=False, segmented=False) for organ in (4, 7)]
    found = [missed[0]._replace(localized=True, segmented=True), missed[1]._replace(localized=True)]
    assert average_small_organs(heatmaps, [missed, found]) == [
        SmallOrganResult(4, (1, 2, 3), 0.5, localized=True, segmented=True),
        SmallOrganResult(7, (0, 0, 1), 0.25, localized=True, segmented=False),
    ]
    assert average_small_organs(heatmaps[:0], [[], []]) == []


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        (
            ["grid.spacing_zyx_mm=[4.0,3.0,3.0]"],
            ("s_net", "sol_net", "sos_net"),
            r"grid.spacing_zyx_mm: expected \(.*got \(4.0",
        ),
        (["organs.mandible.small=true"], ALL, "small organs: expected .*, got .*mandible"),
        ([], ("s_net",), "networks: expected s_net, sol_net, sos_net, got s_net;"),
    ],
)
def test_models_that_differ_are_refused(checkpoints, tmp_path, changes, names, message):
    other = write_checkpoint(tmp_path / "other.pt", load_preset("phantom", TINY + changes), names=names)
    with pytest.raises(UserError, match=f"other.pt: cannot be averaged with .*0.pt, {message}"):
        load_model(checkpoints[0], CPU, others=[other])


def test_other_organs_are_refused(checkpoints, tmp_path):
    other = write_checkpoint(tmp_path / "other.pt", load_preset("openkbp", TINY))
    with pytest.raises(UserError, match="organs: expected .*, got brainstem, spinal_cord"):
        load_model(checkpoints[0], CPU, others=[other])


def test_what_a_member_did_is_noted_once(tiny_preset):
    class Unused(nn.Module):
        pass

    members = [
        OOMFallbackPredictor(Predictor(FocusNet(tiny_preset, s_net=Unused()), autocast=nullcontext()), CPU)
        for _ in range(2)
    ]
    predictor = TTAPredictor(EnsemblePredictor(members))
    assert predictor.notes == []
    for member in members:
        member.notes.append("continued on the CPU")
    assert predictor.notes == ["continued on the CPU"]

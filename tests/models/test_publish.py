"""models/publish.py: the checkpoint for publication."""

import pytest
import torch

from models import publish
from models.focusnet import build_network
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.io.checkpoint import checkpoint_arrangement, read_checkpoint, save_checkpoint

PRESET = load_preset("phantom", ["networks.width=0.25"])
ARRANGEMENT = Arrangement([OrganOffset("chiasm", "mandible", (70.0, 30.0, 0.0), (9.0, 8.0, 3.0))])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    networks = {name: build_network(name, PRESET) for name in ("s_net", "sol_net")}
    content = {
        "stage": "sol",
        "preset": PRESET,
        "networks": networks,
        "arrangement": ARRANGEMENT,
        "state": {"epoch": 3},
    }
    save_checkpoint(tmp_path / "best.pt", **content)
    return tmp_path / "best.pt"


def run(checkpoint, output, *words):
    return publish.main(["--checkpoint", str(checkpoint), "--output", str(output), *words])


def test_it_holds_the_same_weights_in_half_the_bytes(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path / "new" / "mine.pt", "--set", "roi.sos_blend_weight=0.5") == 0
    before, after = read_checkpoint(checkpoint), read_checkpoint(tmp_path / "new" / "mine.pt")
    assert after["state"] == {}
    assert after["preset"]["roi"]["sos_blend_weight"] == 0.5
    assert checkpoint_arrangement(after).offsets == ARRANGEMENT.offsets
    for name, weights in before["networks"].items():
        for key, value in weights.items():
            torch.testing.assert_close(after["networks"][name][key].to(value.dtype), value, rtol=1e-3, atol=1e-6)
    assert (tmp_path / "new" / "mine.pt").stat().st_size < 0.8 * checkpoint.stat().st_size


@pytest.mark.parametrize("place", ["best.pt", "other.pt", "folder"])
def test_a_file_or_folder_that_is_there_is_not_replaced(place, checkpoint, tmp_path):
    (tmp_path / "other.pt").write_text("somebody's", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=rf"{place}: (not written by this command|expected the name of a new file)"):
        run(checkpoint, tmp_path / place)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    with pytest.raises(UserError, match=r"other\.pt: expected a folder, but a file is in its place"):
        run(checkpoint, tmp_path / "other.pt" / "new.pt")


def test_weights_too_large_for_half_precision_are_refused(checkpoint, tmp_path):
    content = read_checkpoint(checkpoint)
    content["networks"]["s_net"]["head.weight"][0] = 1e6
    torch.save(content, checkpoint)
    with pytest.raises(
        ValueError, match=r"best\.pt: s_net\.head\.weight: its weight 1e.06 exceeds the range of half precision"
    ):
        run(checkpoint, tmp_path / "mine.pt")
    assert not (tmp_path / "mine.pt").exists()

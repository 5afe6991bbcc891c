"""models/focusnet.py: networks sized by the preset, and every ROI its own."""

import inspect

import pytest
import torch
from torch import nn

from models.focusnet import NETWORK_NAMES, SEGMENTATION_NETWORKS, FocusNet, LocalizationOutput, build_network
from models.roi import Rois
from models.sol_net import SOLNet
from utils.config.preset import load_preset

SIZE = (8, 16, 12)


class Recorder(nn.Module):
    """Replaces SOS-Net and records its inputs."""

    def forward(self, rois, organ_index):
        self.rois, self.organ_index = rois, organ_index
        return rois[:, :1]


@pytest.fixture(scope="module")
def network(tiny_preset):
    torch.manual_seed(0)
    networks = {name: build_network(name, tiny_preset) for name in ("s_net", "sol_net", "sos_net")}
    return FocusNet(tiny_preset, **networks).eval()


def test_lists_of_networks_follow_from_the_registry_and_fit_focusnets_arguments(tiny_preset):
    assert list(inspect.signature(FocusNet).parameters) == ["preset", *SEGMENTATION_NETWORKS]
    assert set(NETWORK_NAMES) == {*SEGMENTATION_NETWORKS, "autoencoder"}
    for name in NETWORK_NAMES:
        assert isinstance(build_network(name, tiny_preset), nn.Module)


def test_a_seed_gives_the_weights_of_version_0_1(tiny_preset):
    """There every other network was built after an S-Net."""
    torch.manual_seed(0)
    build_network("s_net", tiny_preset)
    expected = SOLNet(in_channels=8, num_organs=3)
    torch.manual_seed(0)
    sol_net = build_network("sol_net", tiny_preset)
    for name, value in expected.state_dict().items():
        assert torch.equal(sol_net.state_dict()[name], value), name


def first_channels(sos_net):
    return next(parameter for parameter in sos_net.branches[0].parameters() if parameter.dim() == 5).shape[1]


@pytest.mark.parametrize(("name", "count"), [("s_net", 1_963_114), ("sol_net", 55_523)])
def test_networks_of_the_papers_preset_have_the_papers_size(name, count):
    assert sum(parameter.numel() for parameter in build_network(name, load_preset("pddca")).parameters()) == count


@pytest.mark.parametrize(
    ("sos_input", "width", "channels"),
    [("features", 1.0, 32 + 32 + 1 + 1), ("features", 0.25, 8 + 8 + 1 + 1), ("image", 1.0, 1), ("image", 0.25, 1)],
)
def test_sos_net_reads_the_papers_features_or_the_image_alone(sos_input, width, channels):
    preset = load_preset("phantom", [f"networks.sos_input={sos_input}", f"networks.width={width}"])
    sos_net = build_network("sos_net", preset)
    assert first_channels(sos_net) == channels
    assert len(sos_net.branches) == 3


def test_networks_for_small_organs_need_a_small_organ():
    names = ("chiasm", "optic_nerve_left", "optic_nerve_right")
    preset = load_preset("phantom", [f"organs.{name}.small=false" for name in names])
    build_network("s_net", preset)
    for name in ("sol_net", "sos_net", "autoencoder"):
        with pytest.raises(ValueError, match=f"preset phantom: {name} needs a small organ; set organs"):
            build_network(name, preset)


def test_localization_has_one_heatmap_per_small_organ(network, tiny_preset):
    with torch.no_grad():
        localization = network.localize(torch.randn(2, 1, *SIZE))
        alone = FocusNet(tiny_preset, s_net=network.s_net).localize(torch.randn(2, 1, *SIZE))
    assert localization.logits.shape == (2, 10, *SIZE)
    assert localization.features.shape == localization.stem.shape == (2, 8, *SIZE)
    assert localization.heatmaps.shape == (2, 3, *SIZE)
    assert alone.heatmaps.shape == (2, 0, *SIZE)


def test_rois_are_placed_around_wanted_organs_and_clamped(network):
    centers = torch.full((2, 3, 3), torch.nan)
    centers[0, 1] = torch.tensor([4.0, 8.0, 6.0])
    centers[1, 0] = torch.tensor([-3.0, 0.2, 11.0])
    centers[1, 2] = torch.tensor([7.4, 9.0, 5.0])
    rois = network.select_rois(centers, ~centers.isnan().any(dim=-1), SIZE)
    assert rois.sample_index.tolist() == [0, 1, 1]
    assert rois.organ_index.tolist() == [1, 0, 2]
    # boxes are 4 x 12 x 8 in 8 x 16 x 12: starts are centers less 2, 6, 4, from 0 to 4
    assert rois.corners.tolist() == [[2, 2, 2], [0, 0, 4], [4, 3, 1]]


def test_pooled_channels_are_features_stem_own_heatmap_and_image(tiny_preset):
    """Channel c of a tensor holds 1000 t + 100 c + 10 sample for its kind t, so that each value tells its origin."""

    def marked(kind, channels):
        c, b = torch.arange(channels).reshape(1, -1), torch.arange(2).reshape(-1, 1)
        return (1000 * kind + 100 * c + 10 * b).float()[:, :, None, None, None].repeat(1, 1, *SIZE)

    localization = LocalizationOutput(
        logits=marked(0, 10), features=marked(1, 2), stem=marked(2, 2), heatmaps=marked(3, 3)
    )
    rois = Rois(
        sample_index=torch.tensor([0, 1, 1]),
        organ_index=torch.tensor([2, 0, 1]),
        corners=torch.tensor([[0, 0, 0], [4, 4, 4], [2, 1, 3]]),
        size=tiny_preset.grid.roi_size_vox,
    )
    recorder = Recorder()
    FocusNet(tiny_preset, s_net=nn.Identity(), sos_net=recorder).segment_rois(marked(4, 1), localization, rois)
    assert recorder.rois.shape == (3, 6, 4, 12, 8)
    assert recorder.rois[:, :, 0, 0, 0].tolist() == [
        [1000, 1100, 2000, 2100, 3200, 4000],
        [1010, 1110, 2010, 2110, 3010, 4010],
        [1010, 1110, 2010, 2110, 3110, 4010],
    ]
    assert recorder.organ_index.tolist() == [2, 0, 1]


def test_image_alone_is_cut_at_every_rois_own_position():
    preset = load_preset("phantom", ["networks.sos_input=image", "grid.roi_size_vox=[4,12,8]"])
    image = torch.arange(2 * 8 * 16 * 12.0).reshape(2, 1, *SIZE)
    empty = torch.zeros(2, 0, *SIZE)
    rois = Rois(torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([[4, 0, 2], [1, 3, 4]]), (4, 12, 8))
    recorder = Recorder()
    FocusNet(preset, s_net=nn.Identity(), sos_net=recorder).segment_rois(
        image, LocalizationOutput(logits=empty, features=empty, stem=empty, heatmaps=empty), rois
    )
    assert torch.equal(recorder.rois[0, 0], image[1, 0, 4:8, 0:12, 2:10])
    assert torch.equal(recorder.rois[1, 0], image[0, 0, 1:5, 3:15, 4:12])


def test_rois_in_a_batch_are_segmented_as_one_by_one(network):
    torch.manual_seed(1)
    image = torch.randn(2, 1, *SIZE)
    centers = torch.tensor([[[1, 2, 3], [4, 8, 6], [7, 15, 11]], [[3, 3, 9], [0, 0, 0], [5, 10, 2]]])
    wanted = torch.tensor([[True, False, True], [True, True, False]])
    with torch.no_grad():
        rois = network.select_rois(centers, wanted, SIZE)
        batched = network.segment_rois(image, network.localize(image), rois)
        singles = []
        for row, (sample, organ) in enumerate(wanted.nonzero().tolist()):
            own_image = image[sample : sample + 1]
            own_roi = Rois(torch.tensor([0]), torch.tensor([organ]), rois.corners[row : row + 1], rois.size)
            singles.append(network.segment_rois(own_image, network.localize(own_image), own_roi))
    torch.testing.assert_close(batched, torch.cat(singles), rtol=1e-4, atol=1e-4)
    assert batched.std() > 0

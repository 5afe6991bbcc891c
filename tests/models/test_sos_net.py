"""Tests of models/sos_net.py."""

import pytest
import torch

from models.sos_net import SOSBranch, SOSNet


def test_sos_branch_has_the_reference_parameters():
    branch = SOSBranch(in_channels=1)

    assert sum(parameter.numel() for parameter in branch.parameters()) == 1_610_031


@pytest.mark.parametrize("size", [(4, 8, 12), (5, 11, 18), (1, 7, 6)])
def test_sos_branch_keeps_any_size(size):
    branch = SOSBranch(in_channels=3, width=0.25)

    assert branch(torch.randn(2, 3, *size)).shape == (2, 1, *size)


def test_sos_net_routes_every_row_to_its_organ():
    network = SOSNet(num_organs=3, in_channels=1, width=0.25).eval()
    for organ, branch in enumerate(network.branches):
        torch.nn.init.zeros_(branch.head.weight)
        torch.nn.init.constant_(branch.head.bias, 10.0 * organ)
    organ_index = torch.tensor([2, 0, 2, 1, 0])

    logits = network(torch.randn(5, 1, 2, 4, 6), organ_index)

    assert torch.equal(logits, (10.0 * organ_index).view(5, 1, 1, 1, 1).expand(5, 1, 2, 4, 6))


def test_sos_net_batched_equals_one_by_one():
    torch.manual_seed(0)
    network = SOSNet(num_organs=3, in_channels=2, width=0.25).eval()
    rois = torch.randn(4, 2, 3, 8, 10)
    organ_index = torch.tensor([2, 0, 2, 0])

    batched = network(rois, organ_index)

    one_by_one = [network(rois[row : row + 1], organ_index[row : row + 1]) for row in range(4)]
    torch.testing.assert_close(batched, torch.cat(one_by_one), rtol=1e-4, atol=1e-4)


def test_sos_net_does_not_run_an_organ_without_rows():
    torch.manual_seed(0)
    network = SOSNet(num_organs=3, in_channels=1, width=0.25)
    statistics = {name: buffer.clone() for name, buffer in network.branches[1].named_buffers()}

    network(torch.randn(2, 1, 4, 8, 12), torch.tensor([2, 0])).square().sum().backward()

    assert all(parameter.grad is None for parameter in network.branches[1].parameters())
    assert all(torch.equal(buffer, statistics[name]) for name, buffer in network.branches[1].named_buffers())
    for organ in (0, 2):
        assert all(parameter.grad is not None for parameter in network.branches[organ].parameters())


def test_sos_net_takes_no_rois():
    network = SOSNet(num_organs=2, in_channels=1, width=0.25)

    assert network(torch.zeros(0, 1, 2, 4, 6), torch.zeros(0, dtype=torch.long)).shape == (0, 1, 2, 4, 6)


@pytest.mark.parametrize(("organ_index", "message"), [([0, 2], r"0\.\.1.*\[2\]"), ([-1, 0], r"\[-1\]"), ([0], "one")])
def test_sos_net_rejects_wrong_organs(organ_index, message):
    network = SOSNet(num_organs=2, in_channels=1, width=0.25)

    with pytest.raises(ValueError, match=message):
        network(torch.zeros(2, 1, 2, 4, 6), torch.tensor(organ_index))


def test_sos_net_runs_in_bfloat16_and_channels_last():
    torch.manual_seed(0)
    network = SOSNet(num_organs=2, in_channels=2, width=0.25).eval()
    rois = torch.randn(3, 2, 3, 8, 10)
    organ_index = torch.tensor([1, 0, 1])
    expected = network(rois, organ_index)

    network.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(rois.to(memory_format=torch.channels_last_3d), organ_index)

    error = (logits.float() - expected).norm() / expected.norm()
    assert error < 0.03

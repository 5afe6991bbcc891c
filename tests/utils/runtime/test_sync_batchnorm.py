"""utils/runtime/sync_batchnorm.py: on one rank it is BatchNorm3d; tests/test_many_processes.py runs it on two."""

import pytest
import torch
from torch import nn

from utils.runtime.sync_batchnorm import SynchronizedBatchNorm3d, convert_sync_batchnorm, uses_sync_batchnorm


def networks():
    """The same one with torch's norms and with ours."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Sequential(nn.BatchNorm3d(4, momentum=0.3), nn.ReLU()))
    nn.init.uniform_(plain[1][0].weight, 0.5, 2)
    nn.init.uniform_(plain[1][0].bias)
    synchronized = nn.Sequential(nn.Conv3d(2, 4, 3), nn.Sequential(nn.BatchNorm3d(4, momentum=0.3), nn.ReLU()))
    synchronized.load_state_dict(plain.state_dict())
    weights = dict(synchronized.named_parameters())
    convert_sync_batchnorm(synchronized, "cpu")
    assert all(weights[name] is weight for name, weight in synchronized.named_parameters())
    return plain, synchronized


def test_outputs_gradients_and_statistics_are_those_of_batch_norm():
    plain, synchronized = networks()
    x = 1 + 2 * torch.randn(2, 2, 5, 7, 6)
    for network in (plain, synchronized):
        network(x).square().sum().backward()
    assert isinstance(synchronized[1][0], SynchronizedBatchNorm3d)
    for ours, theirs in zip(synchronized.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-3)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(synchronized.state_dict()[key], value)
    plain.eval()
    synchronized.eval()
    torch.testing.assert_close(synchronized(x), plain(x))


def test_only_training_needs_all_ranks():
    plain, synchronized = networks()
    assert not uses_sync_batchnorm(plain)
    assert uses_sync_batchnorm(synchronized)
    assert not uses_sync_batchnorm(synchronized.eval())


def test_on_gpus_it_is_torchs():
    plain, _ = networks()
    expected = plain.eval()(torch.ones(2, 2, 5, 7, 6))
    convert_sync_batchnorm(plain, "cuda")
    assert isinstance(plain[1][0], nn.SyncBatchNorm)
    assert plain[1][0].momentum == 0.3
    torch.testing.assert_close(plain.eval()(torch.ones(2, 2, 5, 7, 6)), expected)
    assert uses_sync_batchnorm(plain.train())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept(dtype):
    norm = SynchronizedBatchNorm3d(3)
    assert norm(torch.randn(2, 3, 2, 3, 4).to(dtype)).dtype == dtype

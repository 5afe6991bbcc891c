"""Batch normalization with the statistics of all ranks' samples."""

import torch
from torch import Tensor, nn

from utils.runtime.distributed import sum_over_ranks


class SynchronizedBatchNorm3d(nn.BatchNorm3d):
    """BatchNorm3d over the batches of all connected ranks, for CPUs, where torch's SyncBatchNorm does not run.

    Weights, buffers and evaluation mode are those of BatchNorm3d. A rank with an empty batch still takes part in the
    sums.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Normalize (B, C, D, H, W) features; B may be 0 on some ranks. The statistics are computed in float32."""
        if not self.training:
            return super().forward(features)
        values, axes = features.float(), (0, 2, 3, 4)
        num_elements = values.new_tensor([values.numel() / values.shape[1]])
        sums = sum_over_ranks(torch.cat([values.sum(axes), num_elements]))  # (C + 1,): one all-reduce for both
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = values - mean[:, None, None, None]
        variance = sum_over_ranks(centered.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normalized = centered * scale[:, None, None, None] + self.bias[:, None, None, None]
        return normalized.to(features.dtype)


def convert_sync_batchnorm(network: nn.Module, device_type: str) -> None:
    """Turn every batch norm in a network, in place, into one over all ranks' samples, with the same parameters.

    Args:
        network: contains the layers; it must not be a batch norm itself.
        device_type: "cuda" for torch's SyncBatchNorm, "cpu" for the one above.
    """
    if device_type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.__class__ = SynchronizedBatchNorm3d  # which differs in the forward pass alone


def uses_sync_batchnorm(network: nn.Module) -> bool:
    """Whether all ranks must take part in a forward pass."""
    kinds = (SynchronizedBatchNorm3d, nn.SyncBatchNorm)
    return network.training and any(isinstance(layer, kinds) for layer in network.modules())

"""Heatmap regression loss of SOL-Net.

Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.
"""

from torch import Tensor

from utils.runtime.distributed import mean_count


def heatmap_loss(heatmaps: Tensor, targets: Tensor, known: Tensor, *, peak_weight: float = 0.0) -> Tensor:
    """Weighted mean squared error over the heatmaps of contoured organs, in float32.

    A voxel's weight is 1 + peak_weight * target; the weighted sum is divided by the number of voxels. Peaks are rare:
    in the paper's 40 x 192 x 192 crop (sigma 5 voxels, three slices) a heatmap of zeros has a mean squared error of
    only 1.6e-4. Each unit of `peak_weight` adds 1.0e-4, so that zeros cost 0.1 with a weight of 1000.
    Deviation: the paper's loss has no weight (0).

    Args:
        heatmaps: (B, K, D, H, W) probabilities in 0..1, one channel per small organ.
        targets: as `heatmaps`, Gaussians in 0..1.
        known: (B, K) bool, which small organs are contoured.
        peak_weight: additional weight of a voxel whose target is 1; at least 0.

    Returns:
        Scalar, at least 0; averages over the heatmaps of all ranks. It is 0, with a graph, if no organ is contoured.

    Raises:
        ValueError: the shapes do not match.
    """
    if heatmaps.shape != targets.shape or known.shape != heatmaps.shape[:2]:
        raise ValueError(
            f"heatmaps {tuple(heatmaps.shape)}: expected targets of that shape and known {tuple(heatmaps.shape[:2])}, "
            f"got {tuple(targets.shape)} and {tuple(known.shape)}"
        )
    targets = targets.float()
    errors = (1 + peak_weight * targets) * (heatmaps.float() - targets).square()
    return (errors.mean((2, 3, 4)) * known).sum() / mean_count(known.sum(), heatmaps.device)

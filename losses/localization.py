"""Heatmap regression loss of SOL-Net (Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3)."""

from torch import Tensor

from utils.runtime.distributed import mean_count


def heatmap_loss(heatmaps: Tensor, targets: Tensor, known: Tensor, *, peak_weight: float = 0.0) -> Tensor:
    """Mean squared error over the heatmaps whose organ was contoured, in float32.

    A voxel weighs 1 + peak_weight * target, and the sum is divided by the number of voxels, not of weights. Peaks are
    rare: in the paper's 40 x 192 x 192 crop (sigma 5 voxels, three slices) a network that answers zero everywhere has a
    mean squared error of just 1.6e-4. Each unit of `peak_weight` adds 1.0e-4, so 1000 makes that answer cost 0.1.
    Deviation from the paper: its loss has no weight (0).

    Args:
        heatmaps: (B, K, D, H, W) probabilities, one channel per small organ.
        targets: as `heatmaps`, Gaussians in 0..1.
        known: (B, K) bool, which small organs were contoured.
        peak_weight: additional weight of a voxel where the target is 1.

    Returns:
        Scalar; 0, with a graph, where nothing is known.

    Raises:
        ValueError: shapes do not fit each other.
    """
    if heatmaps.shape != targets.shape or known.shape != heatmaps.shape[:2]:
        raise ValueError(
            f"heatmaps {tuple(heatmaps.shape)} need targets of that shape and known {tuple(heatmaps.shape[:2])}, "
            f"got {tuple(targets.shape)} and {tuple(known.shape)}"
        )
    targets = targets.float()
    errors = (1 + peak_weight * targets) * (heatmaps.float() - targets).square()
    return (errors.mean((2, 3, 4)) * known).sum() / mean_count(int(known.sum()), heatmaps.device)

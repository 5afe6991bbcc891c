"""SOS-Net segments every small organ in its own region of interest, at full resolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks import DenseASPP, DownBlock, SEResidualBlock, UpBlock, make_divisible
from models.convolution import Conv3d, conv3d_he_init
from models.layers import InPlaceReLU
from utils.config.preset import Preset
from utils.runtime.device import copy_to
from utils.runtime.distributed import found_on_any_rank
from utils.runtime.sync_batchnorm import uses_sync_batchnorm


class SOSBranch(nn.Module):
    """Binary segmentation of one small organ in its region of interest (ROI).

    Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3. Deviation: ROI sizes need not be multiples
    of 4; pooling rounds up and the decoder upsamples to the encoder's sizes.

    Args:
        in_channels: channels of the ROI. The paper stacks S-Net's last and first features, heatmap and image; the
            authors' release feeds the image alone.
        width: factor on all channel counts, see `make_divisible`.
    """

    def __init__(self, *, in_channels: int, width: float = 1.0):
        super().__init__()
        channels = (24, 32, 48, 64, 32)
        stem, full, half, quarter, growth_rate = (make_divisible(count, width) for count in channels)

        self.level_full = nn.Sequential(
            conv3d_he_init(in_channels, stem, (1, 3, 3)),
            InPlaceReLU(),
            SEResidualBlock(stem, stem, kernel_size=(1, 3, 3), reduction=4),
            SEResidualBlock(stem, full),
            SEResidualBlock(full, full),
        )
        self.down_half = DownBlock(full, half, pool_z=False)
        self.down_quarter = DownBlock(half, quarter, pool_z=True)
        self.context = DenseASPP(quarter, growth_rate=growth_rate, dilations=(3, 5, 7, 9))
        self.up_half = UpBlock(self.context.out_channels, half, half)
        self.up_full = UpBlock(half, full, full)
        self.head = Conv3d(full, 1, 1)

    def forward(self, roi: Tensor) -> Tensor:
        """Map ROIs (R, in_channels, d, h, w) to logits (R, 1, d, h, w), before sigmoid."""
        y1 = self.level_full(roi)  # (R, 32, d, h, w)
        y2 = self.down_half(y1)  # (R, 48, d, h/2, w/2)
        y4 = self.down_quarter(y2)  # (R, 64, d/2, h/4, w/4)
        context = self.context(y4)  # (R, 192, d/2, h/4, w/4)
        decoded = self.up_half(context, y2)  # (R, 48, d, h/2, w/2)
        return self.head(self.up_full(decoded, y1))  # (R, 1, d, h, w)


class SOSNet(nn.Module):
    """Small-organ segmentation: one branch per small organ, each with its own weights.

    Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3.

    Args:
        num_organs: number of small organs.
        in_channels, width: of a branch.
    """

    def __init__(self, *, num_organs: int, in_channels: int, width: float = 1.0):
        super().__init__()
        self.branches = nn.ModuleList(SOSBranch(in_channels=in_channels, width=width) for _ in range(num_organs))

    @staticmethod
    def organ_weights(preset: Preset) -> tuple[str, tuple[str, ...]]:
        """The keys and the organs of weights that belong to one small organ each."""
        return "branches.", preset.small_organ_names

    def forward(self, rois: Tensor, organ_index: Tensor) -> Tensor:
        """Segment each ROI with the branch of its organ.

        The ROIs of one organ pass its branch as one batch. A branch without ROIs is not run, so its parameters get no
        gradient in that step. With synchronized batch norm it runs on an empty batch if another rank has ROIs for it,
        because every rank must take part.

        Args:
            rois: (R, in_channels, d, h, w), in any order of organs; R may be 0.
            organ_index: (R,) long, index of each ROI's organ among the small organs; on the CPU.

        Returns:
            Logits (R, 1, d, h, w), before sigmoid, in the order of `rois`.

        Raises:
            ValueError: there is not one index per ROI, or an index has no branch.
        """
        if len(organ_index) != len(rois):
            raise ValueError(f"expected one organ index per ROI: {len(rois)} ROIs, {len(organ_index)} indices")
        organs = organ_index.tolist()
        if unknown := sorted(set(organs) - set(range(len(self.branches)))):
            raise ValueError(f"organ_index must be in 0..{len(self.branches) - 1}, got {unknown}")
        used = self._used(organs, rois.device)
        if not used:
            return rois.new_zeros((0, 1, *rois.shape[2:]))
        rows = {organ: [row for row, own in enumerate(organs) if own == organ] for organ in used}
        order = torch.tensor([row for own in rows.values() for row in own], dtype=torch.long)  # of `by_organ` in `rois`
        parts = zip(used, copy_to(order, rois.device).split([len(own) for own in rows.values()]), strict=True)
        by_organ = torch.cat([self.branches[organ](rois.index_select(0, own)) for organ, own in parts])
        return by_organ.index_select(0, copy_to(order.argsort(), rois.device))  # (R, 1, d, h, w)

    def _used(self, organs: Sequence[int], device: torch.device) -> list[int]:
        """Indices of the branches to run, ascending, the same on all ranks."""
        if not uses_sync_batchnorm(self):
            return sorted(set(organs))
        has_rois = torch.tensor([organ in organs for organ in range(len(self.branches))])
        return found_on_any_rank(copy_to(has_rois, device)).nonzero()[:, 0].tolist()  # this alone waits for the ranks

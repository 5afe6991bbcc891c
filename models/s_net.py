"""S-Net, the backbone that segments every organ at (almost) full resolution."""

from typing import NamedTuple

from torch import Tensor, nn

from models.activation_checkpointing import checkpoint_activations
from models.blocks import DenseASPP, DownBlock, SEResidualBlock, UpBlock, make_divisible
from models.convolution import Conv3d, conv3d_he_init
from models.layers import InPlaceReLU
from utils.config.preset import Preset


class SNetOutput(NamedTuple):
    """S-Net's output for the losses, SOL-Net and SOS-Net."""

    logits: Tensor
    """(B, num_classes, D, H, W), before softmax; class 0 is background."""
    features: Tensor
    """(B, C, D, H, W): the decoder's last features; for C see `feature_channels`."""
    stem: Tensor
    """(B, C, D, H, W): the first layer's features."""


def feature_channels(width: float) -> int:
    """Number of channels of S-Net's first and last features."""
    return make_divisible(32, width)


class SNet(nn.Module):
    """Segmentation backbone with two poolings, squeeze-excite residual blocks and a DenseASPP.

    The plane is pooled twice and z once, so that small organs survive; dilations provide the receptive field.

    Gao et al., "FocusNetv2: Imbalanced large and small organ segmentation with adversarial shape constraint for head
    and neck CT images", Medical Image Analysis 67 (2021) 101831, sec. 3. Deviation: sizes need not be multiples of 4;
    pooling rounds up and the decoder upsamples to the encoder's sizes.

    Args:
        num_classes: number of organs plus background.
        in_channels: of the image.
        width: factor on all channel counts, see `make_divisible`.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 1, width: float = 1.0):
        super().__init__()
        full = feature_channels(width)
        half, quarter, growth_rate = (make_divisible(channels, width) for channels in (48, 64, 32))

        self.stem = nn.Sequential(
            conv3d_he_init(in_channels, full, (1, 3, 3)),
            InPlaceReLU(),
            SEResidualBlock(full, full, kernel_size=(1, 3, 3), reduction=4),
        )
        self.down_half = DownBlock(full, half, pool_z=False)
        self.down_quarter = DownBlock(half, quarter, pool_z=True, dilations=(1, 1, 2, 2))
        self.context = DenseASPP(quarter, growth_rate=growth_rate, dilations=(3, 6, 12, 18))
        self.up_half = UpBlock(self.context.out_channels, half, half)
        self.up_full = UpBlock(half, full, full)
        self.head = Conv3d(full, num_classes, 1)

    @staticmethod
    def organ_weights(preset: Preset) -> tuple[str, tuple[str, ...]]:
        """The keys and the organs of weights that belong to one class each, "" for the background."""
        return "head.", ("", *preset.organ_names)

    def forward(self, image: Tensor) -> SNetOutput:
        """Segment all organs.

        Training computes the stem twice instead of keeping three of the largest feature maps; that is a twentieth of
        the work.

        Args:
            image: (B, in_channels, D, H, W), normalized intensities.

        Returns:
            Logits, and the features that SOL-Net and SOS-Net read, all at full resolution.
        """
        x1 = checkpoint_activations(self.stem, self.stem.forward, image)  # (B, 32, D, H, W)
        x2 = self.down_half(x1)  # (B, 48, D, H/2, W/2)
        x4 = self.down_quarter(x2)  # (B, 64, D/2, H/4, W/4)
        context = self.context(x4)  # (B, 192, D/2, H/4, W/4)
        decoded = self.up_half(context, x2)  # (B, 48, D, H/2, W/2)
        features = self.up_full(decoded, x1)  # (B, 32, D, H, W)
        return SNetOutput(logits=self.head(features), features=features, stem=x1)

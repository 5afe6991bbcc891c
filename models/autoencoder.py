"""Shape AutoEncoder: as a discriminator it tells predicted masks of small organs from references by their code."""

import math
from typing import NamedTuple

from torch import Tensor, nn

from models.blocks import make_divisible
from models.convolution import Conv3d, Triple, conv3d_he_init
from models.layers import upsample_to

KERNEL_SIZE = (5, 5, 5)


class ShapeEncoding(NamedTuple):
    """The AutoEncoder's outputs for R masks; the adversarial losses compare all of them."""

    code: Tensor
    """(R, code_length): the latent shape code."""
    feature_1: Tensor
    """(R, 128, d/4, h/4, w/4): the decoder's first features, at least 0."""
    feature_2: Tensor
    """(R, 64, d/2, h/2, w/2): the decoder's second features, at least 0."""
    reconstruction: Tensor
    """(R, 1, d, h, w): reconstructed masks, float32 probabilities in 0..1."""


class ShapeAutoEncoder(nn.Module):
    """Convolutional AutoEncoder of small-organ masks; one network serves all small organs.

    Gao et al., FocusNetv2, Medical Image Analysis 67 (2021) 101831, sec. 3. Deviation: ROI sizes need not be multiples
    of 8; the decoder upsamples to the sizes that the encoder had.

    Args:
        roi_size: (d, h, w) of the masks, in voxels.
        code_length: length of the shape code.
        width: factor on all channel counts, see `make_divisible`; the code length stays.

    Attributes:
        roi_size: the only size that it accepts, because a linear layer computes the code.
    """

    def __init__(self, *, roi_size: Triple, code_length: int = 512, width: float = 1.0):
        super().__init__()
        half, quarter, eighth = (make_divisible(channels, width) for channels in (64, 128, 256))
        self.roi_size = tuple(roi_size)
        self._half_size = _halve(self.roi_size)
        self._quarter_size = _halve(self._half_size)
        bottom_shape = (eighth, *_halve(self._quarter_size))

        self.encoder = nn.Sequential(
            _conv_norm_relu(1, half, stride=2),
            _conv_norm_relu(half, quarter, stride=2),
            _conv_norm_relu(quarter, quarter),
            _conv_norm_relu(quarter, eighth, stride=2),
        )
        self.to_code = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(bottom_shape), code_length))
        self.from_code = nn.Sequential(
            _he_linear(code_length, math.prod(bottom_shape)),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, bottom_shape),
        )
        self.decode_quarter = nn.Sequential(_conv_norm_relu(eighth, quarter), _conv_norm_relu(quarter, quarter))
        self.decode_half = _conv_norm_relu(quarter, half)
        self.head = Conv3d(half, 1, KERNEL_SIZE, padding=2)

    def forward(self, mask: Tensor) -> ShapeEncoding:
        """Encode masks into shape codes and reconstruct them.

        Args:
            mask: (R, 1, d, h, w), floating point: probabilities in 0..1, or reference masks of 0 and 1.

        Returns:
            Codes, the decoder's features and reconstructed probabilities.

        Raises:
            ValueError: the size of the masks is not `roi_size`.
        """
        if tuple(mask.shape[2:]) != self.roi_size:
            raise ValueError(f"expected masks of {self.roi_size} voxels (z, y, x), got {tuple(mask.shape[2:])}")
        code = self.to_code(self.encoder(mask))  # (R, code_length)
        bottom = self.from_code(code)  # (R, 256, d/8, h/8, w/8)
        feature_1 = self.decode_quarter(upsample_to(bottom, self._quarter_size))  # (R, 128, d/4, h/4, w/4)
        feature_2 = self.decode_half(upsample_to(feature_1, self._half_size))  # (R, 64, d/2, h/2, w/2)
        logits = self.head(upsample_to(feature_2, self.roi_size))  # (R, 1, d, h, w)
        return ShapeEncoding(code, feature_1, feature_2, reconstruction=logits.float().sigmoid())


def _halve(size: Triple) -> Triple:
    return tuple((extent + 1) // 2 for extent in size)


def _conv_norm_relu(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        # The norm cancels this bias; it is kept for the parameter count of the authors' architecture.
        conv3d_he_init(in_channels, out_channels, KERNEL_SIZE, stride=stride, bias=True),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(inplace=True),
    )


def _he_linear(in_features: int, out_features: int) -> nn.Linear:
    linear = nn.Linear(in_features, out_features)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    nn.init.zeros_(linear.bias)
    return linear

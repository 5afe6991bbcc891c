"""Networks with fixed weights that segment two organs of the phantom, each painted in a CT number of its own.

They answer the same wherever their grid lies; trained networks do not.
"""

from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from data_preprocess.sources.phantom.source import ORGANS, render_patient, sample_patient
from models.focusnet import FocusNet
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor
from models.pretrained import Model
from models.s_net import SNetOutput
from utils.config.preset import load_preset, preset_from_table, preset_to_table
from utils.imaging.masks import Mask, crop_mask, crop_to_common_box, resample_mask
from utils.io.volumes import Volume
from utils.runtime.device import choose_compute

LARGE, SMALL = "parotid_right", "submandibular_left"
CODES_HU = {LARGE: 1000, SMALL: 2900}
OTHERS_HU = 150
"""The highest HU of everything else."""


def two_organs():
    """The phantom's preset with nothing but a large and a small organ."""
    table = preset_to_table(load_preset("phantom"))
    table["organs"] = {LARGE: table["organs"][LARGE], SMALL: {**table["organs"][SMALL], "small": True}}
    table["left_right_pairs"] = []
    table["grid"] |= {"spacing_zyx_mm": [4.0, 3.5, 3.5], "crop_size_vox": [32, 36, 32], "roi_size_vox": [14, 16, 14]}
    return preset_from_table(table, source="a test")


PRESET = two_organs()


def excess(image, name):
    """Normalized intensity above that of a voxel which is half organ; gives borders with subvoxel precision."""
    half_hu = (CODES_HU[name] + OTHERS_HU) / 2
    return image - (half_hu + PRESET.intensity.shift_hu) / PRESET.intensity.scale_hu


class FixedSNet(nn.Module):
    """Segments dense voxels as the large organ, except near the small organ."""

    def __init__(self):
        super().__init__()
        self.sureness = nn.Parameter(torch.tensor(8.0))

    def forward(self, image):
        near_small = F.max_pool3d(image, 7, stride=1, padding=3) > 1.8
        large = torch.where(near_small, -9.0, self.sureness * excess(image, LARGE))
        logits = torch.cat([torch.zeros_like(image), large, torch.full_like(image, -9.0)], dim=1)
        return SNetOutput(logits=logits, features=image, stem=image)


class FixedSOLNet(nn.Module):
    """Its heatmap is high in the small organ and highest in its center."""

    def forward(self, features):
        return F.avg_pool3d(excess(features, SMALL).clamp(0, 1), 5, stride=1, padding=2)


class FixedSOSNet(nn.Module):
    """Segments the small organ by its intensity in the last channel, the image."""

    def forward(self, rois, organ_index):
        return 4 * excess(rois[:, -1:], SMALL)


def fixed_model() -> Model:
    """FocusNet of the three networks."""
    network = FocusNet(PRESET, s_net=FixedSNet(), sol_net=FixedSOLNet(), sos_net=FixedSOSNet()).eval()
    predictor = OOMFallbackPredictor(Predictor(network, autocast=nullcontext()), choose_compute("cpu", "fp32"))
    return Model(predictor, PRESET, None)


def painted_patient(
    spacing_zyx_mm: tuple[float, float, float], extent_mm: tuple[float, float, float], dilations: int
) -> tuple[np.ndarray, np.ndarray]:
    """CT and label map (D, H, W) of the phantom, whose two organs are dilated and painted.

    Resampling at large voxels changes organs that are not dilated.
    """
    drawn = sample_patient(np.random.default_rng([4, 0]))
    image, label = render_patient(drawn, spacing_zyx_mm, np.random.default_rng(1), extent_mm)
    image = np.minimum(image, OTHERS_HU)
    for name, code in CODES_HU.items():
        grown = ndimage.binary_dilation(label == ORGANS.index(name) + 1, iterations=dilations)
        label[grown] = ORGANS.index(name) + 1
        image[grown] = code
    return image, label


def masks_of(label: Volume) -> dict[str, Mask]:
    """The organs' masks in a label map of `PRESET`."""
    values = {name: PRESET.organ_names.index(name) + 1 for name in CODES_HU}
    return {name: crop_mask(label.array == value, (0, 0, 0), label.geometry) for name, value in values.items()}


def dice_of(masks: dict[str, Mask], expected: dict[str, Mask]) -> dict[str, float]:
    """Per organ, on the grid of the expected masks."""
    scores = {}
    for name, reference in expected.items():
        one, other = crop_to_common_box(reference, resample_mask(masks[name], reference.geometry))
        scores[name] = 2 * np.sum(one & other) / (one.sum() + other.sum())
    return scores

"""Augmentation: one function draws the changes, another applies them in one resampling, on any device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from data_preprocess.dataset import CropSample, ShapeSample
from utils.config.preset import AugmentationSettings, Preset
from utils.imaging.intensity import normalize
from utils.imaging.masks import UNKNOWN_LABEL
from utils.runtime.device import copy_to

Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class AugmentationDraw:
    """The changes of each crop of a batch: tensors on the CPU, (B,) unless another shape is given."""

    rotation_rad: torch.Tensor
    """(B, 3): about z (axial), y (tilt) and x (nod)."""
    zoom: torch.Tensor
    """(B, 3) magnification along z, y, x."""
    mirrored: torch.Tensor
    """bool: left and right are exchanged."""
    intensity_scale: torch.Tensor
    intensity_shift_hu: torch.Tensor
    noise_hu: torch.Tensor
    """Standard deviation of the noise."""
    noise_seed: torch.Tensor
    """int64."""
    roi_jitter: torch.Tensor
    """(B, N, 3) in -1..1: displacement of the organs' boxes in the adversarial stage, relative to the largest one."""


class Batch(NamedTuple):
    """The input of a training step: on the device, but for numbers by which the host chooses small organs' boxes."""

    image: torch.Tensor
    """(B, 1, D, H, W) float32, normalized."""
    label: torch.Tensor
    """(B, D, H, W) uint8; with pseudo-labels, also `UNKNOWN_LABEL`."""
    present: torch.Tensor
    """(B, N) bool: organs contoured; on the CPU."""
    labeled: torch.Tensor
    """(B, N) bool: organs that are contoured or have a pseudo-label in `label`."""
    centers_vox: torch.Tensor
    """(B, N, 3) float32 in voxels of the crop; NaN where not contoured; on the CPU."""
    roi_jitter: torch.Tensor
    """As in `AugmentationDraw`, on the CPU."""


def draw_augmentation(
    settings: AugmentationSettings, seeds: Sequence[tuple[int, ...]], num_organs: int
) -> AugmentationDraw:
    """Draw the changes of a batch; each sample's are a function of its seed alone, whatever else is in the batch."""
    draws = [_draw_one(settings, seed, num_organs) for seed in seeds]
    return AugmentationDraw(**{name: torch.stack([draw[name] for draw in draws]) for name in draws[0]})


def _draw_one(settings: AugmentationSettings, seed: tuple[int, ...], num_organs: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))

    def uniform(low: float, high: float, *size: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(size, generator=generator)

    axial, tilt = math.radians(settings.rotation_axial_deg), math.radians(settings.rotation_tilt_deg)
    in_plane = uniform(*settings.zoom_in_plane, 1)
    return {
        "rotation_rad": torch.cat([uniform(-axial, axial, 1), uniform(-tilt, tilt, 2)]),
        "zoom": torch.cat([uniform(*settings.zoom_z, 1), in_plane, in_plane]),
        "mirrored": uniform(0, 1) < settings.mirror_probability,
        "intensity_scale": uniform(1 - settings.intensity_scale, 1 + settings.intensity_scale),
        "intensity_shift_hu": uniform(-settings.intensity_shift_hu, settings.intensity_shift_hu),
        "noise_hu": uniform(0, settings.noise_hu),
        "noise_seed": torch.randint(2**62, (), generator=generator),
        "roi_jitter": uniform(-1, 1, num_organs, 3),
    }


def padded_patch_size(crop_size_vox: Size, settings: AugmentationSettings, spacing_zyx_mm: tuple[float, ...]) -> Size:
    """Size of a box that contains the source of every crop, whatever is drawn from `settings`.

    It is odd where the crop's size is odd, and even where it is even: an unchanged crop then consists of the voxels
    themselves, not of values halfway between them.
    """
    sin_axial = math.sin(math.radians(settings.rotation_axial_deg))
    sin_tilt = math.sin(math.radians(settings.rotation_tilt_deg))
    tilted, turned = sin_tilt * (1 + sin_axial), sin_axial + sin_tilt**2  # bounds of the rotation matrix's entries
    reach = torch.tensor([[1, tilted, tilted], [tilted, 1, turned], [tilted, turned, 1]])
    spacing = torch.tensor(spacing_zyx_mm)
    zoom_min = torch.tensor([settings.zoom_z[0], settings.zoom_in_plane[0], settings.zoom_in_plane[0]])
    extent_mm = reach @ (torch.tensor(crop_size_vox) * spacing / zoom_min)
    sizes = [math.ceil(n) for n in (extent_mm / spacing).tolist()]
    return tuple(n + (n - crop) % 2 for n, crop in zip(sizes, crop_size_vox, strict=True))


def voxel_matrices(draw: AugmentationDraw, spacing_zyx_mm: tuple[float, ...]) -> torch.Tensor:
    """(B, 3, 3) linear maps (z, y, x) from crop voxels to source voxels, both relative to the center of their box.

    Rotation and zoom act in millimeters, so that anisotropic voxels do not cause shear.
    """
    mirror = torch.ones_like(draw.zoom)
    mirror[:, 2] = torch.where(draw.mirrored, -1.0, 1.0)
    rotation = _rotation(draw.rotation_rad)
    in_mm = rotation @ torch.diag_embed(mirror / draw.zoom)
    spacing = torch.tensor(spacing_zyx_mm, dtype=torch.float32)
    return in_mm * spacing[None, None, :] / spacing[None, :, None]


def resample_affine(volume: torch.Tensor, matrices: torch.Tensor, size: Size, mode: str) -> torch.Tensor:
    """Sample a box at the center of each volume.

    Args:
        volume: (B, C, D, H, W) float.
        matrices: (B, 3, 3) from `voxel_matrices`, on the CPU or the volumes' device.
        size: (d, h, w) of the result.
        mode: "bilinear" (trilinear in 3-D) or "nearest".

    Returns:
        (B, C, d, h, w); outside of the volume its border is repeated.
    """
    size_half = matrices.new_tensor([(n - 1) / 2 for n in size])
    source_half = matrices.new_tensor([max(n - 1, 1) / 2 for n in volume.shape[2:]])
    normalized = matrices * size_half[None, None, :] / source_half[None, :, None]
    theta = F.pad(normalized.flip(1, 2), (0, 1))  # grid_sample's order is (x, y, z); no translation
    theta = copy_to(theta, volume.device).to(volume.dtype)
    grid = F.affine_grid(theta, [len(volume), volume.shape[1], *size], align_corners=True)
    return F.grid_sample(volume, grid, mode=mode, padding_mode="border", align_corners=True)


def apply_augmentation(sample: CropSample, draw: AugmentationDraw, preset: Preset) -> Batch:
    """Apply a draw to a collated batch of crops with boxes of `padded_patch_size`, on the volumes' device.

    In mirrored crops the left and right organs are swapped in labels, `present`, `labeled` and centers.
    """
    device, size = sample.image_hu.device, preset.grid.crop_size_vox
    matrices = voxel_matrices(draw, preset.grid.spacing_zyx_mm)
    image_hu = resample_affine(sample.image_hu[:, None].float(), matrices, size, "bilinear")
    label = resample_affine(sample.label[:, None].float(), matrices, size, "nearest")[:, 0].byte()
    centers = _transform_centers(sample.centers_vox, matrices, sample.label.shape[1:], size)
    mirrored, partner = draw.mirrored, torch.tensor(preset.mirrored_organs)
    label_partner = torch.arange(UNKNOWN_LABEL + 1, dtype=torch.uint8)
    label_partner[1 : len(partner) + 1] = (partner + 1).byte()
    swapped = copy_to(label_partner, device)[label.long()]
    labeled = torch.where(mirrored[:, None], sample.labeled[:, partner], sample.labeled)
    return Batch(
        image=_change_intensity(image_hu, draw, preset),
        label=torch.where(copy_to(mirrored, device)[:, None, None, None], swapped, label),
        present=torch.where(mirrored[:, None], sample.present[:, partner], sample.present),
        labeled=copy_to(labeled, device),
        centers_vox=torch.where(mirrored[:, None, None], centers[:, partner], centers),
        roi_jitter=draw.roi_jitter,
    )


def augment_crops(sample: CropSample, preset: Preset, seed: int) -> Batch:
    """Draw the changes of a collated batch of crops and apply them."""
    return apply_augmentation(sample, _draw_for(sample, preset, seed), preset)


def augment_shapes(sample: ShapeSample, preset: Preset, seed: int) -> torch.Tensor:
    """Change collated masks of small organs by geometry alone: (B, 1, d, h, w) float32, 0 or 1, of the ROI size."""
    matrices = voxel_matrices(_draw_for(sample, preset, seed), preset.grid.spacing_zyx_mm)
    return resample_affine(sample.mask[:, None].float(), matrices, preset.grid.roi_size_vox, "nearest")


def _draw_for(sample: CropSample | ShapeSample, preset: Preset, seed: int) -> AugmentationDraw:
    seeds = [(seed, index) for index in sample.index.tolist()]
    return draw_augmentation(preset.augmentation, seeds, len(preset.organs))


def _change_intensity(image_hu: torch.Tensor, draw: AugmentationDraw, preset: Preset) -> torch.Tensor:
    def per_sample(values: torch.Tensor) -> torch.Tensor:
        return copy_to(values, image_hu.device).reshape(-1, 1, 1, 1, 1)

    generator = torch.Generator(image_hu.device)
    noise = torch.empty_like(image_hu)
    for row, seed in zip(noise, draw.noise_seed.tolist(), strict=True):
        row.normal_(generator=generator.manual_seed(seed))
    image_hu = image_hu + per_sample(draw.intensity_shift_hu) + noise * per_sample(draw.noise_hu)
    return normalize(image_hu, preset.intensity) * per_sample(draw.intensity_scale)


def _transform_centers(centers: torch.Tensor, matrices: torch.Tensor, source_size: Size, size: Size) -> torch.Tensor:
    source_middle = centers.new_tensor([(n - 1) / 2 for n in source_size])
    middle = centers.new_tensor([(n - 1) / 2 for n in size])
    inverse = torch.linalg.inv(matrices)
    return torch.einsum("bij,bkj->bki", inverse, centers - source_middle) + middle


def _rotation(angles_rad: torch.Tensor) -> torch.Tensor:
    """(B, 3, 3) rotation about z, then y, then x; axes (z, y, x)."""
    rotation = torch.eye(3).expand(len(angles_rad), 3, 3)
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        cos, sin = angles_rad[:, axis].cos(), angles_rad[:, axis].sin()
        plane = torch.eye(3).repeat(len(angles_rad), 1, 1)
        plane[:, first, first], plane[:, first, second] = cos, -sin
        plane[:, second, first], plane[:, second, second] = sin, cos
        rotation = plane @ rotation
    return rotation

"""augment.py: geometry in mm, left and right, centers, margins, intensity."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from data_preprocess.augment import (
    AugmentationDraw,
    apply_augmentation,
    augment_crops,
    augment_shapes,
    draw_augmentation,
    padded_patch_size,
    resample_affine,
    voxel_matrices,
)
from data_preprocess.dataset import CropSample, ShapeSample
from utils.config.preset import AugmentationSettings
from utils.imaging.masks import UNKNOWN_LABEL

NUM_ORGANS = 9
PAROTID_LEFT, PAROTID_RIGHT = 5, 6
SPACING = (3.0, 2.0, 1.5)
UNCHANGED = AugmentationSettings(
    zoom_z=(1.0, 1.0),
    zoom_in_plane=(1.0, 1.0),
    rotation_axial_deg=0.0,
    rotation_tilt_deg=0.0,
    mirror_probability=0.0,
    intensity_scale=0.0,
    intensity_shift_hu=0.0,
    noise_hu=0.0,
)


def draw(*, rotation_deg=(0.0, 0.0, 0.0), zoom=(1.0, 1.0, 1.0), mirrored=(False, False), shift_hu=0.0, noise_hu=0.0):
    batch = len(mirrored)
    return AugmentationDraw(
        rotation_rad=torch.deg2rad(torch.tensor([rotation_deg] * batch)),
        zoom=torch.tensor([zoom] * batch),
        mirrored=torch.tensor(mirrored),
        intensity_scale=torch.ones(batch),
        intensity_shift_hu=torch.full((batch,), shift_hu),
        noise_hu=torch.full((batch,), noise_hu),
        noise_seed=torch.arange(batch) + 7,
        roi_jitter=torch.zeros(batch, NUM_ORGANS, 3),
    )


def random_sample(size, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return CropSample(
        image_hu=torch.from_numpy(rng.integers(-900, 900, (batch, *size)).astype(np.int16)),
        label=torch.from_numpy(rng.integers(0, NUM_ORGANS + 1, (batch, *size)).astype(np.uint8)),
        present=torch.from_numpy(rng.random((batch, NUM_ORGANS)) < 0.7),
        labeled=torch.from_numpy(rng.random((batch, NUM_ORGANS)) < 0.8),
        centers_vox=torch.from_numpy(rng.uniform(0, size, (batch, NUM_ORGANS, 3)).astype(np.float32)),
        case_id=[f"case_{i}" for i in range(batch)],
        index=torch.arange(batch),
    )


def ball(size, radius_mm, offset_mm=(0.0, 0.0, 0.0)):
    """bool (D, H, W), about the middle plus an offset."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, SPACING, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z - offset_mm[0]) ** 2 + (y - offset_mm[1]) ** 2 + (x - offset_mm[2]) ** 2 <= radius_mm**2


def voxels_of_spots(volume, draw_):
    """Resample one volume and return the voxels, from the middle, that are set."""
    matrices = voxel_matrices(draw_, SPACING)[:1]
    out = resample_affine(volume[None, None], matrices, volume.shape, "nearest")[0, 0]
    return (out.nonzero() - (torch.tensor(volume.shape) - 1) / 2).tolist()


@pytest.mark.parametrize("margin", [(0, 0, 0), (6, 4, 2)])
def test_no_change_returns_the_middle_of_the_box(margin, tiny_preset):
    crop = tiny_preset.grid.crop_size_vox
    sample = random_sample(np.add(crop, margin))
    batch = apply_augmentation(sample, draw(), tiny_preset)

    middle = tuple(slice(m // 2, m // 2 + n) for m, n in zip(margin, crop, strict=True))
    assert torch.equal(batch.label, sample.label[:, *middle])
    expected = (sample.image_hu[:, *middle].float() + 100) / 1000
    torch.testing.assert_close(batch.image[:, 0], expected, atol=1e-5, rtol=0)
    assert torch.equal(batch.present, sample.present)
    torch.testing.assert_close(batch.centers_vox, sample.centers_vox - torch.tensor(margin) / 2, atol=1e-5, rtol=0)
    assert batch.image.dtype == torch.float32
    assert batch.label.dtype == torch.uint8


def test_box_and_crop_are_both_even_or_both_odd(tiny_preset):
    for crop in itertools.product((7, 8), (15, 16), (24, 25)):
        box = padded_patch_size(crop, tiny_preset.augmentation, SPACING)
        assert all((b - c) % 2 == 0 and b > c for b, c in zip(box, crop, strict=True))


def test_no_augmentation_needs_no_margin():
    assert padded_patch_size((8, 16, 13), UNCHANGED, SPACING) == (8, 16, 13)
    assert padded_patch_size((8, 16, 12), replace(UNCHANGED, zoom_z=(0.8, 1.0)), SPACING) == (10, 16, 12)


def test_mirroring_swaps_sides_everywhere(tiny_preset):
    crop = tiny_preset.grid.crop_size_vox
    label = torch.zeros(2, *crop, dtype=torch.uint8)
    label[:, 2, 3, 1] = PAROTID_RIGHT + 1
    label[:, 4, 5, 6] = 1
    centers = torch.full((2, NUM_ORGANS, 3), torch.nan)
    centers[:, PAROTID_RIGHT], centers[:, 0] = torch.tensor([2.0, 3.0, 1.0]), torch.tensor([4.0, 5.0, 6.0])
    present = torch.zeros(2, NUM_ORGANS, dtype=torch.bool)
    present[:, [0, PAROTID_RIGHT]] = True
    sample = random_sample(crop)._replace(label=label, centers_vox=centers, present=present)
    batch = apply_augmentation(sample, draw(mirrored=(False, True)), tiny_preset)

    assert torch.equal(batch.label[0], label[0])
    assert batch.label[1].nonzero().tolist() == [[2, 3, 10], [4, 5, 5]]  # x = 11 - x, 12 voxels wide
    assert batch.label[1, 2, 3, 10] == PAROTID_LEFT + 1
    assert batch.label[1, 4, 5, 5] == 1
    assert batch.present[1].nonzero().flatten().tolist() == [0, PAROTID_LEFT]
    torch.testing.assert_close(batch.centers_vox[1, PAROTID_LEFT], torch.tensor([2.0, 3.0, 10.0]))
    assert batch.centers_vox[1, PAROTID_RIGHT].isnan().all()
    torch.testing.assert_close(batch.image[1, 0], (sample.image_hu[1].flip(-1) + 100) / 1000, atol=1e-5, rtol=0)


def test_mirroring_swaps_pseudo_labels_and_keeps_unknown_voxels(tiny_preset):
    crop = tiny_preset.grid.crop_size_vox
    label = torch.zeros(2, *crop, dtype=torch.uint8)
    label[:, 2, 3, 1], label[:, 2, 3, 2] = PAROTID_RIGHT + 1, UNKNOWN_LABEL
    labeled = torch.zeros(2, NUM_ORGANS, dtype=torch.bool)
    labeled[:, PAROTID_RIGHT] = True
    sample = random_sample(crop)._replace(label=label, labeled=labeled)
    batch = apply_augmentation(sample, draw(mirrored=(False, True)), tiny_preset)
    assert batch.label[0, 2, 3, 1:3].tolist() == [PAROTID_RIGHT + 1, UNKNOWN_LABEL]
    assert batch.label[1, 2, 3, 9:11].tolist() == [UNKNOWN_LABEL, PAROTID_LEFT + 1]
    assert batch.labeled.nonzero().tolist() == [[0, PAROTID_RIGHT], [1, PAROTID_LEFT]]


def test_mirroring_twice_changes_nothing(tiny_preset):
    sample = random_sample(tiny_preset.grid.crop_size_vox)
    once = apply_augmentation(sample, draw(mirrored=(True, True)), tiny_preset)
    back = sample._replace(image_hu=once.image[:, 0] * 1000 - 100, label=once.label, present=once.present)
    back = back._replace(centers_vox=once.centers_vox)
    twice = apply_augmentation(back, draw(mirrored=(True, True)), tiny_preset)
    assert torch.equal(twice.label, sample.label)
    assert torch.equal(twice.present, sample.present)
    torch.testing.assert_close(twice.centers_vox, sample.centers_vox)
    torch.testing.assert_close(twice.image[:, 0], (sample.image_hu.float() + 100) / 1000, atol=1e-5, rtol=0)


def test_quarter_turn_keeps_millimeters():
    volume = torch.zeros(9, 21, 21)
    volume[4, 10, 10 + 4] = 1  # 6 mm to the left
    (spot,) = voxels_of_spots(volume, draw(rotation_deg=(90.0, 0.0, 0.0)))
    assert spot == [0, 3, 0]  # 6 mm to the back
    volume = torch.zeros(9, 21, 21)
    volume[4 + 2, 10, 10] = 1  # 6 mm up
    assert voxels_of_spots(volume, draw(rotation_deg=(0.0, 0.0, -90.0))) == [[0, 3, 0]]
    spots = voxels_of_spots(volume, draw(rotation_deg=(0.0, -90.0, 0.0)))
    assert np.mean(spots, axis=0).tolist() == [0, 0, 4]  # a slice is two voxels thick along x


def test_zoom_moves_spots_outwards():
    volume = torch.zeros(9, 21, 21)
    volume[4 + 1, 10, 10 + 3] = 1
    spots = voxels_of_spots(volume, draw(zoom=(3.0, 1.0, 2.0)))
    assert np.mean(spots, axis=0).tolist() == pytest.approx([3, 0, 6], abs=0.5)


def test_a_ball_stays_a_ball():
    size, radius_mm = (31, 45, 59), 30.0
    volume = torch.from_numpy(ball(size, radius_mm)).float()
    for zoom in (0.8, 1.2):
        matrices = voxel_matrices(draw(rotation_deg=(35.0, -20.0, 50.0), zoom=(zoom,) * 3), SPACING)[:1]
        out = resample_affine(volume[None, None], matrices, size, "nearest")[0, 0]
        points_mm = (out.nonzero().double() - (torch.tensor(size) - 1) / 2) * torch.tensor(SPACING)
        covariance = points_mm.T @ points_mm / len(points_mm)
        expected = (radius_mm * zoom) ** 2 / 5  # second moment of a solid ball
        torch.testing.assert_close(covariance.diag(), torch.full((3,), expected).double(), rtol=0.02, atol=0)
        assert (covariance - covariance.diag().diag()).abs().max() < 0.02 * expected


def test_rotations_are_rigid_in_millimeters():
    matrices = voxel_matrices(draw(rotation_deg=(30.0, 20.0, -40.0), mirrored=(False, True)), SPACING).double()
    scale = torch.tensor(SPACING).diag().double()
    in_mm = scale @ matrices @ scale.inverse()
    torch.testing.assert_close(in_mm @ in_mm.mT, torch.eye(3).double().expand(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(in_mm.det(), torch.tensor([1.0, -1.0]).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_centers_follow_their_organs(mirrored, tiny_preset):
    size = (25, 35, 45)
    preset = replace(tiny_preset, grid=replace(tiny_preset.grid, crop_size_vox=(23, 31, 41)))
    label = torch.zeros(1, *size, dtype=torch.uint8)
    label[0][torch.from_numpy(ball(size, 8.0, (4.0, -9.0, 7.0)))] = PAROTID_LEFT + 1
    center = label[0].nonzero().float().mean(dim=0)
    sample = random_sample(size, batch=1)._replace(label=label, centers_vox=center.expand(1, NUM_ORGANS, 3))
    change = draw(rotation_deg=(20.0, 10.0, -15.0), zoom=(1.1, 1.2, 0.9), mirrored=(mirrored,))
    batch = apply_augmentation(sample, change, preset)

    organ = PAROTID_RIGHT if mirrored else PAROTID_LEFT
    centroid = (batch.label[0] == organ + 1).nonzero().float().mean(dim=0)
    torch.testing.assert_close(batch.centers_vox[0, organ], centroid, atol=0.15, rtol=0)


def test_unknown_centers_stay_unknown(tiny_preset):
    sample = random_sample((12, 20, 18))
    sample.centers_vox[0, 3] = torch.nan
    batch = apply_augmentation(sample, draw(rotation_deg=(5.0, 3.0, -2.0), zoom=(0.9, 1.1, 1.0)), tiny_preset)
    assert batch.centers_vox[0, 3].isnan().all()
    assert batch.centers_vox.isnan().sum() == 3


def test_no_draw_looks_beyond_the_margin():
    settings = replace(
        UNCHANGED, zoom_z=(0.8, 1.2), zoom_in_plane=(0.7, 1.1), rotation_axial_deg=20.0, rotation_tilt_deg=10.0
    )
    crop = (8, 16, 13)
    box = padded_patch_size(crop, settings, SPACING)
    world = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, *np.add(box, 8))).astype(np.float32))
    inner = world[..., 4:-4, 4:-4, 4:-4]
    for signs in itertools.product((-1, 0, 1), repeat=3):
        change = draw(rotation_deg=tuple(np.multiply(signs, (20.0, 10.0, 10.0))), zoom=(0.8, 0.7, 0.7))
        matrices = voxel_matrices(change, SPACING)[:1]
        resampled, expected = (resample_affine(volume, matrices, crop, "bilinear") for volume in (inner, world))
        torch.testing.assert_close(resampled, expected, atol=1e-4, rtol=0)


def test_draws_are_a_function_of_the_seed_and_lie_in_range(tiny_preset):
    settings = tiny_preset.augmentation
    first, again, other = (
        draw_augmentation(settings, [(seed, i) for i in range(500)], NUM_ORGANS) for seed in (3, 3, 4)
    )
    for name, values in vars(first).items():
        assert np.array_equal(values, getattr(again, name)), name
        assert not np.array_equal(values, getattr(other, name)), name
    degrees = torch.rad2deg(first.rotation_rad)
    assert 4.8 < degrees[:, 0].abs().max() <= 5
    assert 2.9 < degrees[:, 1:].abs().max() <= 3
    assert first.zoom.min() >= 0.9
    assert first.zoom.max() <= 1.1
    assert torch.equal(first.zoom[:, 1], first.zoom[:, 2])
    assert 0.4 < first.mirrored.float().mean() < 0.6
    assert first.intensity_shift_hu.abs().max() <= 20
    assert (first.intensity_scale - 1).abs().max() <= 0.1
    assert first.noise_hu.min() >= 0
    assert first.roi_jitter.shape == (500, NUM_ORGANS, 3)
    assert first.roi_jitter.abs().max() <= 1
    assert float(first.roi_jitter.std()) == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_mirror_probability_is_obeyed(probability):
    mirrored = draw_augmentation(
        replace(UNCHANGED, mirror_probability=probability), [(0, i) for i in range(100)], NUM_ORGANS
    ).mirrored
    assert mirrored.float().mean() == probability


def test_batched_equals_one_by_one(tiny_preset):
    """Noise and boxes included: a sample's change is its own, whatever batch or rank it comes in."""
    sample = random_sample(
        padded_patch_size(tiny_preset.grid.crop_size_vox, tiny_preset.augmentation, SPACING), batch=3
    )
    together = augment_crops(sample, tiny_preset, 5)
    for i in range(3):
        alone = augment_crops(CropSample(*(part[i : i + 1] for part in sample)), tiny_preset, 5)
        assert torch.equal(alone.label[0], together.label[i])
        assert torch.equal(alone.roi_jitter[0], together.roi_jitter[i])
        torch.testing.assert_close(alone.image[0], together.image[i])
        torch.testing.assert_close(alone.centers_vox[0], together.centers_vox[i])


def test_intensity_by_hand(tiny_preset):
    sample = random_sample(tiny_preset.grid.crop_size_vox)
    sample.image_hu[:] = 0
    sample.image_hu[:, 0] = -3000
    change = replace(draw(shift_hu=50.0), intensity_scale=torch.tensor([1.0, 1.1]))
    image = apply_augmentation(sample, change, tiny_preset).image
    torch.testing.assert_close(image[0, :, 1:], torch.full_like(image[0, :, 1:], 0.15))
    torch.testing.assert_close(image[1, :, 1:], torch.full_like(image[1, :, 1:], 0.165))
    torch.testing.assert_close(image[0, :, 0], torch.full_like(image[0, :, 0], -0.9))  # clipped at -1000 HU


def test_noise_has_the_drawn_deviation_and_repeats(tiny_preset):
    sample = random_sample(tiny_preset.grid.crop_size_vox)
    sample.image_hu[:] = 0
    first, again = (apply_augmentation(sample, draw(noise_hu=20.0), tiny_preset).image for _ in range(2))
    assert torch.equal(first, again)
    assert float(first.std()) == pytest.approx(0.020, rel=0.05)
    assert float(first.mean()) == pytest.approx(0.1, abs=0.002)
    assert not torch.equal(first[0], first[1])


def test_crop_augmentation_is_a_function_of_the_seed(tiny_preset):
    size = padded_patch_size((8, 16, 12), tiny_preset.augmentation, SPACING)
    first, again, other = (augment_crops(random_sample(size), tiny_preset, seed) for seed in (1, 1, 2))
    assert first.image.shape == (2, 1, 8, 16, 12)
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)
    assert math.isfinite(float(first.image.sum()))


def test_shape_augmentation_of_a_ball(tiny_preset):
    size = padded_patch_size(tiny_preset.grid.roi_size_vox, tiny_preset.augmentation, SPACING)
    mask = torch.from_numpy(np.stack([ball(size, 5.0)] * 2)).to(torch.uint8)
    mask[1, :, :, 0] = 1  # in the margin only
    sample = ShapeSample(mask, torch.tensor([0, 1]), ["case_0", "case_1"], torch.tensor([0, 1]))
    changed = augment_shapes(sample, tiny_preset, 1)
    assert changed.shape == (2, 1, 4, 12, 8)
    assert set(changed.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(changed, augment_shapes(sample, tiny_preset, 1))

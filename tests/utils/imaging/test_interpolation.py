"""utils/imaging/interpolation.py: linear interpolation, edge to edge."""

import numpy as np
import pytest
import torch

from data_preprocess.resample import resample_image
from utils.imaging.interpolation import resize_linear


def whole(*size):
    return tuple(slice(0, n) for n in size)


def test_doubling_by_hand():
    volume = torch.tensor([10.0, 20.0, 40.0]).reshape(1, 1, 3)
    resized = resize_linear(volume, whole(1, 1, 6), (1.0, 1.0, 0.5))
    # voxel i lies at (i + 0.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25, ...
    assert resized.flatten().tolist() == [10.0, 12.5, 17.5, 25.0, 35.0, 40.0]


def test_halving_by_hand():
    volume = torch.tensor([0.0, 10.0, 20.0, 60.0]).reshape(1, 4, 1)
    assert resize_linear(volume, whole(1, 2, 1), (1.0, 2.0, 1.0)).flatten().tolist() == [5.0, 40.0]


def test_the_same_grid_is_left_alone():
    volume = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(resize_linear(volume, whole(3, 4, 5), (1.0, 1.0, 1.0)), volume, rtol=0, atol=0)


def test_a_linear_ramp_stays_a_ramp_inside():
    ramp = torch.arange(10.0).reshape(1, 1, 10).expand(3, 4, 10)
    resized = resize_linear(ramp, whole(3, 4, 17), (1.0, 1.0, 0.6))
    expected = ((torch.arange(17) + 0.5) * 0.6 - 0.5).clamp(0, 9)
    torch.testing.assert_close(resized, expected.expand(3, 4, 17))


@pytest.mark.parametrize("new_spacing", [(2.0, 0.9, 0.6), (1.3, 1.5, 0.75)])
def test_it_agrees_with_the_resampling_of_cases(new_spacing):
    """To finer grids, where the resampling of cases does not smooth."""
    spacing, size = (2.5, 1.5, 1.0), (5, 7, 6)
    array = np.random.default_rng(0).normal(size=size).astype(np.float32)
    expected = resample_image(array, spacing, new_spacing)
    step = tuple(new / old for new, old in zip(new_spacing, spacing, strict=True))
    resized = resize_linear(torch.from_numpy(array), whole(*expected.shape), step)
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("step", [(0.6, 1.0, 1.7), (1.0, 0.5, 1.0)])
def test_a_box_is_that_part_of_the_whole(step):
    volume, size, box = torch.randn(2, 6, 7, 8), (9, 7, 5), (slice(2, 9), slice(1, 5), slice(0, 3))
    resized = resize_linear(volume, whole(*size), step)
    torch.testing.assert_close(resize_linear(volume, box, step), resized[:, *box], rtol=0, atol=0)

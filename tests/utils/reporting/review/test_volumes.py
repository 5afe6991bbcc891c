"""volumes.py: what a browser unpacks is the CT, within the step that the page names."""

import base64
import gzip

import numpy as np
import pytest

from utils.reporting.review import volumes
from utils.reporting.review.volumes import join_factor, join_image, join_labels, pack_bytes, pack_image


def unpack(text):
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype=np.uint8)


def restore(packed, shape):
    """What the page does with the packed image, voxel by voxel."""
    low, high = unpack(packed.text).astype(int).reshape(2, *shape)
    folded = low + 256 * high
    remainders = (folded >> 1) ^ -(folded & 1)
    values = np.zeros(shape, dtype=int)
    for z, y, x in np.ndindex(*shape):
        left = values[z, y, x - 1] if x else 0
        above = values[z, y - 1, x] if y else 0
        diagonal = values[z, y - 1, x - 1] if x and y else 0
        values[z, y, x] = remainders[z, y, x] + sorted((left, above, left + above - diagonal))[1]
    return -1000 + packed.step_hu * values


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(-1500, 4000, (3, 5, 7)).astype(np.int16)


def test_a_packed_image_is_the_image_with_its_ends_cut_off(noise):
    packed = pack_image(noise)
    assert packed.step_hu == 1
    np.testing.assert_array_equal(restore(packed, noise.shape), np.clip(noise, -1000, 3071))


def test_an_image_too_large_for_a_page_is_rounded_to_the_finest_step_that_fits(noise, monkeypatch):
    soft = np.random.default_rng(0).normal(40, 20, (2, 30, 40)).round().astype(np.int16)
    size = len(base64.b64decode(pack_image(soft).text))
    monkeypatch.setattr(volumes, "MAX_IMAGE_BYTES", 0.6 * size)
    packed = pack_image(soft)
    assert packed.step_hu in (4, 8)
    assert len(base64.b64decode(packed.text)) < 0.75 * size  # so few voxels need an own table of codes
    difference = restore(packed, soft.shape) - soft
    assert 0 < np.abs(difference).max() <= packed.step_hu // 2
    monkeypatch.setattr(volumes, "MAX_IMAGE_BYTES", 0)
    assert pack_image(noise).step_hu == 16


def test_packed_labels_are_the_labels():
    labels = np.random.default_rng(0).integers(0, 9, (3, 5, 7)).astype(np.uint8)
    np.testing.assert_array_equal(unpack(pack_bytes(labels)).reshape(labels.shape), labels)
    np.testing.assert_array_equal(unpack(pack_bytes(labels[:, ::2, 1:])).reshape(3, 3, 6), labels[:, ::2, 1:])


@pytest.mark.parametrize(
    ("size", "spacing", "factor"),
    [
        ((100, 300, 300), (2.5, 0.977, 0.977), 1),
        ((100, 300, 300), (2.5, 0.8, 0.8), 1),
        ((100, 300, 300), (2.5, 0.7, 0.7), 2),
        ((100, 300, 300), (0.5, 0.49, 0.49), 2),
        ((50, 300, 300), (2.5, 0.3, 0.3), 4),
        ((200, 512, 512), (1.0, 1.0, 1.0), 2),
    ],
)
def test_pixels_are_joined_to_a_millimeter_or_more_and_slices_are_not(size, spacing, factor):
    assert join_factor(size, spacing) == factor


def test_joined_pixels_have_the_mean_of_the_image_and_the_most_frequent_label():
    image = np.array([[[0, 2, 10], [4, 6, 20]]], dtype=np.int16)
    np.testing.assert_array_equal(join_image(image, 2), [[[3, 15]]])
    labels = np.array([[[1, 1, 0, 0, 3], [2, 1, 0, 2, 3], [0, 0, 0, 2, 0], [0, 1, 2, 0, 0]]], dtype=np.uint8)
    np.testing.assert_array_equal(join_labels(labels, 2), [[[1, 0, 3], [0, 2, 0]]])
    assert join_labels(labels, 1) is labels

"""Tests of models/roi.py."""

import numpy as np
import pytest
import torch

from models.roi import Rois, find_peaks, group_rois_into_windows, read_peaks, roi_corners

VOLUME_SIZE = (5, 7, 11)
ROI_SIZE = (2, 3, 4)


def numbered_volumes(num_samples, num_channels):
    """Build volumes whose values are the digits sample, channel, z, y, x, x: every voxel tells where it is."""
    sample, channel, z, y, x = torch.meshgrid(
        *(torch.arange(extent) for extent in (num_samples, num_channels, *VOLUME_SIZE)), indexing="ij"
    )
    return (((sample * 10 + channel) * 10 + z) * 10 + y) * 100 + x


def test_peaks_are_decoded_where_height_differs_from_width():
    heatmaps = torch.zeros(2, 2, *VOLUME_SIZE)
    peaks = {(0, 0): (4, 6, 10), (0, 1): (1, 2, 9), (1, 0): (0, 0, 0), (1, 1): (3, 5, 1)}
    for number, (heatmap, voxel) in enumerate(peaks.items()):
        heatmaps[(*heatmap, *voxel)] = 0.25 * (number + 1)

    position, value = find_peaks(heatmaps)

    assert position.dtype == torch.long
    assert position.tolist() == [[[4, 6, 10], [1, 2, 9]], [[0, 0, 0], [3, 5, 1]]]
    assert value.tolist() == [[0.25, 0.5], [0.75, 1.0]]


def test_peaks_of_an_empty_heatmap_lie_inside_it():
    position, value = find_peaks(torch.zeros(1, 1, *VOLUME_SIZE))

    assert (position >= 0).all()
    assert (position < torch.tensor(VOLUME_SIZE)).all()
    assert value.tolist() == [[0.0]]


def test_peaks_that_are_read_equal_those_on_the_device():
    heatmaps = torch.rand(2, 3, *VOLUME_SIZE, generator=torch.Generator().manual_seed(0))
    found, read = find_peaks(heatmaps), read_peaks(heatmaps)
    assert read.position.dtype == torch.long
    assert torch.equal(read.position, found.position)
    assert torch.equal(read.value, found.value)
    assert read_peaks(heatmaps[:, :0]).position.shape == (2, 0, 3)


def test_peaks_do_not_depend_on_the_memory_format():
    torch.manual_seed(0)
    heatmaps = torch.rand(2, 3, *VOLUME_SIZE)

    position, _ = find_peaks(heatmaps.to(memory_format=torch.channels_last_3d))

    assert torch.equal(position, find_peaks(heatmaps).position)


@pytest.mark.parametrize(
    ("center", "start"),
    [
        ((2, 3, 5), (1, 2, 3)),  # index (1, 1, 2) of the box
        ((0, 0, 0), (0, 0, 0)),
        ((4, 6, 10), (3, 4, 7)),
        ((-8, 3, 99), (0, 2, 7)),
        ((2.5, 2.4, 5.6), (2, 1, 4)),  # rounded to (3, 2, 6)
    ],
)
def test_box_lies_around_its_center_and_in_the_volume(center, start):
    corners = roi_corners(torch.tensor(center), ROI_SIZE, VOLUME_SIZE)

    assert corners.dtype == torch.long
    assert corners.tolist() == list(start)


def test_every_box_has_its_own_position():
    centers = torch.tensor([[[2, 3, 5], [0, 0, 0]], [[4, 6, 10], [4, 0, 5]]])

    corners = roi_corners(centers, ROI_SIZE, VOLUME_SIZE)

    assert corners.tolist() == [[[1, 2, 3], [0, 0, 0]], [[3, 4, 7], [3, 0, 3]]]


def test_box_may_fill_the_volume_but_not_exceed_it():
    center = torch.tensor([2, 3, 5])

    assert roi_corners(center, VOLUME_SIZE, VOLUME_SIZE).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"\(2, 8, 4\).*\(5, 7, 11\)"):
        roi_corners(center, (2, 8, 4), VOLUME_SIZE)


def crop(volumes, sample_index, corners):
    return Rois(sample_index, torch.zeros_like(sample_index), corners, ROI_SIZE).crop(volumes)


def test_crop_takes_each_box_from_its_sample():
    volumes = numbered_volumes(num_samples=2, num_channels=3)
    sample_index = torch.tensor([1, 0, 1])
    corners = torch.tensor([[1, 2, 3], [3, 4, 7], [0, 0, 0]])

    rois = crop(volumes, sample_index, corners)

    assert rois.shape == (3, 3, *ROI_SIZE)
    assert rois[0, 2, 0, 0].tolist() == [121203, 121204, 121205, 121206]
    for roi, sample, (z, y, x) in zip(rois, sample_index, corners.tolist(), strict=True):
        assert torch.equal(roi, volumes[sample, :, z : z + 2, y : y + 3, x : x + 4])


def test_crop_hands_gradients_back_to_its_voxels():
    volumes = torch.zeros(2, 1, *VOLUME_SIZE, requires_grad=True)
    corners = torch.tensor([[1, 2, 3], [2, 2, 3]])  # overlap in slice 2

    crop(volumes, torch.tensor([1, 1]), corners).sum().backward()

    expected = torch.zeros(2, 1, *VOLUME_SIZE)
    expected[1, 0, 1:4, 2:5, 3:7] = torch.tensor([1.0, 2.0, 1.0]).view(3, 1, 1)
    assert torch.equal(volumes.grad, expected)


def test_no_boxes_give_no_rois():
    corners = torch.zeros(0, 3, dtype=torch.long)

    rois = crop(torch.zeros(2, 3, *VOLUME_SIZE), corners[:, 0], corners)

    assert rois.shape == (0, 3, *ROI_SIZE)


def test_neighbors_share_a_window_with_all_their_rois_in_the_middle_up_to_a_pooled_voxel():
    corners = [[10, 20, 20], [12, 26, 30], [40, 20, 20]]
    windows = group_rois_into_windows(corners, (8, 16, 16), (16, 32, 32), (60, 60, 60))
    assert windows == [([6, 12, 16], [0, 1]), ([36, 12, 12], [2])]


def test_shared_windows_stay_inside_the_volume_and_hold_every_roi_once():
    generator = np.random.default_rng(0)
    volume, roi, window = (50, 70, 60), (8, 16, 12), (20, 40, 32)
    for _ in range(50):
        corners = [[int(generator.integers(0, n - r + 1)) for n, r in zip(volume, roi, strict=True)] for _ in range(5)]
        windows = group_rois_into_windows(corners, roi, window, volume)
        assert sorted(index for _, rows in windows for index in rows) == [0, 1, 2, 3, 4]
        for corner, rows in windows:
            assert all(0 <= c <= n - w for c, n, w in zip(corner, volume, window, strict=True))
            assert all(
                c <= s and s + r <= c + w
                for i in rows
                for c, s, r, w in zip(corner, corners[i], roi, window, strict=True)
            )


def test_no_roi_needs_no_window():
    assert group_rois_into_windows([], (8, 8, 8), (16, 16, 16), (32, 32, 32)) == []

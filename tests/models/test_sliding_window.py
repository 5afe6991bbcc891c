"""models/sliding_window.py: windows cover every voxel, and overlaps are blended."""

import os
import tempfile

import pytest
import torch

from models.sliding_window import (
    EDGE_WEIGHT,
    allocate_zeros,
    blend_windows,
    blending_weight,
    window_boxes,
    window_starts,
    window_starts_from_end,
)

VOLUME_SIZE, WINDOW_SIZE = (7, 12, 19), (4, 12, 8)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (10, 10, 0.5, [0]),
        (6, 10, 0.5, [0]),
        (20, 10, 0.0, [0, 10]),
        (21, 10, 0.0, [0, 6, 11]),  # round(5.5) is 6
        (20, 10, 0.5, [0, 5, 10]),
        (11, 10, 0.9, [0, 1]),
    ],
)
def test_starts_by_hand(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_windows_cover_the_volume_and_overlap_as_much_as_asked(overlap):
    for size in range(8, 40):
        starts = window_starts(size, 8, overlap)
        assert (starts[0], starts[-1]) == (0, size - 8)
        steps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
        assert all(1 <= step <= max(1, 8 * (1 - overlap)) + 0.5 for step in steps)  # starts are rounded


def test_starts_from_the_end_stay_where_they_are_when_the_beginning_is_cut_off():
    assert window_starts_from_end(20, 10, 0.5) == [0, 5, 10]
    assert window_starts_from_end(24, 10, 0.5) == [0, 4, 9, 14]
    assert window_starts_from_end(6, 10, 0.5) == [0]
    for size in range(11, 60):
        starts = window_starts_from_end(size, 10, 0.25)
        assert len(starts) == len(window_starts(size, 10, 0.25))
        assert (starts[0], starts[-1]) == (0, size - 10)
        assert all(b - a <= 7 for a, b in zip(starts, starts[1:], strict=False))
        longer = window_starts_from_end(size + 3, 10, 0.25)
        assert [start - size for start in starts[1:]] == [start - size - 3 for start in longer[-len(starts) + 1 :]]


@pytest.mark.parametrize("pooling", [2, 4])
def test_windows_begin_at_pooled_voxels_and_are_symmetric(pooling):
    for size in range(56, 240, 2 * pooling):
        starts = window_starts(size, 56, 0.375, pooling)
        assert (starts[0], starts[-1]) == (0, size - 56)
        assert not any(start % pooling for start in starts)
        assert [size - 56 - start for start in starts[::-1]] == starts
        assert all(b - a <= 35 + pooling // 2 for a, b in zip(starts, starts[1:], strict=False))
        assert not any((size - start) % pooling for start in window_starts_from_end(size, 64, 0.375, pooling)[1:])


@pytest.mark.parametrize("overlap", [-0.1, 1.0, float("nan")])
def test_an_overlap_out_of_range_is_refused(overlap):
    with pytest.raises(ValueError, match="--overlap: expected 0 <= overlap < 1"):
        window_starts(20, 10, overlap)


def test_every_voxel_lies_in_a_box_inside_the_volume():
    count = torch.zeros(VOLUME_SIZE)
    for box in window_boxes(VOLUME_SIZE, WINDOW_SIZE, 0.25):
        assert tuple(count[box].shape) == WINDOW_SIZE
        count[box] += 1
    assert count.min() >= 1


def test_weights_are_largest_in_the_middle_and_positive_everywhere():
    weight = blending_weight((3, 5, 4))
    assert weight.shape == (3, 5, 4)
    assert weight[1, 2, 1] == pytest.approx(0.9238795)  # sin(90 deg), sin(90 deg), sin(67.5 deg)
    assert weight.argmax() in (1 * 20 + 2 * 4 + 1, 1 * 20 + 2 * 4 + 2)
    assert weight.min() >= EDGE_WEIGHT
    torch.testing.assert_close(weight, weight.flip(0, 1, 2))


def test_a_constant_blends_to_the_constant():
    boxes = window_boxes(VOLUME_SIZE, WINDOW_SIZE, 0.5)
    volume = torch.zeros(1, *VOLUME_SIZE)
    blended, seen = blend_windows(
        volume, WINDOW_SIZE, boxes, lambda w: torch.full((1, 2, *w.shape[2:]), 0.7), num_channels=2
    )
    assert blended.shape == (2, *VOLUME_SIZE)
    assert seen.all()
    torch.testing.assert_close(blended, torch.full_like(blended, 0.7))


def test_a_voxelwise_function_blends_to_itself():
    volume = torch.randn(3, *VOLUME_SIZE, generator=torch.Generator().manual_seed(0))
    boxes, sizes = window_boxes(VOLUME_SIZE, WINDOW_SIZE, 0.25), []

    def predict(window):
        sizes.append(tuple(window.shape))
        return 2 * window[:, :2] + 1

    blended, _ = blend_windows(volume, WINDOW_SIZE, boxes, predict, num_channels=2)
    torch.testing.assert_close(blended, 2 * volume[:2] + 1)
    assert sizes == [(1, 3, *WINDOW_SIZE)] * len(boxes)


def test_voxels_outside_of_all_windows_are_reported():
    boxes = [(slice(0, 1), slice(0, 1), slice(2, 6))]
    blended, seen = blend_windows(torch.ones(1, 1, 1, 6), (1, 1, 4), boxes, lambda window: 3 * window, num_channels=1)
    assert blended.flatten().tolist() == pytest.approx([0, 0, 3, 3, 3, 3])
    assert seen.flatten().tolist() == [False, False, True, True, True, True]


def test_two_windows_meet_with_equal_weight_in_the_middle_of_their_overlap():
    answers = iter([0.0, 1.0])
    boxes = window_boxes((1, 1, 6), (1, 1, 4), 0.5)
    blended, _ = blend_windows(
        torch.zeros(1, 1, 1, 6),
        (1, 1, 4),
        boxes,
        lambda window: torch.full((1, 1, 1, 1, 4), next(answers)),
        num_channels=1,
    )
    blended = blended[0, 0, 0]
    assert blended.tolist() == pytest.approx([0, 0, blended[2].item(), 1 - blended[2].item(), 1, 1])
    # the first window's voxel 2 weighs sin(112.5 deg), the second's voxel 0 weighs sin(22.5 deg)
    assert blended[2].item() == pytest.approx(0.3826834 / (0.3826834 + 0.9238795))


CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("can_reserve", [True, False])
@pytest.mark.parametrize("limit_bytes", [0, 4 * 60 - 1, 4 * 60])
def test_a_volume_is_zeros_that_can_be_computed_with(limit_bytes, can_reserve, folder, monkeypatch):
    if not can_reserve:  # macOS, Windows
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    volume = allocate_zeros((3, 4, 5), CPU, limit_bytes)
    assert volume.dtype == torch.float32
    assert torch.equal(volume, torch.zeros(3, 4, 5))
    volume[1] += 2
    volume.div_(4)
    assert volume.sum() == 20 * 0.5
    if os.name != "nt":  # Windows deletes the file with the volume
        assert list(folder.iterdir()) == []


def test_a_full_disk_is_noticed_where_no_space_can_be_reserved(folder, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with pytest.raises(OSError, match="No space left"):
        allocate_zeros((1 << 20, 1 << 20, 1 << 10), CPU, 0)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_no_file(folder):
    with pytest.raises(OSError, match=r"No space left|File too large|Invalid argument"):
        allocate_zeros((1 << 20, 1 << 20, 1 << 10), CPU, 0)
    assert list(folder.iterdir()) == []

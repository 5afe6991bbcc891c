"""scratch.py: volumes beyond the limit behave like any other, and their files are gone."""

import tempfile

import pytest
import torch

from utils.scratch import volumes_up_to

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("limit_bytes", [0, 4 * 60 - 1, 4 * 60])
def test_a_volume_is_zeros_that_can_be_computed_with(limit_bytes, folder):
    volume = volumes_up_to(limit_bytes)((3, 4, 5), CPU)
    assert volume.dtype == torch.float32
    assert torch.equal(volume, torch.zeros(3, 4, 5))
    volume[1] += 2
    volume.div_(4)
    assert volume.sum() == 20 * 0.5
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_no_file(folder):
    with pytest.raises(OSError, match=r"No space left|File too large|Invalid argument"):
        volumes_up_to(0)((1 << 20, 1 << 20, 1 << 10), CPU)
    assert list(folder.iterdir()) == []

"""utils/training/errors.py: one line that says what to do."""

import errno

import pytest
import torch

from utils.errors import UserError
from utils.training.errors import reraise_out_of_memory, reraise_write_failure


def run_out_of_gpu_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def run_out_of_cpu_memory():
    torch.empty(2**60)


@pytest.mark.parametrize("exhaust", [run_out_of_gpu_memory, run_out_of_cpu_memory])
def test_out_of_memory_names_the_settings_that_reduce_it(exhaust):
    expected = pytest.raises(ValueError, match="out of memory with 4 crops of 40x192x192 voxels")
    with expected as caught, reraise_out_of_memory("backbone", 4, (40, 192, 192)):
        exhaust()
    text = str(caught.value)
    for setting in (
        "--batch-size 2 --grad-accumulation-steps 2",
        "--precision bf16",
        "grid.crop_size_vox",
        "networks.width",
    ):
        assert setting in text
    assert "\n" not in text


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shape"), reraise_out_of_memory("backbone", 1, (1, 1, 1)):
        raise RuntimeError("shape '[2]' is invalid")


def test_a_batch_of_one_is_not_to_be_halved():
    with pytest.raises(ValueError, match=r"Use --precision bf16"), reraise_out_of_memory("backbone", 1, (1, 1, 1)):
        run_out_of_gpu_memory()


@pytest.mark.parametrize("kept", [False, True])
def test_a_write_failure_says_why_and_what_is_left(kept, tmp_path):
    path = tmp_path / "last.pt"
    if kept:
        path.touch()
    expected = "the previous checkpoint is intact" if kept else "there is no previous one"
    message = rf"last\.pt: could not be written \(No space left.* MiB free\); {expected}"
    with pytest.raises(UserError, match=message), reraise_write_failure(path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_bug_while_writing_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="no such key"), reraise_write_failure(tmp_path / "last.pt"):
        raise RuntimeError("no such key")

"""Two runs with one seed, equal bit for bit."""

import os

import torch


def make_deterministic(device: torch.device) -> None:
    """Choose algorithms that add up in a fixed order.

    On a CPU, all of this program's are. On a GPU torch has none for the backward passes of 3-D max-pooling and
    trilinear upsampling; it warns where it takes another one, and runs agree but for rounding.

    Args:
        device: of the run; if a GPU, nothing may have been computed on it yet.
    """
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=on_gpu)

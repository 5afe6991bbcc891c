"""Large volumes in memory or, beyond a limit, in a temporary file that the system can page out."""

import os
import tempfile
from collections.abc import Callable, Sequence

import torch

NewVolume = Callable[[Sequence[int], torch.device], torch.Tensor]


def volumes_up_to(limit_bytes: float) -> NewVolume:
    """A function that makes float32 volumes of zeros: on the device if they are small enough, else on disk.

    The file has no name and vanishes with the volume, also when the process is killed.

    Args:
        limit_bytes: size beyond which a volume goes to disk, in the folder that TMPDIR names.
    """

    def new_volume(shape: Sequence[int], device: torch.device) -> torch.Tensor:
        size = torch.Size(shape)
        num_bytes = size.numel() * torch.float32.itemsize
        if num_bytes <= limit_bytes:
            return torch.zeros(size, device=device)
        descriptor, path = tempfile.mkstemp(prefix="focusnet_")
        try:
            os.posix_fallocate(descriptor, 0, num_bytes)  # a full disk is an error now, not a crash later
            return torch.from_file(path, shared=True, size=size.numel(), dtype=torch.float32).reshape(size)
        finally:
            os.close(descriptor)
            os.unlink(path)

    return new_volume

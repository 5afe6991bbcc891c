"""Failures of the machine, turned into one line that says what to do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError, is_out_of_memory

TORCH_WRITER = "inline_container.cc"
"""Source file in the text of the RuntimeError that torch.save raises when the system refuses a write."""


@contextmanager
def reraise_out_of_memory(stage: str, batch_size: int, crop_size_vox: tuple[int, int, int]) -> Iterator[None]:
    """Turn running out of memory into a UserError that names the settings which reduce it.

    Args:
        stage: the preset's section.
        batch_size: crops per process and microbatch.
        crop_size_vox: of the preset.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = f"--batch-size {max(1, batch_size // 2)} --grad-accumulation-steps 2 (the same crops per step), "
        raise UserError(
            f"{stage}: out of memory with {batch_size} crops of {'x'.join(map(str, crop_size_vox))} voxels. "
            f"Use {smaller if batch_size > 1 else ''}--precision bf16, a smaller crop "
            "(--set grid.crop_size_vox=[z,y,x]) or narrower networks (--set networks.width=...), and --resume unless "
            "the networks changed"
        ) from error


@contextmanager
def reraise_write_failure(path: Path) -> Iterator[None]:
    """Turn the failure to write a checkpoint into a UserError with the reason, which torch hides, and the free space.

    Args:
        path: of the checkpoint; an older file there is kept.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        free_mib = shutil.disk_usage(path.parent).free / 2**20
        kept = "the previous checkpoint is intact" if path.is_file() else "there is no previous one"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"{path}: could not be written ({reason}; {free_mib:.0f} MiB free); {kept}. Free some space and --resume"
        ) from error

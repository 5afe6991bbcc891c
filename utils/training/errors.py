"""Faults of the machine as one line that says what to do."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.errors import UserError, is_out_of_memory


@contextmanager
def reraise_out_of_memory(stage: str, batch_size: int, crop_size_vox: tuple[int, int, int]) -> Iterator[None]:
    """Turn running out of memory into a ValueError that names the settings which reduce it.

    Args:
        stage: the preset's section.
        batch_size: crops per process and forward pass.
        crop_size_vox: of the preset.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fewer = f"--batch-size {max(1, batch_size // 2)} --accumulate 2 (the same step from smaller batches), "
        raise UserError(
            f"{stage}: out of memory with {batch_size} crops of {'x'.join(map(str, crop_size_vox))} voxels. Use "
            f"{fewer if batch_size > 1 else ''}--precision bf16, a smaller crop (--set grid.crop_size_vox=[z,y,x]) or "
            "narrower networks (--set networks.width=...), and --resume unless the networks changed"
        ) from error


@contextmanager
def reraise_write_failure(path: Path) -> Iterator[None]:
    """Turn a failed write of a checkpoint into a UserError that says what is left; torch hides the system's reason.

    Args:
        path: of the checkpoint; the file there stays as it is.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        free_mib = shutil.disk_usage(path.parent).free / 2**20
        kept = "the checkpoint written before is still there" if path.is_file() else "there is none from before"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"{path}: could not be written ({reason}; {free_mib:.0f} MiB free); {kept}. Make room and --resume"
        ) from error

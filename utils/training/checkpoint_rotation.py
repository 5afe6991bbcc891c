"""The last checkpoint of a run, and older ones in case it is damaged."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.io.checkpoint import read_checkpoint
from utils.io.files import atomic_write, fsync_dir, replace_file

NOTHING_TO_RESUME = "{}: has no last.pt to resume from; run the command without --resume"
NUM_KEPT_CHECKPOINTS = 2
"""last.pt included."""
TORCH_WRITER = "inline_container.cc"
"""Source file in the text of the RuntimeError that torch.save raises when the system refuses a write."""

logger = logging.getLogger(__name__)


class CheckpointRotation:
    """last.pt, and last.1.pt, last.2.pt and so on, each older than the one before it.

    A process killed at any moment leaves at least one complete file: a new checkpoint is written under a temporary
    name, then the others are renamed to the next number, then the new one becomes last.pt.
    """

    def __init__(self, folder: Path, num_kept: int = NUM_KEPT_CHECKPOINTS) -> None:
        self.folder = folder
        self.paths = [folder / ("last.pt" if age == 0 else f"last.{age}.pt") for age in range(num_kept)]
        self.damaged: list[Path] = []

    def exists(self) -> bool:
        """Whether the folder holds a checkpoint, damaged or not."""
        return any(self.folder.glob("last*.pt"))

    def read(self) -> tuple[Path, dict[str, Any]]:
        """The newest checkpoint that is not damaged, and its path; logs which ones are damaged.

        Raises:
            UserError: all are damaged, or there is none.
        """
        problems = []
        for path in sorted(self.folder.glob("last*.pt"), key=_age):
            try:
                content = read_checkpoint(path)
            except UserError as error:
                problems.append(str(error))
                self.damaged.append(path)
                continue
            for problem in problems:
                logger.warning("%s", problem)
            if problems:
                logger.warning("resuming from an older checkpoint, %s", path)
            return path, content
        raise UserError("; ".join(problems) or NOTHING_TO_RESUME.format(self.folder))

    def write(self, save: Callable[[Path], None]) -> None:
        """Add a checkpoint as last.pt; `save` writes it to a path.

        Raises:
            UserError: it could not be written; the older ones are intact.
        """
        newest = self.paths[0]
        with reraise_write_failure(newest), atomic_write(newest, durable=True) as partial:
            save(partial)
            self._shift()
        fsync_dir(self.folder)

    def _shift(self) -> None:
        for path in self.damaged:
            if path.is_file():
                replace_file(path, path.with_suffix(".damaged"))
        self.damaged = []
        free = next((age for age, path in enumerate(self.paths) if not path.is_file()), len(self.paths) - 1)
        for age in range(free, 0, -1):
            replace_file(self.paths[age - 1], self.paths[age])


def _age(path: Path) -> int:
    number = path.name.removeprefix("last").removesuffix(".pt").strip(".")
    return int(number) if number.isdigit() else 0


@contextmanager
def reraise_write_failure(path: Path) -> Iterator[None]:
    """Turn the failure to write a checkpoint into a UserError with the reason, which torch hides, and free space."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
            raise
        free_mib = shutil.disk_usage(path.parent).free / 2**20
        has_previous = any(path.parent.glob(f"{path.stem}*.pt"))  # last.pt may be last.1.pt already
        kept = "the previous checkpoint is intact" if has_previous else "there is no previous one"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise UserError(
            f"{path}: could not be written ({reason}; {free_mib:.0f} MiB free); {kept}. Free some "
            "space, then run the same command with --resume"
        ) from error

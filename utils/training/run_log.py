"""The records in a run folder: metrics.csv, TensorBoard events, the resolved configuration, pictures."""

import csv
import io
import json
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from utils.config.preset import Preset, preset_to_table
from utils.errors import UserError
from utils.io.checkpoint import git_commit
from utils.io.files import FileInUseError, atomic_write, read_json, write_json, write_text
from utils.runtime.device import Compute
from utils.runtime.version import VERSION

try:
    from torch.utils.tensorboard import SummaryWriter
except ModuleNotFoundError:  # requirements.txt lacks tensorboard, and all but its events is recorded without it
    SummaryWriter = None

logger = logging.getLogger(__name__)

RUN_FILES = ("config.json", "status.json", "metrics.csv", "timing.csv", "validation.png", "best.pt")
"""Files of a run folder that have no number in their name, the record of the run first."""
CONFIGURATION_KEYS = ("options", "splits", "preset")


class RunLog:
    """Writes the records of one run: losses and scores into metrics.csv, durations into timing.csv.

    Rows and events of `first_epoch` and later ones, left by an interrupted run, are dropped.
    """

    def __init__(self, folder: Path, first_epoch: int = 0) -> None:
        self.folder = folder
        self.metrics = _Table(folder / "metrics.csv", first_epoch)
        self.timing = _Table(folder / "timing.csv", first_epoch)
        self.writer = SummaryWriter and SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)
        if self.writer is None:
            logger.info("no events for TensorBoard are written: it is not installed (pip install tensorboard)")

    def add_epoch(self, epoch: int, values: Mapping[str, float], seconds: float) -> None:
        """Record the scalars of an epoch, and the seconds that this process spent on it."""
        self.metrics.add(epoch, values)
        self.timing.add(epoch, {"seconds": seconds})
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, epoch)
            self.writer.flush()

    def add_picture(self, epoch: int, picture: np.ndarray) -> None:
        """Record the picture of a validation, (h, w, 3) uint8; validation.png is the newest one."""
        if self.writer:
            self.writer.add_image("validation", picture, epoch, dataformats="HWC")
        with _next_time_if_in_use(), atomic_write(self.folder / "validation.png", suffix=".png") as partial:
            Image.fromarray(picture).save(partial)

    def close(self) -> None:
        """Write buffered events."""
        if self.writer:
            self.writer.close()


@contextmanager
def _next_time_if_in_use() -> Iterator[None]:
    """Train on if a file cannot be replaced because it is looked at: Excel locks the tables that it shows."""
    try:
        yield
    except FileInUseError as error:
        logger.warning("%s. The training goes on; the next epoch writes the file with all rows", error)


class _Table:
    """A CSV file with a row per epoch; the file is complete at any time."""

    def __init__(self, path: Path, first_epoch: int) -> None:
        self.path = path
        self.rows = [row for row in _read_rows(path) if int(row["epoch"]) < first_epoch]

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        self.rows.append({"epoch": str(epoch), **{name: f"{value:.6g}" for name, value in values.items()}})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(self.rows)
        with _next_time_if_in_use():
            write_text(self.path, text.getvalue())


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def write_configuration(
    folder: Path,
    *,
    stage: str,
    preset: Preset,
    options: Mapping[str, Any],
    compute: Compute,
    splits: dict,
    is_resumed: bool,
) -> None:
    """Record everything that is needed to repeat a run: preset, options, device, splits, versions, commit."""
    content = {
        "stage": stage,
        "is_resumed": is_resumed,
        "options": json.loads(json.dumps(dict(options), default=str)),  # paths become text
        "compute": {"device": compute.device.type, "precision": compute.precision},
        "versions": {
            "focusnet": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "git_commit": git_commit(),
        "splits": splits,
        "preset": preset_to_table(preset),
    }
    write_json(folder / "config.json", content)


def read_configuration(folder: Path) -> dict[str, Any]:
    """Read what `write_configuration` recorded.

    Raises:
        UserError: there is no readable config.json, or it lacks something.
    """
    content = read_json(folder / "config.json")
    missing = [name for name in CONFIGURATION_KEYS if not isinstance(content.get(name), dict)]
    if missing:
        raise UserError(f"{folder}/config.json: {' and '.join(missing)} missing; give the folder of a training run")
    return content

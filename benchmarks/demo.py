"""Trains every network on phantoms, and segments and scores test phantoms: needs neither data nor a GPU.

    python -m benchmarks.demo

runs the commands that a user of real data runs, one after the other, and shows each of them. All is written into demo/.
"""

import argparse
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_preprocess.cases import DATASET_KEYS, DATASET_NAME
from utils.errors import UserError
from utils.io.files import check_folder, remove_file
from utils.io.own_files import read_record
from utils.runtime.command_line import FAILED, run_main

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cases", "runs", "test", "backbone", "focusnet", "scores_backbone", "scores_focusnet")
MODEL_CARD = ROOT / "docs" / "model_card.md"

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """A command of the demo."""

    script: str
    """Its path in the repository."""
    options: Sequence[str | Path]
    title: str = ""
    """Shown above its output."""


def steps_of(folder: Path) -> Iterator[Step]:
    """The commands, in their order; each reads what earlier ones wrote into the folder."""
    cases, runs, test = folder / "cases", folder / "runs", folder / "test"

    def best(stage: str) -> Path:
        return runs / stage / "best.pt"

    def train(script: str, stage: str, *options: str | Path) -> Step:
        return Step(script, ["--cases", cases, "--run-dir", runs / stage, *options])

    def segment(name: str, *options: str) -> Step:
        given = ["--checkpoint", best("focusnet"), "--input", test / "images", "--output", folder / name]
        return Step("inference.py", [*given, *options])

    def score(name: str, title: str) -> Step:
        sides = ["--prediction", folder / name, "--reference", test / "labels"]
        return Step("evaluate.py", [*sides, "--preset", "phantom", "--output", folder / f"scores_{name}"], title)

    yield Step("data_preprocess/prepare.py", ["--source", "phantom", "--output", cases])
    yield train("train_backbone.py", "backbone")
    yield train("train_SOL.py", "sol", "--init-from", best("backbone"))
    yield train("train_backbone_heatmap.py", "joint", "--init-from", best("sol"))
    yield train("train_autoencoder.py", "autoencoder")
    yield train("adv_train.py", "focusnet", "--init-from", best("joint"), "--autoencoder", best("autoencoder"))
    yield Step("data_preprocess/export.py", ["--source", "phantom", "--split", "test", "--output", test])
    yield segment("backbone", "--backbone-only")
    yield segment("focusnet", "--save-overlay", "--review")
    yield score("backbone", "S-Net alone:")
    yield score("focusnet", "FocusNet (SOS-Net segments the small organs):")


def run_step(step: Step) -> int:
    """Run a command in a process of its own, and return its exit status."""
    script = os.path.normpath(step.script) if Path.cwd() == ROOT else str(ROOT / step.script)
    command = [script, *map(str, step.options)]
    shown = subprocess.list2cmdline(command) if os.name == "nt" else shlex.join(command)
    logger.info("\npython %s", shown)
    if step.title:
        print(step.title, flush=True)
    return subprocess.run([sys.executable, *command], check=False).returncode


def clear(folder: Path) -> None:
    """Remove what an earlier demo wrote.

    Raises:
        UserError: folders of these names are in the way that no demo wrote.
    """
    check_folder(folder)
    found = [folder / name for name in FOLDERS if (folder / name).exists()]
    if found and read_record(folder / "cases" / DATASET_NAME, DATASET_KEYS) is None:
        raise UserError(f"{found[0]}: not written by an earlier demo; move it away or choose another --output")
    for path in found:
        remove_file(path)


def published_scores() -> str:
    """The table of the published model's scores on test patients."""
    section = MODEL_CARD.read_text(encoding="utf-8").partition("\n## Results on the 33")[2].partition("\n## ")[0]
    return "\n".join(line for line in section.splitlines() if line.startswith("|"))


def main(argv: list[str] | None = None) -> int:
    """Run every step; the first one that fails ends the demo with its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("demo"), help="folder to write (default: %(default)s)")
    folder = parser.parse_args(argv).output
    clear(folder)
    for step in steps_of(folder):
        if status := run_step(step):
            logger.error("error: %s ended with status %d; the demo stops", step.script, status)
            return status if status > 0 else FAILED
    print(f"The published model on 33 test patients (docs/model_card.md):\n{published_scores()}")
    print(f"Look at the segmented phantoms in a browser: {folder / 'focusnet' / 'index.html'}")
    print(f"Pictures: {folder / 'focusnet'}   Scores: {folder / 'scores_focusnet'}")
    print(f"Training: tensorboard --logdir {folder / 'runs'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))

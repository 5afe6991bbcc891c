"""Self-describing checkpoints: written atomically, read without executing anything in them."""

import os
import pickle
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.config.preset import Preset, preset_from_table, preset_to_table
from utils.errors import UserError, shorten
from utils.imaging.arrangement import Arrangement
from utils.io.files import atomic_write

FORMAT_VERSION = 1
OTHER_PRESET = (
    "the number of organs, networks.width, networks.sos_input or grid.roi_size_vox differs; give the preset that the "
    "checkpoint was trained with (--preset)"
)


def save_checkpoint(
    path: Path,
    *,
    stage: str,
    preset: Preset,
    networks: Mapping[str, nn.Module],
    arrangement: Arrangement | None = None,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Write networks and everything needed to use them or to continue their training.

    Args:
        path: replaced only when the new file is complete.
        stage: of the script that writes it: "backbone", "sol", "backbone_heatmap", "autoencoder" or "adversarial".
        preset: with all overrides.
        networks: by name ("s_net", "sol_net", "sos_net", "autoencoder").
        arrangement: of the organs in the training cases.
        state: what only a resumed training needs: optimizers, epoch, random states.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "preset": preset_to_table(preset),
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "arrangement": (arrangement or Arrangement(())).to_table(),
        "git_commit": git_commit(),
        "torch_version": str(torch.__version__),
        "state": dict(state or {}),
    }
    with atomic_write(path) as partial:
        torch.save(content, partial)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; it may hold tensors and plain values only.

    Raises:
        UserError: missing, damaged, or not written by `save_checkpoint`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give the last.pt or best.pt of a run folder")
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not verify checksums, it would take flipped bits
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        # torch's own message would advise to load the file unsafely.
        raise UserError(
            f"{path}: is damaged, or not a checkpoint of this program; give a last.pt or best.pt"
        ) from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: expected checkpoint format {FORMAT_VERSION}, got {version}; use the version of the program that "
            "wrote it, or train again"
        )
    if "parts" in content:  # the key of earlier releases
        content["networks"] = content.pop("parts")
    return content


def checkpoint_preset(content: Mapping[str, Any], path: Path) -> Preset:
    """The preset that a checkpoint was trained with."""
    return preset_from_table(content["preset"], source=str(path))


def checkpoint_arrangement(content: Mapping[str, Any]) -> Arrangement:
    """The arrangement of the organs in the training cases; without offsets in a checkpoint of an earlier release."""
    return Arrangement.from_table(content.get("arrangement", ()))


def require_networks(content: Mapping[str, Any], names: Iterable[str], path: Path, remedy: str) -> None:
    """Check that a checkpoint holds the networks that a script needs.

    Raises:
        UserError: it does not; names the stage that wrote it and `remedy`.
    """
    missing = [name for name in names if name not in content["networks"]]
    if missing:
        raise UserError(
            f"{path}: expected a checkpoint with {', '.join(missing)}, got one of stage {content['stage']!r} with "
            f"{', '.join(content['networks'])}; {remedy}"
        )


def load_networks(
    networks: Mapping[str, nn.Module], content: Mapping[str, Any], path: Path, advice: str = OTHER_PRESET
) -> None:
    """Load networks from a checkpoint's content, all weights of a network or none; `advice` ends the message.

    Raises:
        UserError: a weight is missing, unexpected or has another shape; the first ones are named.
    """
    for name, network in networks.items():
        expected, got = network.state_dict(), content["networks"][name]
        wrong = [f"{key} is missing" for key in expected if key not in got]
        wrong += [f"{key} is unexpected" for key in got if key not in expected]
        wrong += [
            f"{key}: expected {tuple(expected[key].shape)}, got {tuple(got[key].shape)}"
            for key in expected
            if key in got and expected[key].shape != got[key].shape
        ]
        if wrong:
            raise UserError(f"{path}: its {name} does not fit this preset: {advice} ({shorten(wrong, '; ')})")
        network.load_state_dict(got)


def git_commit() -> str:
    """The commit of this code, with "+" if files were changed since; "unknown" if it does not lie in its clone."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "GIT_CEILING_DIRECTORIES": str(root.parent),
    }  # an environment may lie in any repository
    options = {"cwd": root, "env": environment, "stderr": subprocess.DEVNULL, "encoding": "utf-8"}
    try:
        return subprocess.check_output(command, **options).strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

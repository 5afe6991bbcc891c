"""Self-describing checkpoints: written atomically, read without executing anything in them."""

import pickle
import subprocess
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.config.preset import Preset, preset_from_table, preset_to_table
from utils.errors import UserError
from utils.io.files import atomic_write

FORMAT_VERSION = 1


def save_checkpoint(
    path: Path, *, stage: str, preset: Preset, parts: Mapping[str, nn.Module], state: Mapping[str, Any] | None = None
) -> None:
    """Write networks and everything needed to use or continue them.

    Args:
        path: target, replaced only when the new file is complete.
        stage: which script wrote it: "backbone", "sol", "backbone_heatmap", "autoencoder" or "adversarial".
        preset: organs, geometry, intensity window and the rest, resolved.
        parts: networks by name ("s_net", "sol_net", "sos_net", "autoencoder").
        state: what only a continued training needs: optimizers, epoch, random states.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "stage": stage,
        "preset": preset_to_table(preset),
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "git_commit": git_commit(),
        "torch_version": str(torch.__version__),
        "state": dict(state or {}),
    }
    with atomic_write(path) as partial:
        torch.save(content, partial)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing but tensors and plain values is accepted.

    Raises:
        UserError: missing, damaged, or not written by `save_checkpoint`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; give the last.pt or best.pt of a run folder")
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, ValueError) as error:
        # torch's own text would advise to load the file unsafely
        raise UserError(f"{path}: is damaged, or no checkpoint of this program; give a last.pt or best.pt") from error
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path}: is no checkpoint of this program's format {FORMAT_VERSION}; train again")
    return content


def checkpoint_preset(content: Mapping[str, Any], path: Path) -> Preset:
    """The preset that a checkpoint was trained with."""
    return preset_from_table(content["preset"], source=str(path))


def require_networks(content: Mapping[str, Any], names: Iterable[str], path: Path, remedy: str) -> None:
    """Check that a checkpoint holds the networks that a script needs.

    Raises:
        UserError: it does not; names the stage that wrote it and `remedy`.
    """
    missing = [name for name in names if name not in content["parts"]]
    if missing:
        raise UserError(
            f"{path}: expected a checkpoint with {', '.join(missing)}, got one of stage {content['stage']!r} with "
            f"{', '.join(content['parts'])}; {remedy}"
        )


def load_networks(parts: Mapping[str, nn.Module], content: Mapping[str, Any], names: Iterable[str], path: Path) -> None:
    """Load networks, every weight or none.

    Raises:
        UserError: a weight is missing, superfluous or of another shape; the first ones are named.
    """
    for name in names:
        ours, theirs = parts[name].state_dict(), content["parts"][name]
        wrong = [f"{key} is missing" for key in ours if key not in theirs]
        wrong += [f"{key} is not part of it" for key in theirs if key not in ours]
        wrong += [
            f"{key}: expected {tuple(ours[key].shape)}, got {tuple(theirs[key].shape)}"
            for key in ours
            if key in theirs and ours[key].shape != theirs[key].shape
        ]
        if wrong:
            first = "; ".join(wrong[:3] + ["..."] * (len(wrong) > 3))
            raise UserError(
                f"{path}: its {name} does not fit this preset ({first}): "
                "the number of organs, networks.width, networks.sos_input or grid.roi_size_vox differ"
            )
        parts[name].load_state_dict(theirs)


def load_initial_networks(
    parts: Mapping[str, nn.Module],
    paths: Iterable[Path],
    preset: Preset,
    *,
    required: Iterable[str] = (),
    remedy: str = "",
) -> None:
    """Load from each checkpoint whatever networks it shares with `parts`; a later checkpoint wins.

    Args:
        parts: networks by name.
        paths: checkpoints.
        preset: of this run; a checkpoint of other organs, or of the same in another order, is refused.
        required: names that some checkpoint must provide.
        remedy: what to do if none does.

    Raises:
        UserError: a checkpoint is unreadable, shares nothing with `parts` or does not fit, or a part is missing.
    """
    loaded = set()
    for path in paths:
        content = read_checkpoint(path)
        shared = [name for name in parts if name in content["parts"]]
        if not shared:
            require_networks(content, parts, path, remedy)
        theirs = checkpoint_preset(content, path).organ_names
        if theirs != preset.organ_names:
            raise UserError(
                f"{path}: was trained on the organs {', '.join(theirs)}; preset {preset.name} has "
                f"{', '.join(preset.organ_names)}. Give a checkpoint of the same organs in the same order"
            )
        load_networks(parts, content, shared, path)
        loaded.update(shared)
    missing = [name for name in required if name not in loaded]
    if missing:
        raise UserError(f"no checkpoint with a trained {' and '.join(missing)} was given; {remedy}")


def _check_archive(path: Path) -> None:
    """Compare check sums, which torch does not: it would unpickle any bytes, and take weights with flipped bits."""
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"wrong check sum of {damaged}")


def git_commit() -> str:
    """The commit that this code is at, with "+" if files were changed since; "unknown" outside of a repository."""
    folder = Path(__file__).resolve().parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

"""Starts a training from checkpoints, also from those of other organs: organs of the same name keep their weights."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.checkpoint import checkpoint_preset, load_networks, read_checkpoint, require_networks
from utils.runtime.distributed import distributed_context

logger = logging.getLogger(__name__)

SIZES = (
    ("networks", "width"),
    ("networks", "sos_input"),
    ("networks", "autoencoder_code"),
    ("grid", "roi_size_vox"),
)
"""Sections and keys of the preset that change the shapes of weights."""
BACKGROUND = ""
"""Stands for the background among the organs of a network's weights."""


def load_initial_networks(
    networks: Mapping[str, nn.Module],
    paths: Iterable[Path],
    preset: Preset,
    *,
    required: Iterable[str] = (),
    remedy: str = "",
) -> None:
    """Load from each checkpoint the networks that it has in common with `networks`; a later checkpoint wins.

    The organs of a checkpoint may differ from the preset's. Then all weights are taken but those of organs that the
    preset lacks, and organs that the checkpoint lacks keep the weights that they have. Logs what was taken.

    Args:
        networks: by name. A network with weights per organ has a method `organ_weights(preset)`. It returns the prefix
            of their keys and the organs in order; each has a row (`head.weight`) or a module (`branches.2.weight`).
        paths: checkpoints; together they must provide the `required` networks with the weights of every organ.
        preset: of `networks`.
        required: networks that the stage does not train.
        remedy: ends the message if a required network is missing.

    Raises:
        UserError: a checkpoint is unreadable, holds none of `networks` or has other sizes; or a required network or an
            organ of it is missing.
    """
    given: dict[str, set[str]] = {}
    for path in paths:
        for name, organs in _load_checkpoint(path, networks, preset, remedy).items():
            given[name] = given.get(name, set()) | organs
    if missing := [name for name in required if name not in given]:
        raise UserError(f"no checkpoint with a trained {' and '.join(missing)} was given; {remedy}")
    lacking = {
        name: ", ".join(organ for organ in _organs_of(networks[name], preset) if organ not in organs)
        for name, organs in given.items()
    }
    for name in required:
        if lacking[name]:
            raise UserError(
                f"this stage does not train {name}, but no checkpoint has its weights of {lacking[name]}; give the "
                "checkpoint to train_backbone_heatmap.py first, and that run's best.pt to this stage"
            )
    untrained = [name for name in networks if name not in given]
    untrained += [f"{name} of {organs}" for name, organs in lacking.items() if organs]
    if given and untrained:
        _log("random weights: %s", "; ".join(untrained))


def _load_checkpoint(path: Path, networks: Mapping[str, nn.Module], preset: Preset, remedy: str) -> dict[str, set[str]]:
    """Load the networks that a checkpoint has in common with `networks`.

    Returns:
        By network, the organs of the preset whose weights it got.
    """
    content = read_checkpoint(path)
    common = {name: network for name, network in networks.items() if name in content["networks"]}
    if not common:
        require_networks(content, networks, path, remedy)
    source = checkpoint_preset(content, path)
    own_names = _own_names(source, preset)
    states = {
        name: _rearranged(network, content["networks"][name], source, preset, own_names)
        for name, network in common.items()
    }
    load_networks(common, {"networks": states}, path, advice=_other_sizes(source, preset))
    organs = {name: _organs_of(network, source) for name, network in common.items()}
    unused = dict.fromkeys(organ for of_network in organs.values() for organ in of_network if organ not in own_names)
    _log("%s: took %s%s", path, ", ".join(common), f", without {', '.join(unused)}" if unused else "")
    return {
        name: {own_names[organ] for organ in of_network if organ in own_names} for name, of_network in organs.items()
    }


def _log(message: str, *values: object) -> None:
    if distributed_context().is_rank_zero:
        logger.info(message, *values)


def _own_names(source: Preset, preset: Preset) -> dict[str, str]:
    """Organs of a checkpoint to the preset's organs of the same name; spellings and synonyms as in raw data."""
    indices = {organ: preset.find_organ(organ) for organ in source.organ_names}
    names = {organ: preset.organ_names[index] for organ, index in indices.items() if index is not None}
    return {organ: name for organ, name in names.items() if organ == name or name not in source.organ_names}


def _organs_of(network: nn.Module, preset: Preset) -> list[str]:
    """The organs of a preset that have weights of their own in a network."""
    if not hasattr(network, "organ_weights"):
        return []
    return [organ for organ in network.organ_weights(preset)[1] if organ != BACKGROUND]


def _rearranged(
    network: nn.Module, given: Mapping[str, torch.Tensor], source: Preset, preset: Preset, own_names: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """The weights `given`, of the organs of `source`, in the order of the organs of `preset`.

    Organs that `source` lacks have the weights of `network`.
    """
    if not hasattr(network, "organ_weights"):
        return dict(given)
    own = network.state_dict()
    prefix, organs = network.organ_weights(preset)
    theirs = [own_names.get(organ, organ) for organ in network.organ_weights(source)[1]]
    position = {theirs.index(organ): i for i, organ in enumerate(organs) if organ in theirs}
    state = {key: value for key, value in given.items() if not key.startswith(prefix)}
    for key, value in own.items():  # of organs that only this preset has
        index = key.removeprefix(prefix).partition(".")[0]
        if key.startswith(prefix) and index.isdigit() and int(index) not in position.values():
            state[key] = value
    for key in (key for key in given if key.startswith(prefix)):
        index, _, rest = key.removeprefix(prefix).partition(".")
        if not index.isdigit():
            state[key] = _with_rows(own.get(key), given[key], position)
        elif int(index) in position:
            state[f"{prefix}{position[int(index)]}.{rest}"] = given[key]
    return state


def _with_rows(own: torch.Tensor | None, given: torch.Tensor, position: Mapping[int, int]) -> torch.Tensor:
    """A network's own weights with rows of `given` in other positions; `given` where the sizes do not fit."""
    if own is None or own.shape[1:] != given.shape[1:]:
        return given
    rows = own.cpu().clone()
    rows[list(position.values())] = given[list(position)].to(rows.dtype)
    return rows


def _other_sizes(source: Preset, preset: Preset) -> str:
    """The settings of a checkpoint that change the sizes of its networks and differ from the preset's."""
    differing = []
    for section, key in SIZES:
        theirs, own = (getattr(getattr(one, section), key) for one in (source, preset))
        if theirs != own:
            differing.append(f"{section}.{key} is {theirs} there and {own} here")
    return (
        f"{'; '.join(differing)}; use --set with the checkpoint's values, or do not start from it" if differing else ""
    )

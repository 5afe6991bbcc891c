"""Doubts about a whole segmentation: it may show another part of the body than head and neck."""

from collections.abc import Mapping
from typing import Any

from utils.config.organ_volumes import known_volume
from utils.config.preset import Preset
from utils.imaging.arrangement import Arrangement
from utils.reporting.organ_report import UNUSUAL_VOLUME, centers_and_cut_off


def case_flags(organs: Mapping[str, Mapping[str, Any]], preset: Preset, arrangement: Arrangement) -> list[str]:
    """Say why a whole case is doubtful; an empty list says that nothing was noticed.

    Args:
        organs: of `build_organ_report`.
        preset: of the model.
        arrangement: of the organs in its training cases.
    """
    found = {name: organ for name, organ in organs.items() if organ["num_voxels"]}
    flags = []
    if 2 * len(found) < len(organs):
        flags.append(f"only {len(found)} of {len(organs)} organs were found; the CT may show little of head and neck")
    impossible = arrangement.contradictions(*centers_and_cut_off(organs))
    if impossible:
        flags.append("impossible arrangement: " + ", ".join(impossible))
    unusual = [name for name, organ in found.items() if UNUSUAL_VOLUME in organ["flags"]]
    if len(unusual) > 1 or set(unusual) - set(preset.small_organ_names):  # one small organ alone is often missed
        flags.append("unusual volumes: " + ", ".join(_volume_text(name, found[name]) for name in unusual))
    return flags


def _volume_text(name: str, organ: Mapping[str, Any]) -> str:
    low_ml, high_ml = known_volume(name)
    return f"{name} has {organ['volume_ml']:.3g} ml, expected {low_ml:g} to {high_ml:g}"

"""The tolerance of the surface Dice for every organ."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from utils.config.organ_names import organ_key
from utils.config.preset import Preset
from utils.errors import UserError

DEFAULT_TOLERANCE_MM = 2.0
NIKOLOV_2021 = "Nikolov et al., J Med Internet Res 2021;23(7):e26151"
PUBLISHED_TOLERANCES_MM = {
    "Brain": 1.01,
    "Brainstem": 2.50,
    "Cochlea": 1.25,
    "Lacrimal": 2.50,
    "Lens": 0.98,
    "Lung": 2.42,
    "Mandible": 1.01,
    "Optic nerve": 2.50,
    "Orbit": 1.65,
    "Parotid": 2.85,
    "Spinal canal": 1.17,
    "Spinal cord": 2.93,
    "Submandibular": 2.02,
}
"""Tolerances of Nikolov et al. for either side: the 95th percentile of the distances between contours of a radiographer
and an oncologist. docs/metrics.md lists which of them were checked against a second source."""

_PUBLISHED = {organ_key(name): tolerance for name, tolerance in PUBLISHED_TOLERANCES_MM.items()}


class Tolerance(NamedTuple):
    """A tolerance and its source."""

    value_mm: float
    source: str


class Tolerances:
    """Finds an organ's tolerance: on the command line, else in the preset, else published, else the default.

    Args:
        given: command-line arguments: "2" for every organ, or "Mandible=1".
        preset: None if there is no preset.

    Raises:
        UserError: an argument has another form, or its number is negative, infinite or NaN.
    """

    def __init__(self, given: Sequence[str], preset: Preset | None) -> None:
        self._preset = preset
        self._given: dict[str, float] = {}  # the key of the number for every organ is ""
        for argument in given:
            name, _, number = argument.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            if not 0 <= value < math.inf:
                raise UserError(f"--tolerance {argument}: expected millimeters, or ORGAN=millimeters")
            self._given[organ_key(name)] = value

    def of(self, organ: str) -> Tolerance:
        """The tolerance of the organ with this name."""
        key = organ_key(organ)
        for own in (key, ""):
            if own in self._given:
                return Tolerance(self._given[own], "command line")
        index = self._preset.find_organ(organ) if self._preset else None
        if index is not None:
            return Tolerance(self._preset.organs[index].tolerance_mm, f"preset {self._preset.name}")
        pair = key.removesuffix(" left").removesuffix(" right")
        if pair in _PUBLISHED:
            return Tolerance(_PUBLISHED[pair], NIKOLOV_2021)
        return Tolerance(DEFAULT_TOLERANCE_MM, "default")

    def unused(self, organs: Iterable[str]) -> list[str]:
        """Names on the command line that are not among `organs`."""
        return [key for key in self._given if key not in {"", *map(organ_key, organs)}]

"""The files of one segmented case, each of which appears complete or not at all."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.files import replace_atomically
from utils.geometry import Geometry
from utils.organs import segment_metadata
from utils.preset import Preset
from utils.volume_io import Volume, write_volume

FORMATS = ("nii.gz", "nrrd", "seg.nrrd", "mha")
PROBABILITY_DECIMALS = 3
"""Finer steps are noise, which does not compress."""


@dataclass(frozen=True, kw_only=True)
class OutputFiles:
    """Where the files of a case go.

    Attributes:
        folder: of the whole output.
        case_id: begins the names of all files.
        format: of volumes, one of `FORMATS`.
    """

    folder: Path
    case_id: str
    format: str

    @property
    def report(self) -> Path:
        """Written last: a case that has it is complete."""
        return self.folder / f"{self.case_id}.json"

    @property
    def label(self) -> Path:
        return self.folder / f"{self.case_id}.{self.format}"

    @property
    def overlay(self) -> Path:
        return self.folder / f"{self.case_id}.png"

    @property
    def rtstruct(self) -> Path:
        return self.folder / f"{self.case_id}.rtstruct.dcm"

    @property
    def masks(self) -> Path:
        return self.folder / f"{self.case_id}_masks"

    @property
    def probabilities(self) -> Path:
        return self.folder / f"{self.case_id}_probabilities"

    def remove_remains(self) -> None:
        """Remove the report and what a killed run left under temporary names, before the case is written again."""
        self.report.unlink(missing_ok=True)
        for path in (self.label, self.report, self.overlay, self.rtstruct):
            for remains in self.folder.glob(f".{path.name}.*.partial*"):
                remains.unlink(missing_ok=True)

    def write_label(self, label: Volume, preset: Preset) -> None:
        """The label map, with names and colors where the format holds them."""
        write_volume(self.label, label, segment_metadata(preset))

    def write_masks(self, label: Volume, preset: Preset) -> None:
        """One binary mask per organ; that of an organ not found is empty."""
        masks = ((label.array == value).astype(np.uint8) for value in range(1, len(preset.organs) + 1))
        self._write_per_organ(self.masks, masks, label.geometry, preset)

    def write_probabilities(self, probabilities: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        """One volume of probabilities per organ.

        Args:
            probabilities: (D, H, W) float32 per organ, made one at a time.
            geometry: of the CT.
            preset: the organs.
        """
        rounded = (np.round(values, PROBABILITY_DECIMALS) for values in probabilities)
        self._write_per_organ(self.probabilities, rounded, geometry, preset)

    def _write_per_organ(self, folder: Path, arrays: Iterable[np.ndarray], geometry: Geometry, preset: Preset) -> None:
        with replace_atomically(folder) as partial:
            partial.mkdir()
            for name, array in zip(preset.organ_names, arrays, strict=True):
                write_volume(partial / f"{name}.{self.format}", Volume(array=array, geometry=geometry))

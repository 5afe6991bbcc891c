"""What every reader of a raw layout yields."""

from collections.abc import Mapping
from dataclasses import dataclass

from utils.config.preset import Preset
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask
from utils.io.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class RawCaseHandle:
    """A patient found in a raw data set, not read yet.

    Attributes:
        case_id: unique in the data set, fit for a file name.
        location: what the reader needs to read it: its path, or whatever else the reader put there.
        split: "train", "test" or "apart" where the data set says so, else None.
        patient: cases of one patient (two observers, two scans) have it in common; None where a case is a patient.
    """

    case_id: str
    location: object
    split: str | None = None
    patient: str | None = None


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """One patient as contoured.

    Attributes:
        case_id: unique in the data set, fit for a file name.
        volume: CT in HU, int16, axes in LPS order (z up, y posterior, x left); None where there are only masks.
        masks: structure name as in the data set to mask on the CT's grid, with a voxel at least; a structure that
            nobody contoured has no entry. There is at least one where there is no volume.
        unknown: names of structures that no organ of the preset answers to; they were not read.
        notes: what a person should know, for example which files were left out.
        split: as in the reference.
        patient: as in the reference.
        source: path or description, for the record.
    """

    case_id: str
    volume: Volume | None
    masks: Mapping[str, Mask]
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: str | None = None
    patient: str | None = None
    source: str

    @property
    def geometry(self) -> Geometry:
        """The grid of the CT and of every mask."""
        return self.volume.geometry if self.volume else next(iter(self.masks.values())).geometry


def leave_out_empty(masks: Mapping[str, Mask]) -> tuple[dict[str, Mask], tuple[str, ...]]:
    """Masks that have a voxel, and a note for each that has none.

    Nobody can tell an organ that is not there from one that was not drawn, so an empty mask counts as not contoured.
    """
    filled = {name: mask for name, mask in masks.items() if mask.voxels.size}
    notes = tuple(f"{name}: the mask is empty, so it counts as not contoured" for name in masks if name not in filled)
    return filled, notes


def is_wanted(name: str, preset: Preset | None) -> bool:
    """Whether a structure is to be read: an organ of the preset, or any structure where there is no preset."""
    return preset is None or preset.find_organ(name) is not None

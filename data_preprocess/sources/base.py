"""A source reads one raw layout; every source yields the same raw cases."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from utils.config.preset import Preset
from utils.imaging.geometry import Geometry
from utils.imaging.masks import Mask
from utils.io.volumes import Volume


@dataclass(frozen=True, kw_only=True)
class RawCaseHandle:
    """A case that was found in a raw data set and is not read yet.

    Attributes:
        case_id: unique in the data set; can name a file.
        location: what the source needs to read the case, for example its path.
        split: "train", "test" or `HELD_OUT` where the data set says so, else None.
        patient: the same for all cases of a patient (two observers, two scans); None if each case is a patient.
    """

    case_id: str
    location: Any
    split: str | None = None
    patient: str | None = None


class RawStructures(NamedTuple):
    """The structures of a case, as in `RawCase`."""

    masks: Mapping[str, Mask]
    unmatched_structures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """One case as contoured.

    Attributes:
        case_id: as in the handle.
        volume: CT as stored, not yet checked to be in HU, axes in LPS order (z up, y posterior, x left); None if
            there are only masks.
        masks: structure name as in the data set to mask on the CT's grid, with at least one voxel. A structure that was
            not contoured has no entry. Without a volume there is at least one mask.
        unmatched_structures: names of structures that are not an organ of the preset; they were not read.
        notes: messages for the user, for example which files were left out.
        split: as in the handle.
        patient: as in the handle.
        source: path or description, for the record.
    """

    case_id: str
    volume: Volume | None
    masks: Mapping[str, Mask]
    unmatched_structures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    split: str | None = None
    patient: str | None = None
    source: str

    @classmethod
    def of(cls, handle: RawCaseHandle, volume: Volume | None, structures: RawStructures, source: object) -> "RawCase":
        """The case of a handle, once it is read."""
        notes = (*(volume.notes if volume else ()), *structures.notes)
        found = {"volume": volume, "source": str(source), **structures._replace(notes=notes)._asdict()}
        return cls(case_id=handle.case_id, split=handle.split, patient=handle.patient, **found)

    @property
    def geometry(self) -> Geometry:
        """The grid of the CT and of every mask."""
        return self.volume.geometry if self.volume else next(iter(self.masks.values())).geometry


class Source(Protocol):
    """What the module of a source provides."""

    def list_cases(self, folder: Path | None) -> list[RawCaseHandle]:
        """Find the cases at or below a folder without reading them.

        Raises:
            UserError: the folder does not exist or holds no case of this layout.
        """

    def read_case(self, handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
        """Read one case.

        Args:
            handle: from `list_cases`.
            preset: whose organs to read; None reads every structure.

        Raises:
            UserError: a file is missing, ambiguous, damaged or on another grid.
        """


def is_wanted(name: str, preset: Preset | None) -> bool:
    """Whether to read a structure: it is an organ of the preset, or there is no preset."""
    return preset is None or preset.find_organ(name) is not None


def read_structures(names: Iterable[str], load: Callable[[str], Mask], preset: Preset | None) -> RawStructures:
    """Load the structures that are wanted, and leave out masks without voxels with a note for each.

    An organ that is missing cannot be told from one that was not contoured, so an empty mask counts as not contoured.
    """
    masks = {name: load(name) for name in names if is_wanted(name, preset)}
    filled = {name: mask for name, mask in masks.items() if mask.voxels.size}
    notes = tuple(f"{name}: the mask is empty, so it counts as not contoured" for name in masks if name not in filled)
    return RawStructures(filled, tuple(name for name in names if name not in masks), notes)

"""What every reader of a raw layout yields."""

from dataclasses import dataclass

import numpy as np

from utils.volume_io import Volume


@dataclass(frozen=True, kw_only=True)
class RawReference:
    """A patient found in a raw data set, not read yet.

    Attributes:
        case_id: unique in the data set, fit for a file name.
        location: what the reader needs to read it, for example its path.
        split: "train" or "test" where the data set says so, else None.
    """

    case_id: str
    location: str
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """One patient as contoured.

    Attributes:
        case_id: unique in the data set, fit for a file name.
        volume: CT in HU, int16, axes in LPS order (z up, y posterior, x left).
        masks: structure name as in the data set to bool mask on the CT's grid; a structure that nobody contoured has
            no entry.
        split: "train" or "test" where the data set says so, else None.
        source: path or description, for the record.
    """

    case_id: str
    volume: Volume
    masks: dict[str, np.ndarray]
    split: str | None
    source: str

"""Case ids of DICOM series, by one rule for inference, prepare and export."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from utils.config.file_names import is_portable_name
from utils.io.dicom.series import DicomSeries
from utils.io.files import printable

HASH_DIGITS = 6


def dicom_name(series: DicomSeries, folder: Path, *, by_patient: bool = True) -> str:
    """The PatientID, fit for a file name; without it, the path of the series' folder below `folder`.

    Several series may have the same name: see `tell_apart`.
    """
    patient = fit_for_file(series.patient_id) if by_patient else ""
    return patient or path_name(series.paths[0].parent, folder)


def fit_for_file(text: str) -> str:
    """A text with `_` in the place of all but letters, digits, `.`, `_` and `-`, without dots and `_` at its ends.

    A name that Windows keeps for a device gets a `_`: the outputs may be copied to another system.
    """
    name = re.sub(r"[^\w.-]+", "_", text).strip("._")
    return name if not name or is_portable_name(name) else f"_{name}"


def path_name(path: Path, folder: Path) -> str:
    """The parts of a path below `folder`, joined by `_`; the folder's own name if the path is the folder."""
    return printable("_".join(path.relative_to(folder).parts) or folder.resolve().name)


def tell_apart(names: Sequence[str], uids: Sequence[str]) -> list[str]:
    """Append six digits to the names that occur more than once: they are made from the UID, so each name stays its own.

    Upper and lower case count as the same, as in the file names of some systems.
    """
    counts = Counter(map(str.casefold, names))
    digits = [hashlib.sha256(uid.encode()).hexdigest()[:HASH_DIGITS] for uid in uids]
    return [
        name if counts[name.casefold()] == 1 else f"{name}_{digit}" for name, digit in zip(names, digits, strict=True)
    ]

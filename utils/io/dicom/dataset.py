"""DICOM files: read a whole one, and explain what is wrong with a damaged one."""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException

from utils.errors import UserError
from utils.runtime.console import silenced

UNDEFINED_LENGTH = 0xFFFFFFFF
DECODE_ERRORS = (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError)
DECODE_ERRORS += (OverflowError, struct.error, BytesLengthException)
"""What pydicom raises for damaged bytes, besides its own errors, which are ValueErrors or OSErrors."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's own warnings on values that break the standard: our messages say what matters."""
    with disable_value_validation(), silenced("pydicom"):
        yield


@quiet_pydicom()
def read_dataset(path: Path) -> FileDataset:
    """Read a whole DICOM file, also one without preamble.

    Raises:
        UserError: it is missing, truncated or not DICOM.
    """
    if not path.is_file():
        raise UserError("no such file; check the path", path)
    warnings.filterwarnings("error", message="End of file reached", category=UserWarning)
    with explain_decode_errors(path):
        dataset = pydicom.dcmread(path, force=True)
    _check_complete(dataset, path)
    with explain_decode_errors(path):
        list(dataset.iterall())  # pydicom parses values only when asked for them
    if "SOPInstanceUID" not in dataset:
        raise UserError("has no SOPInstanceUID, so it is truncated or not a DICOM file; copy it again", path)
    return dataset


@contextmanager
def explain_decode_errors(path: Path) -> Iterator[None]:
    """Raise a `UserError` for what pydicom raises for a damaged file; put around single calls of pydicom."""
    try:
        yield
    except UserError:
        raise
    except (*DECODE_ERRORS, UserWarning) as error:
        raise UserError(
            f"cannot be read as DICOM: damaged, or of another format ({error}); copy it again", path
        ) from error


def _check_complete(dataset: FileDataset, path: Path) -> None:
    """Refuse a file that ends within an element, of which pydicom silently takes the part that is there."""
    for tag in dataset.keys():  # noqa: SIM118 - iterating over the data set itself would parse its elements
        with explain_decode_errors(path):
            element = dataset.get_item(tag)
        length = getattr(element, "length", UNDEFINED_LENGTH)
        if length != UNDEFINED_LENGTH and element.value is not None and len(element.value) < length:
            raise UserError(f"is truncated: it ends within the element {tag}; copy it again", path)

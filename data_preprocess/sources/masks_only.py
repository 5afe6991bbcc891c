"""Masks without a CT, in the layouts of `masks`: cases for the shape AutoEncoder, which sees masks alone."""

from pathlib import Path

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import read_mask_files
from data_preprocess.sources.masks import find_masks, list_cases, raw_case
from utils.config.preset import Preset
from utils.errors import UserError

__all__ = ["list_cases", "read_case"]


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read the masks of one case; a CT beside them is not looked at.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: a file is damaged or on another grid than the others, or no mask is wanted.
    """
    structures = read_mask_files(find_masks(Path(reference.location)), None, preset)
    if not structures.masks:
        raise UserError(f"{reference.location}: none of its masks is an organ of the preset with a voxel")
    return raw_case(reference, structures)

"""Masks without a CT, in the layouts of `masks`: cases for the shape AutoEncoder, which sees masks alone."""

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import read_mask_files
from data_preprocess.sources.masks import find_masks, list_cases
from utils.config.preset import Preset
from utils.errors import UserError

__all__ = ["list_cases", "read_case"]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read the masks of one case, not a CT beside them: see `Source.read_case`."""
    structures = read_mask_files(find_masks(handle.location), None, preset)
    if not structures.masks:
        raise UserError(
            "expected a mask of an organ of the preset with a voxel, found none; add the names "
            "of the masks to the preset's aliases",
            handle.location,
        )
    return RawCase.of(handle, None, structures, handle.location)

"""Readers of raw layouts; each yields a CT and named organ masks, and nothing else knows about the layout."""

from data_preprocess.sources import dicom, labelmap, masks, masks_only, nnunet, openkbp, pddca
from data_preprocess.sources.base import RawCase, RawCaseHandle, Source
from data_preprocess.sources.phantom import source as phantom_source

__all__ = ["SOURCES", "RawCase", "RawCaseHandle"]

SOURCES: dict[str, Source] = {
    "dicom": dicom,
    "labelmap": labelmap,
    "masks": masks,
    "nnunet": nnunet,
    "openkbp": openkbp,
    "pddca": pddca,
    "phantom": phantom_source,
    "shapes": masks_only,
}
"""Name on the command line to the module that reads the layout."""

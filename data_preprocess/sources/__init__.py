"""One reader per raw layout; each yields a CT volume and named organ masks, and nothing else knows about the layout."""

from types import ModuleType

from data_preprocess.sources import dicom, labelmap, masks, nnunet, openkbp, pddca
from data_preprocess.sources import masks_only as shapes
from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.phantom import source as phantom

__all__ = ["SOURCES", "RawCase", "RawCaseHandle"]

SOURCES: dict[str, ModuleType] = {
    "dicom": dicom,
    "labelmap": labelmap,
    "masks": masks,
    "nnunet": nnunet,
    "openkbp": openkbp,
    "pddca": pddca,
    "phantom": phantom,
    "shapes": shapes,
}
"""Name on the command line to module; each has `list_cases(folder) -> list[RawCaseHandle]` and `read_case(reference,
preset) -> RawCase`."""

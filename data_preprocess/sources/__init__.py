"""One reader per raw layout; each yields a CT volume and named organ masks, and nothing else knows about the layout."""

from types import ModuleType

from data_preprocess.sources import openkbp, phantom
from data_preprocess.sources.raw_case import RawCase, RawReference

__all__ = ["SOURCES", "RawCase", "RawReference"]

SOURCES: dict[str, ModuleType] = {"openkbp": openkbp, "phantom": phantom}
"""Name on the command line to module; each has `list_cases(folder) -> list[RawReference]`, `read_case(reference)`."""

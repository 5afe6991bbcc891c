"""What an image of modality CT is: a slice, or something that is never taken for a slice."""

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from utils.errors import shorten

SLICE_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""The class of screenshots, and the beginning of those with several frames."""
KIND_TAGS = ("SOPClassUID", "ImageType", "SamplesPerPixel", "PhotometricInterpretation")
KIND_TAGS += ("VolumeBasedCalculationTechnique",)
GRAY = ("MONOCHROME1", "MONOCHROME2", "")
LOCALIZER = re.compile(r"\b(LOCALIZER|SCOUT|TOPOGRAM|SCANOGRAM|SURVIEW)\b")
DERIVED = re.compile(
    r"\b(MPR|MPVR|CPR|REFORMATTED|RESAMPLED|PROJECTION|CSAPARALLEL|MIP|MINIP|MAX IP|MIN IP|VRT|VOLUME RENDER|"
    r"SURFACE RENDER|SCREEN SAVE|DOSE|PROT|SUBTRACTION|MAXIMUM|MINIMUM|STD DEVIATION|DIVISION|MASKED)\b"
)
"""Words of ImageType, FrameType and VolumeBasedCalculationTechnique: see docs/dicom_vendors.md. DERIVED alone excludes
nothing: images that a lossy compression or a planning system has written again are DERIVED and show the slices."""


def unlike_slice(image: Dataset) -> str | None:
    """What an image is that is no slice of a CT, for example "localizer"; None if it is a slice.

    Args:
        image: of modality CT; the attributes in `KIND_TAGS` are enough. One of class CT with another word in its
            ImageType, or with none, counts as a slice.
    """
    uid = str(image.get("SOPClassUID") or "")
    if uid.startswith(SECONDARY_CAPTURE) and uid[len(SECONDARY_CAPTURE) :][:1] in ("", "."):
        return "secondary capture"
    if _is_color(image):
        return "color image"
    if uid and uid not in SLICE_CLASSES:
        return "object of another class than CT"
    words = image_words(image, "ImageType")
    if LOCALIZER.search(words):
        return "localizer"
    found = DERIVED.search(f"{words} {image_words(image, 'VolumeBasedCalculationTechnique')}")
    return f"derived image ({found[0]})" if found else None


def image_words(image: Dataset, keyword: str) -> str:
    """The values of an attribute as words in capitals: "DERIVED SECONDARY CSA MPR" of DERIVED, SECONDARY, CSA MPR."""
    values = image.get(keyword) or ()
    return re.sub(r"[^A-Z0-9]+", " ", " ".join([values] if isinstance(values, str) else map(str, values)).upper())


def count_kinds(kinds: Iterable[str]) -> str:
    """Kinds as a note says them: "2 localizer(s), 1 derived image (MPR)"."""
    listed = list(kinds)
    return shorten(f"{listed.count(kind)} {kind}{'' if ')' in kind else '(s)'}" for kind in dict.fromkeys(listed))


def _is_color(image: Dataset) -> bool:
    photometric = str(image.get("PhotometricInterpretation") or "").strip().upper()
    return image.get("SamplesPerPixel", 1) not in (1, None, "") or photometric not in GRAY

"""The CT as it is stored: its frames, each with an image, a place in the patient and the rescaling to HU.

A frame is a file with one image, or one image of a multi-frame file (Enhanced CT), whose functional groups describe it.
"""

import contextlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from utils.errors import UserError, shorten
from utils.io.dicom.geometry import MOVE_OUT, ORIENTATION_TOLERANCE, SliceGeometry, most_common
from utils.io.dicom.kinds import unlike_slice

SINGLE_VALUES = dict.fromkeys(("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"), 1)
SINGLE_VALUES |= dict.fromkeys(("RescaleSlope", "RescaleIntercept"), 1)
NUM_VALUES = SINGLE_VALUES | {"PixelSpacing": 2, "ImagePositionPatient": 3, "ImageOrientationPatient": 6}
"""Attributes that every slice needs, and their numbers of values."""
MACROS = {
    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
    "RescaleType": ("PixelValueTransformationSequence", "RescaleType"),
    "StackID": ("FrameContentSequence", "StackID"),
    "TemporalPositionIndex": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "ImageType": ("CTImageFrameTypeSequence", "FrameType"),
    "GantryDetectorTilt": ("CTAcquisitionDetailsSequence", "GantryDetectorTilt"),
    "VolumeBasedCalculationTechnique": ("CTImageFrameTypeSequence", "VolumeBasedCalculationTechnique"),
}
"""The functional group of a multi-frame file that holds an attribute, and its name there: DICOM PS3.3, C.7.6.16.2 and
C.8.15.3."""
BITS_ALLOCATED = (8, 16, 32)
HU_TYPES = ("HU", "HU_MOD", "US", "")
"""Values of RescaleType that CTs have; US is "unspecified"."""
MAX_LOCALIZERS = 3
MIN_SLICES_PER_LOCALIZER = 5
COS_LOCALIZER = np.cos(np.radians(30.0))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image of a CT as it is stored."""

    dataset: FileDataset
    """The file that holds it."""
    index: int | None = None
    """From 0, in a multi-frame file; None in a file with one image."""

    @property
    def path(self) -> Path:
        """Of the file."""
        return Path(self.dataset.filename)

    @property
    def name(self) -> str:
        """For messages."""
        return self.path.name if self.index is None else f"{self.path.name} frame {self.index + 1}"

    def get(self, keyword: str, default: Any = None) -> Any:
        """The value of an attribute: that of the frame, or else the one that all frames share, or else the file's.

        The ImageType of a frame is its FrameType.
        """
        if self.index is not None and keyword in MACROS:
            macro, name = MACROS[keyword]
            shared = self.dataset.get("SharedFunctionalGroupsSequence") or ()
            for groups in (self.dataset.PerFrameFunctionalGroupsSequence[self.index], *shared):
                for item in groups.get(macro) or ():
                    if name in item:
                        return item.get(name)
        return self.dataset.get(keyword, default)


def frames_of(dataset: FileDataset) -> list[Frame]:
    """The frames of a file.

    Raises:
        UserError: it holds another number of frames than it describes.
    """
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return [Frame(dataset=dataset)]
    number = max(numbers(dataset, "NumberOfFrames"), default=1)
    if number != len(groups):
        name = Path(dataset.filename).name
        raise UserError(f"{name} holds {number:.0f} frames but describes {len(groups)}; export it again")
    return [Frame(dataset=dataset, index=index) for index in range(len(groups))]


def split_kinds(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """The frames that are slices, and what each of the others is."""
    kinds = [None if frame.index is None else unlike_slice(frame) for frame in frames]
    return [f for f, kind in zip(frames, kinds, strict=True) if kind is None], [kind for kind in kinds if kind]


def find_localizers(frames: Sequence[Frame]) -> list[int]:
    """Indices of images that are no slices but localizers (scouts) though their ImageType does not say so.

    Their plane is turned by more than 30 degrees against that of the others. They are few: at most three, and at most
    one for every five others. An image of another size or spacing alone may be a slice, so it is no localizer.
    """
    axes = [numbers(frame, "ImageOrientationPatient") for frame in frames]
    known = [i for i, values in enumerate(axes) if len(values) == 6 and any(values)]
    if not known:
        return []
    normals = np.array([np.cross(axes[i][:3], axes[i][3:]) for i in known])
    usual = normals[most_common(normals, ORIENTATION_TOLERANCE)]
    turned = [i for i, normal in zip(known, normals, strict=True) if abs(normal @ usual) < COS_LOCALIZER]
    limit = min(MAX_LOCALIZERS, (len(frames) - len(turned)) // MIN_SLICES_PER_LOCALIZER)
    return turned if len(turned) <= limit else []


def check_frames(frames: Sequence[Frame]) -> None:
    """Check that frames are gray CT slices in HU of one series, one stack and one phase.

    Raises:
        UserError: they are not; the message lists all problems.
    """
    problems = []
    modalities = sorted({str(frame.get("Modality")) for frame in frames} - {"CT"})
    if modalities:
        problems.append(f"expected modality CT, got {', '.join(modalities)}")
    problems += _list("are color images", (f for f in frames if f.get("SamplesPerPixel", 1) != 1))
    is_many = [frame.index is None and max(numbers(frame, "NumberOfFrames"), default=1) > 1 for frame in frames]
    many, single = ([f for f, is_one in zip(frames, is_many, strict=True) if is_one is kind] for kind in (True, False))
    problems += _list("hold several images each but not their places: convert them to one image per file", many)
    for tag in (*NUM_VALUES, "PixelData"):
        problems += _list(f"lack {tag}", (f for f in single if f.get(tag) is None))
    for tag, count in NUM_VALUES.items():
        given = [f for f in single if f.get(tag) is not None]
        problems += _list(
            f"have another number of values of {tag} than {count}", (f for f in given if np.size(f.get(tag)) != count)
        )
        garbled = [f for f in given if np.size(f.get(tag)) == count != len(numbers(f, tag))]
        problems += _list(f"have a {tag} that is no number", garbled)
    problems += _list("have a RescaleSlope of 0", (f for f in single if 0 in numbers(f, "RescaleSlope")))
    problems += _pixel_problems(single)
    kinds = [str(frame.get("RescaleType") or "").strip().upper() for frame in frames]
    odd = sorted(set(kinds) - set(HU_TYPES))
    problems += _list(f"hold {', '.join(odd)} and not HU", (f for f, k in zip(frames, kinds, strict=True) if k in odd))
    uids = Counter(str(frame.get("FrameOfReferenceUID")) for frame in frames)
    usual = uids.most_common(1)[0][0]
    odd = [frame for frame in frames if str(frame.get("FrameOfReferenceUID")) != usual]
    problems += _list(f"of {len(frames)} have another FrameOfReferenceUID than the others", odd)
    if problems:
        raise UserError(f"{'; '.join(problems)}; {MOVE_OUT}")
    for what, keyword in (("temporal phases", "TemporalPositionIndex"), ("stacks", "StackID")):
        _require_one(what, keyword, frames)


def _pixel_problems(frames: Sequence[Frame]) -> list[str]:
    """Descriptions of pixels that decoders refuse, or that they follow in different ways."""
    bits = [[next(iter(numbers(f, t)), 0.0) for t in ("BitsAllocated", "BitsStored", "HighBit")] for f in frames]
    wrong = {
        f"have a BitsAllocated other than {', '.join(map(str, BITS_ALLOCATED))}": [
            a not in BITS_ALLOCATED for a, _, _ in bits
        ],
        "have more BitsStored than BitsAllocated": [stored > allocated for allocated, stored, _ in bits],
        "have pixels in higher bits than BitsStored (HighBit)": [high >= stored > 0 for _, stored, high in bits],
        "have a table of values (ModalityLUTSequence), which is not read": [
            bool(f.get("ModalityLUTSequence")) for f in frames
        ],
    }
    return [
        text for problem, is_wrong in wrong.items() for text in _list(problem, itertools.compress(frames, is_wrong))
    ]


def slice_geometry(frame: Frame) -> SliceGeometry:
    """The place of a frame that `check_frames` accepts."""
    acquisition, instance = (next(iter(numbers(frame, key)), None) for key in ("AcquisitionNumber", "InstanceNumber"))
    instance = instance if frame.index is None else float(frame.index)
    return SliceGeometry(
        name=frame.name,
        size_yx=(int(frame.get("Rows")), int(frame.get("Columns"))),
        spacing_yx_mm=tuple(float(value) for value in frame.get("PixelSpacing")),
        position_mm=np.array(frame.get("ImagePositionPatient"), dtype=float),
        axes=np.array(frame.get("ImageOrientationPatient"), dtype=float).reshape(2, 3),
        number=None if instance is None else (acquisition or 0.0, instance),
    )


def numbers(frame: Frame | Dataset, tag: str) -> list[float]:
    """The values of an attribute that are finite numbers; pydicom leaves garbled ones as text."""
    found = []
    for value in np.ravel(frame.get(tag, ())):
        with contextlib.suppress(TypeError, ValueError):
            found.append(float(value))
    return [number for number in found if np.isfinite(number)]


def _require_one(what: str, keyword: str, frames: Sequence[Frame]) -> None:
    """Refuse frames of several stacks or phases: which of them is the CT is for the user to say."""
    groups: dict[str, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[str(frame.get(keyword) or "").strip()].append(frame)
    if len(groups) > 1:
        listed = shorten((f"{key or 'none'}: {len(group)} frames" for key, group in sorted(groups.items())), "; ")
        raise UserError(f"holds {len(groups)} {what} ({listed}); export one of them as a series of its own")


def _list(problem: str, frames: Iterable[Frame]) -> list[str]:
    names = [frame.name for frame in frames]
    return [f"{len(names)} file(s) {problem}: {shorten(names)}"] if names else []

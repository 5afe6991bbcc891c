"""A CT and one label map: `images/<case>` and `labels/<case>`, or both in a folder per case.

The label map's own header (3D Slicer) names its values, else organs.ctbl beside it, else the order of the preset's
organs.
"""

import re
from pathlib import Path

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import (
    find_case_folders,
    likely_cts,
    log_left_out,
    only_ct,
    read_label_file,
    require_folder,
    subfolders,
)
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.files import folders_below
from utils.io.segmentations import CaseFiles
from utils.io.volumes import read_lps, volume_stem, volumes_in

IMAGES, LABELS = "images", "labels"
CHANNEL = "_0000"
"""nnU-Net adds it to the names of CTs."""
LABEL_NAME = re.compile(r"(?:^|.*[\W_])(?:labels?|label_?maps?|seg|segmentation|mask)", re.IGNORECASE)
EXPECTED = f"{IMAGES}/<case>.nii.gz and {LABELS}/<case>.nii.gz, or <case>/ct.nii.gz and <case>/label.nii.gz"


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the label maps at or below a folder: see `Source.list_cases`."""
    folders = folders_below(require_folder(folder, EXPECTED))
    labels = [label for path in folders if path.name.lower() == LABELS for label in volumes_in(path)]
    if labels:
        images = [image for path in folders if path.name.lower() == IMAGES for image in volumes_in(path)]
        labeled = {_case_of(label) for label in labels}
        log_left_out([image for image in images if _case_of(image) not in labeled], "a label map")
        return [RawCaseHandle(case_id=volume_stem(label), location=label) for label in labels]
    cases = find_case_folders(folder, _label_maps_in, EXPECTED)
    return [
        RawCaseHandle(case_id=name, location=_label_maps_in(path)[0], patient=path.name) for name, path in cases.items()
    ]


def read_case(handle: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read a CT and its label map: see `Source.read_case`."""
    image = find_image(handle.location)
    volume = read_lps(image)
    files = CaseFiles(case_id=handle.case_id, label_map=handle.location)
    return RawCase.of(handle, volume, read_label_file(files, volume.geometry, preset), image)


def find_image(label: Path) -> Path:
    """The CT of a label map: of the same name in `images`, or the only other volume beside it.

    Raises:
        UserError: there is none, or several.
    """
    if label.parent.name.lower() == LABELS:
        expected = f"{label.parent.parent / IMAGES / volume_stem(label)}.nii.gz (or another format)"
        return only_ct(_images_of(label), label, expected)
    labels = _label_maps_in(label.parent)
    if len(labels) > 1:
        names = ", ".join(path.name for path in labels)
        raise UserError(f"holds {len(labels)} label maps ({names}); keep one", label.parent)
    found = likely_cts(path for path in volumes_in(label.parent) if path not in labels)
    return only_ct(found, label, f"one more volume in {label.parent}")


def _images_of(label: Path) -> list[Path]:
    """The CTs in `images` beside `labels` that are called like the label map."""
    images = [path for folder in subfolders(label.parent.parent, (IMAGES,)) for path in volumes_in(folder)]
    return [path for path in images if _case_of(path) == _case_of(label)]


def _case_of(path: Path) -> tuple[Path, str]:
    """The same for a CT and its label map: the folder of `images` and `labels`, and the name without `_0000`."""
    return path.parent.parent, volume_stem(path).removesuffix(CHANNEL)


def _label_maps_in(folder: Path) -> list[Path]:
    return [path for path in volumes_in(folder) if LABEL_NAME.fullmatch(volume_stem(path))]

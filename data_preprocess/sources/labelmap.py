"""A CT and one label map: `images/<case>` and `labels/<case>`, or both in a folder per case.

What the values mean is said by the label map's own header (3D Slicer), by organs.ctbl beside it, or else by the order
of the preset's organs.
"""

import re
from pathlib import Path

from data_preprocess.sources.base import RawCase, RawCaseHandle
from data_preprocess.sources.common import case_paths, read_ct_file, read_label_file, unique_names, volumes_in
from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.segmentations import CaseFiles
from utils.io.volumes import volume_stem

IMAGES, LABELS = "images", "labels"
LABEL_NAME = re.compile(r"(?:^|.*[\W_])(?:labels?|label_?maps?|seg|segmentation|mask)", re.IGNORECASE)


def list_cases(folder: Path | None) -> list[RawCaseHandle]:
    """Find the cases at or below a folder.

    Raises:
        UserError: the folder does not exist or holds no label maps.
    """
    references = []
    folders = case_paths(folder, "CTs and label maps")
    for path in folders:
        if (path / LABELS).is_dir():
            inner = volumes_in(path / LABELS)
            references += [RawCaseHandle(case_id=volume_stem(label), location=str(label)) for label in inner]
    if not references:
        labels = {path: [v for v in volumes_in(path) if LABEL_NAME.fullmatch(volume_stem(v))] for path in folders}
        cases = {path: found for path, found in labels.items() if found}
        names = unique_names(cases, folder)
        references = [
            RawCaseHandle(case_id=names[path], location=str(found[0]), patient=path.name)
            for path, found in cases.items()
        ]
    if not references:
        raise UserError(
            f"{folder}: expected {IMAGES}/<case>.nii.gz and {LABELS}/<case>.nii.gz, or <case>/ct.nii.gz and "
            "<case>/label.nii.gz; found no label map"
        )
    return references


def read_case(reference: RawCaseHandle, preset: Preset | None = None) -> RawCase:
    """Read one case.

    Args:
        reference: from `list_cases`.
        preset: whose organs to read; None reads every structure.

    Raises:
        UserError: there is no CT, or several; a file is damaged, or on another grid.
    """
    label = Path(reference.location)
    image = find_image(label)
    volume = read_ct_file(image)
    structures = read_label_file(CaseFiles(case_id=reference.case_id, label_map=label), volume.geometry, preset)
    return RawCase(
        case_id=reference.case_id,
        volume=volume,
        masks=structures.masks,
        unknown=structures.unknown,
        patient=reference.patient,
        source=str(image),
    )


def find_image(label: Path) -> Path:
    """The CT that belongs to a label map: of the same name in `images`, or the only other volume beside it.

    Raises:
        UserError: there is none, or several.
    """
    if label.parent.name == LABELS:
        folder = label.parent.parent / IMAGES
        images = volumes_in(folder) if folder.is_dir() else []
        found = [path for path in images if volume_stem(path) == volume_stem(label)]
        expected = f"{folder}/{volume_stem(label)}.nii.gz (or another format)"
    else:
        beside = volumes_in(label.parent)
        found = [path for path in beside if not LABEL_NAME.fullmatch(volume_stem(path))]
        labels = [path.name for path in beside if path not in found]
        if len(labels) > 1:
            raise UserError(f"{label.parent}: holds {len(labels)} label maps ({', '.join(labels)}); keep one")
        expected = f"one more volume in {label.parent}"
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{label}: has {len(found)} CTs ({', '.join(path.name for path in found)}); keep one")
    raise UserError(f"{label}: has no CT; expected {expected}")

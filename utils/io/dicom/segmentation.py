"""Write a label map as a DICOM Segmentation (SEG) with coded anatomy, by the library highdicom."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.dicom.description import TYPE_2, DicomDescription, anatomy_code, laterality_code
from utils.io.dicom.series import CtSeries
from utils.io.files import atomic_write
from utils.io.volumes import Volume
from utils.runtime.console import silenced

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription


def require_highdicom() -> None:
    """Check that highdicom, which is needed for DICOM SEG alone, is installed.

    Raises:
        UserError: it is not.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--dicom-seg: the package highdicom is missing; install it with `pip install highdicom`"
        ) from error


def write_dicom_seg(path: Path, label: Volume, series: CtSeries, preset: Preset, description: DicomDescription) -> None:
    """Write the organs of a label map, one binary segment per organ with voxels.

    The segmentation has the grid of `label`. Its frames refer to the CT's slices where both have the same position. A
    label map without organs gives one empty segment per organ: there must be a segment.

    Args:
        path: of the file.
        label: uint8, (slices, rows, columns), in the CT's frame of reference.
        series: the CT.
        preset: whose organs they are.
        description: names of the segments, and what made the label map.
    """
    import highdicom

    values = np.unique(label.array[label.array > 0]).tolist() or range(1, len(preset.organs) + 1)
    renumbered = np.zeros(len(preset.organs) + 1, dtype=np.uint8)  # segments are numbered without gaps
    renumbered[list(values)] = np.arange(1, len(values) + 1)
    images = _read_headers(series)
    with silenced("highdicom"):  # it tells of copied attributes and unusual names of patients
        segmentation = highdicom.seg.Segmentation(
            source_images=images,
            pixel_array=highdicom.Volume(
                renumbered[label.array],
                np.vstack([label.geometry.index_to_world(), (0, 0, 0, 1)]),
                coordinate_system="PATIENT",
                frame_of_reference_uid=images[0].FrameOfReferenceUID,
            ),
            segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=_describe_segments(values, preset, description),
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="FocusNet",
            manufacturer_model_name="FocusNet",
            software_versions=description.version,
            device_serial_number=description.version,
            content_label="FOCUSNET",
            content_description=description.origin[:64],
            series_description="Organs at risk by FocusNet, not for clinical use",
        )
    with atomic_write(path, suffix=".dcm") as partial:
        segmentation.save_as(partial)


def _read_headers(series: CtSeries) -> list[Dataset]:
    """The CT's files without pixels; attributes that highdicom copies are empty or new where the CT lacks them."""
    added = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), **dict.fromkeys(TYPE_2, "")}
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in dict.fromkeys(series.paths)]
    if series.slices[0].frame_number is not None:
        headers = headers[:1]  # highdicom refers to one multi-frame file only
    for header in headers:
        for keyword, value in added.items():
            if keyword not in header:
                setattr(header, keyword, value)
    return headers


def _describe_segments(values: list[int], preset: Preset, description: DicomDescription) -> list["SegmentDescription"]:
    """Name, anatomy, color and algorithm of each segment, in the order of the organs' values in the label map."""
    import highdicom

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="FocusNet",
        family=codes.DCM.ArtificialIntelligence,
        version=description.version,
        source=description.model[:64],
    )
    segments = []
    for number, value in enumerate(values, 1):
        organ, name = preset.organs[value - 1], description.organ_names[value - 1]
        segment = highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=anatomy_code(organ.name),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            tracking_uid=generate_uid(),
            tracking_id=name,
            display_color=highdicom.color.CIELabColor.from_rgb(*organ.color),
        )
        if laterality := laterality_code(organ.name):
            (property_type,) = segment.SegmentedPropertyTypeCodeSequence
            property_type.SegmentedPropertyTypeModifierCodeSequence = [highdicom.sr.CodedConcept.from_code(laterality)]
        segments.append(segment)
    return segments

"""Write a label map as a DICOM RT Structure Set on the CT series that was segmented.

The contours run between the centers of the pixels, where the probabilities of the organ and of its surroundings are
equal. A reader that fills the pixel centers inside them gets the mask back.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

from utils.config.preset import Preset
from utils.imaging.polygons import trace_polygons
from utils.io.dicom.dataset import read_dataset
from utils.io.dicom.description import TYPE_2, DicomDescription
from utils.io.dicom.series import CtSeries, StoredSlice
from utils.io.files import atomic_write

OPTIONAL = (
    *("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    *("StudyDescription", "PatientAge", "PatientSize", "PatientWeight"),
    *("ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID"),
    *("ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID"),
)
"""Attributes of the patient and the study that the structure set has if the CT has them."""
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""SOP class of a reference to a study; retired, but the one that planning systems write and expect."""
DECIMALS = 3
"""Of coordinates in mm; a number in DICOM has at most 16 characters."""


def write_rtstruct(
    path: Path,
    label: np.ndarray,
    margin: Callable[[int], np.ndarray],
    series: CtSeries,
    preset: Preset,
    description: DicomDescription,
) -> None:
    """Write the organs of a label map.

    Organs without voxels are left out. If none has voxels, all are listed without contours: there must be a structure.

    Args:
        path: of the file.
        label: (slices, rows, columns) uint8, on the grid of the CT that was segmented.
        margin: gives for an organ's value in the label map by how much its probability exceeds that of everything else,
            of the same shape, -1..1: see `trace_polygons`.
        series: the CT.
        preset: whose organs they are.
        description: names of the structures, and what made the label map.
    """
    image = read_dataset(series.paths[0])
    structures = _header(image, description)
    frame_uid = series.frame_of_reference_uid or generate_uid()
    _refer_to_images(structures, image, frame_uid, series.slices)
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    boxes = ndimage.find_objects(label, max_label=len(preset.organs))
    for number, (organ, name, box) in enumerate(zip(preset.organs, description.organ_names, boxes, strict=True), 1):
        if box is None and any(boxes):
            continue
        roi = _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame_uid, ROIName=name)
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        structures.StructureSetROISequence.append(roi)
        drawn = _item(ReferencedROINumber=number, ROIDisplayColor=list(organ.color))
        if box is not None and (contours := _contours(label == number, box, margin(number), series)):
            drawn.ContourSequence = contours
        structures.ROIContourSequence.append(drawn)
        structures.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        )
    with atomic_write(path, suffix=".dcm") as partial:
        structures.save_as(partial, enforce_file_format=True)


def _header(image: Dataset, description: DicomDescription) -> Dataset:
    """The modules of the file, patient, study, clinical trial, series, equipment, structure set and approval."""
    now = datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    structures = _item(
        SpecificCharacterSet=image.get("SpecificCharacterSet") or "ISO_IR 192",
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID=generate_uid(),
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        StudyInstanceUID=image.get("StudyInstanceUID") or generate_uid(),
        Modality="RTSTRUCT",
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=1,
        SeriesDate=date,
        SeriesTime=time,
        SeriesDescription="Organs at risk by FocusNet, not for clinical use",
        OperatorsName="",
        Manufacturer="FocusNet",
        ManufacturerModelName="FocusNet",
        SoftwareVersions=description.version,
        StructureSetLabel="FocusNet",
        StructureSetDescription=description.origin,
        StructureSetDate=date,
        StructureSetTime=time,
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in TYPE_2:
        setattr(structures, keyword, "")
    for keyword in (*TYPE_2, *OPTIONAL):
        if keyword in image:
            structures[keyword] = image[keyword]
    structures.file_meta = FileMetaDataset()
    structures.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # with explicit VRs a contour ends at 64 KiB
    return structures


def _refer_to_images(structures: Dataset, image: Dataset, frame_uid: str, slices: Iterable[StoredSlice]) -> None:
    """The module Frame of Reference, and the images that the contours lie on."""
    of_file = {slice_.sop_instance_uid: replace(slice_, frame_number=None) for slice_ in slices}
    references = [_reference(slice_) for slice_ in of_file.values()]
    series = _item(SeriesInstanceUID=image.SeriesInstanceUID, ContourImageSequence=references)
    study = _item(
        ReferencedSOPClassUID=DETACHED_STUDY_MANAGEMENT,
        ReferencedSOPInstanceUID=structures.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    structures.FrameOfReferenceUID = frame_uid
    structures.ReferencedFrameOfReferenceSequence = [
        _item(FrameOfReferenceUID=frame_uid, RTReferencedStudySequence=[study])
    ]


def _reference(slice_: StoredSlice) -> Dataset:
    item = _item(ReferencedSOPClassUID=slice_.sop_class_uid, ReferencedSOPInstanceUID=slice_.sop_instance_uid)
    if slice_.frame_number is not None:
        item.ReferencedFrameNumber = slice_.frame_number
    return item


def _contours(mask: np.ndarray, box: tuple[slice, slice, slice], margin: np.ndarray, series: CtSeries) -> list[Dataset]:
    """The contours of an organ on the slices as they are stored.

    Args:
        mask: bool (D, H, W), on the grid of the CT.
        box: around it.
        margin: float (D, H, W).
        series: whose grid, if its slices do not lie on one, leads back to them: there the organ is where the margin is
            positive.
    """
    if series.grid is None:
        around = _with_neighbors(box, mask.shape)
        corner, polygons = tuple(axis.start for axis in around), map(trace_polygons, mask[around], margin[around])
    else:
        corner, values = series.grid.on_slices(margin)
        polygons = map(trace_polygons, values > 0, values)
    contours = []
    first_slice, first_row, first_column = corner
    for slice_, of_slice in zip(series.slices[first_slice:], polygons, strict=False):
        for polygon in of_slice:
            vertices = (polygon + (first_row, first_column)).tolist()
            points_mm = [slice_.geometry.world_mm((0, row, column)) for row, column in vertices]
            contour = _item(ContourImageSequence=[_reference(slice_)], ContourGeometricType="CLOSED_PLANAR")
            contour.NumberOfContourPoints = len(points_mm)
            contour.ContourData = np.round(points_mm, DECIMALS).ravel().tolist()
            contours.append(contour)
    return contours


def _with_neighbors(box: tuple[slice, slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """A box with a pixel more on each side in the plane of the slices."""
    slices, *plane = box
    return slices, *(slice(max(a.start - 1, 0), min(a.stop + 1, n)) for a, n in zip(plane, shape[1:], strict=True))


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item

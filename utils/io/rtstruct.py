"""Write a label map as a DICOM RT Structure Set on the CT series that was segmented.

The contours follow the edges of the pixels, so a reader that fills the pixel centers inside them gets the mask back.
"""

from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from scipy import ndimage

from utils.config.preset import Preset
from utils.imaging.contours import trace_polygons
from utils.imaging.geometry import Geometry
from utils.io.dicom import CtSeries, read_dataset
from utils.io.files import atomic_write

PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PositionReferenceIndicator")
STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
"""Attributes of the CT of type 2: they must be present, and are empty if the CT lacks them."""
OPTIONAL = ("StudyDescription", "PatientAge", "PatientSize", "PatientWeight")
DETACHED_STUDY_MANAGEMENT = "1.2.840.10008.3.1.2.3.1"
"""SOP class of a reference to a study; retired, but the one that planning systems write and expect."""
DECIMALS = 3
"""Of coordinates in mm; a number in DICOM has at most 16 characters."""


def write_rtstruct(path: Path, label: np.ndarray, series: CtSeries, preset: Preset) -> None:
    """Write the organs of a label map, (slices, rows, columns) uint8 on the grid of the CT that was segmented.

    Organs without voxels are left out.
    """
    image = read_dataset(series.paths[0])
    structures = _header(image)
    frame_uid = series.frame_of_reference_uid or generate_uid()
    references = [
        _item(ReferencedSOPClassUID=image.SOPClassUID, ReferencedSOPInstanceUID=uid) for uid in series.sop_instance_uids
    ]
    _refer_to_images(structures, image, frame_uid, references)
    structures.StructureSetROISequence = []
    structures.ROIContourSequence = []
    structures.RTROIObservationsSequence = []
    boxes = ndimage.find_objects(label, max_label=len(preset.organs))
    for number, (organ, box) in enumerate(zip(preset.organs, boxes, strict=True), 1):
        if box is None:
            continue
        roi = _item(ROINumber=number, ReferencedFrameOfReferenceUID=frame_uid, ROIName=organ.name)
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        structures.StructureSetROISequence.append(roi)
        contours = _contours(label[box] == number, box, series.volume.geometry, references)
        structures.ROIContourSequence.append(
            _item(ReferencedROINumber=number, ROIDisplayColor=list(organ.color), ContourSequence=contours)
        )
        structures.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        )
    with atomic_write(path, suffix=".dcm") as partial:
        structures.save_as(partial, enforce_file_format=True)


def _header(image: Dataset) -> Dataset:
    """The modules SOP Common, Patient, General Study, RT Series, General Equipment, Structure Set and Approval."""
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
        StructureSetLabel="FocusNet",
        StructureSetDate=date,
        StructureSetTime=time,
        ApprovalStatus="UNAPPROVED",
    )
    for keyword in (*PATIENT, *STUDY):
        setattr(structures, keyword, "")
    for keyword in (*PATIENT, *STUDY, *OPTIONAL):
        if keyword in image:
            structures[keyword] = image[keyword]
    structures.file_meta = FileMetaDataset()
    structures.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # with explicit VRs a contour ends at 64 KiB
    return structures


def _refer_to_images(structures: Dataset, image: Dataset, frame_uid: str, references: list[Dataset]) -> None:
    """The module Frame of Reference, and the images that the contours lie on."""
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


def _contours(
    mask: np.ndarray, box: tuple[slice, slice, slice], geometry: Geometry, references: list[Dataset]
) -> list[Dataset]:
    """The contours of a mask that lies in a box of the grid; `references` name the image of each slice."""
    contours = []
    first_slice, first_row, first_column = (axis.start for axis in box)
    for index, plane in enumerate(mask, first_slice):
        for polygon in trace_polygons(plane):
            corners = polygon + (first_row - 0.5, first_column - 0.5)  # index 0 is the center of the first pixel
            points_mm = [geometry.world_mm((index, row, column)) for row, column in corners.tolist()]
            contour = _item(ContourImageSequence=[references[index]], ContourGeometricType="CLOSED_PLANAR")
            contour.NumberOfContourPoints = len(points_mm)
            contour.ContourData = np.round(points_mm, DECIMALS).ravel().tolist()
            contours.append(contour)
    return contours


def _item(**attributes: object) -> Dataset:
    item = Dataset()
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return item

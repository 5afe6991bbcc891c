"""DICOM files for tests: CT series as a scanner writes them, with changed fields, and structure sets."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from skimage.measure import find_contours

from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume

INTERCEPT = -1024


def uid_of(name: str) -> UID:
    """The same UID for the same text."""
    return generate_uid(entropy_srcs=[name])


def new_dataset(sop_class: UID, instance_uid: UID) -> FileDataset:
    """An empty data set of a class, with the header of a file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance_uid
    return dataset


def ct_slices(volume: Volume, *, patient: str = "P1", series: str = "planning") -> list[FileDataset]:
    """One data set per slice of a volume whose slices ascend along their normal."""
    geometry = volume.geometry
    frame = np.reshape(geometry.direction, (3, 3))
    slices = []
    for index, plane in enumerate(volume.array):
        dataset = new_dataset(CTImageStorage, uid_of(f"{patient} {series} {index}"))
        dataset.Modality = "CT"
        dataset.PatientID = patient
        dataset.PatientName = patient
        dataset.StudyInstanceUID = uid_of(f"{patient} study")
        dataset.SeriesInstanceUID = uid_of(f"{patient} {series}")
        dataset.FrameOfReferenceUID = uid_of(f"{patient} {series} frame")
        dataset.SeriesDescription = series
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.InstanceNumber = index + 1
        dataset.ImagePositionPatient = [f"{v:.10g}" for v in geometry.world_mm((index, 0, 0))]
        dataset.ImageOrientationPatient = [f"{v:.12g}" for v in frame[:, :2].T.ravel()]
        dataset.PixelSpacing = [f"{v:.10g}" for v in geometry.spacing_zyx_mm[1:]]
        dataset.SliceThickness = f"{geometry.spacing_zyx_mm[0]:.10g}"
        dataset.Rows, dataset.Columns = plane.shape
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit = 15
        dataset.PixelRepresentation = 0
        dataset.RescaleSlope = "1"
        dataset.RescaleIntercept = str(INTERCEPT)
        dataset.PixelData = (plane.astype(np.int32) - INTERCEPT).astype("<u2").tobytes()
        slices.append(dataset)
    return slices


def save_all(datasets: list[FileDataset], folder: Path, name: Callable[[int], str] = "slice{:03d}.dcm".format) -> None:
    """Write data sets as files of the given names."""
    for index, dataset in enumerate(datasets):
        path = folder / name(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)


def change(datasets: list[FileDataset], index: int, **fields: object) -> Dataset:
    """Set fields of one data set; None removes the field."""
    for name, value in fields.items():
        if value is None:
            delattr(datasets[index], name)
        else:
            setattr(datasets[index], name, value)
    return datasets[index]


def structure_set(
    slices: list[FileDataset], rois: Mapping[str, Iterable[np.ndarray]], *, name: str = "approved"
) -> FileDataset:
    """A structure set on a CT series; each structure is a list of (N, 3) contours in mm."""
    first = slices[0]
    dataset = new_dataset(RTStructureSetStorage, uid_of(f"{first.SeriesInstanceUID} {name}"))
    dataset.Modality, dataset.PatientID, dataset.PatientName = "RTSTRUCT", first.PatientID, first.PatientID
    dataset.StudyInstanceUID = first.StudyInstanceUID
    dataset.SeriesInstanceUID = uid_of(f"{first.SeriesInstanceUID} {name} series")
    dataset.StructureSetLabel = name
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (roi_name, contours) in enumerate(rois.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, roi_name
        roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = [_contour(points) for points in contours]
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    return dataset


def trace(mask: np.ndarray, geometry: Geometry) -> Iterator[np.ndarray]:
    """Contours (N, 3) in mm around a mask (D, H, W), halfway to the voxels outside."""
    for index, plane in enumerate(mask):
        for outline in find_contours(np.pad(plane, 1).astype(float), 0.5):
            yield np.array([geometry.world_mm((index, y - 1, x - 1)) for y, x in outline[:-1]])


def _contour(points: np.ndarray) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [f"{value:.8g}" for value in np.ravel(points)]
    return contour

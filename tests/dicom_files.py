"""DICOM files for tests: CT series as a scanner writes them, with changed fields, and structure sets."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    generate_uid,
)
from scipy import ndimage
from skimage.measure import find_contours

from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume

INTERCEPT = -1024
MOVED = {
    "ImagePositionPatient": "PlanePositionSequence",
    "GantryDetectorTilt": "CTAcquisitionDetailsSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
"""Attributes that are in functional groups of a multi-frame file."""


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


def scan(volume: Volume, table_mm: Sequence[float], tilt_deg: float = 0.0, **names: str) -> list[FileDataset]:
    """The slices that a scanner with a tilted gantry makes of a volume (axial, HU) at the positions of its table.

    The gantry turns around the patient's left-right axis through the volume's middle. As on a scanner, the table moves
    along z, and ImagePositionPatient with it.
    """
    geometry = volume.geometry
    _, height, width = geometry.size_zyx
    cos, sin = np.cos(np.radians(tilt_deg)), np.sin(np.radians(tilt_deg))
    row, column = np.array([1.0, 0.0, 0.0]), np.array([0.0, cos, sin])
    middle = np.array(geometry.world_mm((0, (height - 1) / 2, 0)))
    corners = [
        middle + (0, 0, z - middle[2]) - column * (height - 1) / 2 * geometry.spacing_zyx_mm[1] for z in table_mm
    ]
    y, x = np.mgrid[:height, :width]
    planes = []
    for corner in corners:
        points = corner + np.multiply.outer(y * geometry.spacing_zyx_mm[1], column)
        points += np.multiply.outer(x * geometry.spacing_zyx_mm[2], row)
        index = geometry.index_zyx(points.reshape(-1, 3)).T
        plane = ndimage.map_coordinates(volume.array.astype(np.float32), index, order=1, cval=-1000)
        planes.append(np.rint(plane).astype(np.int16).reshape(height, width))
    stacked = Volume(array=np.stack(planes), geometry=replace(geometry, size_zyx=(len(planes), height, width)))
    slices = ct_slices(stacked, **names)
    for dataset, corner in zip(slices, corners, strict=True):
        dataset.ImagePositionPatient = [f"{v:.6f}" for v in corner]
        dataset.ImageOrientationPatient = [f"{v:.8f}" for v in (*row, *column)]
        dataset.GantryDetectorTilt = f"{tilt_deg:g}"
    return slices


def enhanced(slices: Sequence[FileDataset], name: str = "enhanced", **of_frames: Sequence[object]) -> FileDataset:
    """One multi-frame file (Enhanced CT) of single-frame ones; attributes that all share are in the shared groups.

    Args:
        slices: of one series.
        name: of the file's UID.
        of_frames: values for each frame of TemporalPositionIndex, StackID or FrameType.
    """
    first = slices[0]
    dataset = new_dataset(EnhancedCTImageStorage, uid_of(f"{first.SeriesInstanceUID} {name}"))
    for element in first:
        if element.keyword not in (*MOVED, "SOPClassUID", "SOPInstanceUID", "PixelData"):
            dataset[element.keyword] = element
    dataset.NumberOfFrames = len(slices)
    dataset.PixelData = b"".join(slice_.PixelData for slice_ in slices)
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in slices]
    for keyword, macro in MOVED.items():
        values = [slice_.get(keyword) for slice_ in slices if keyword in slice_]
        is_shared = keyword != "ImagePositionPatient" and all(value == values[0] for value in values)
        groups = dataset.SharedFunctionalGroupsSequence if is_shared else dataset.PerFrameFunctionalGroupsSequence
        for group, value in zip(groups, values, strict=False):
            _set_in_group(group, macro, keyword, value)
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
        content = {"StackID": "1", "InStackPositionNumber": number, "FrameAcquisitionNumber": 1}
        content |= {"DimensionIndexValues": [1, number]}
        for keyword, value in (content | {key: values[number - 1] for key, values in of_frames.items()}).items():
            macro = "CTImageFrameTypeSequence" if keyword == "FrameType" else "FrameContentSequence"
            _set_in_group(group, macro, keyword, value)
    return dataset


def _set_in_group(group: Dataset, macro: str, keyword: str, value: object) -> None:
    if macro not in group:
        setattr(group, macro, [Dataset()])
    setattr(group[macro][0], keyword, value)

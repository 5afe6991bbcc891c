"""DICOM files for tests: CT series as a scanner writes them, with any field changed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from utils.volume_io import Volume

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

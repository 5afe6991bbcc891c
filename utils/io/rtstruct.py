"""Write a label map as a DICOM RTSTRUCT that lies on the CT series it was made from.

rt-utils builds the data set and its references. The contours are ours: it traces the centers of border pixels, which
takes half a pixel off all around, and takes rows for columns where pixels are not square. Ours follow the pixels'
edges, so that whoever asks which pixel centers they hold gets the mask back. A hole is joined to its outline by a cut
of no width: readers that fill every contour understand that as well as those that count crossings.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from rt_utils import ds_helper
from rt_utils.utils import ROIData
from scipy import ndimage

from utils.config.preset import Preset
from utils.imaging.contours import trace_outlines
from utils.imaging.geometry import Geometry
from utils.imaging.masks import connected_components
from utils.io.dicom import CtSeries, read_dataset
from utils.io.files import atomic_write

OFTEN_MISSING = ("StudyDate", "StudyTime", "StudyID")
"""rt-utils takes these for granted."""
HEADER = {
    "Manufacturer": "FocusNet",
    "ManufacturerModelName": "FocusNet",
    "StructureSetLabel": "FocusNet",
    "SeriesDescription": "Organs at risk by FocusNet, not for clinical use",
}
DECIMALS = 3
"""Of coordinates in mm; a DICOM number has at most 16 characters."""


def write_rtstruct(path: Path, label: np.ndarray, series: CtSeries, preset: Preset) -> None:
    """Write the organs of a label map, those without voxels left out.

    Args:
        path: target, ending in .dcm.
        label: (slices, rows, columns) uint8 on the grid of the series.
        series: the CT that was segmented.
        preset: names and colors.
    """
    slices = [_slice_header(image) for image in series.paths]
    structures = ds_helper.create_rtstruct_dataset(slices)
    for name, value in HEADER.items():
        setattr(structures, name, value)
    del structures.InstitutionName  # of rt-utils' makers
    frame_uid = structures.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID
    boxes = ndimage.find_objects(label, max_label=len(preset.organs))
    for value, (organ, box) in enumerate(zip(preset.organs, boxes, strict=True), 1):
        if box is not None:
            _add_organ(structures, slices, label == value, series.volume.geometry, _roi(value, organ, frame_uid))
    with atomic_write(path, suffix=".dcm") as partial:
        structures.save_as(partial, enforce_file_format=True)


def slice_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """One closed polygon per connected part of a mask, along the edges of its pixels.

    Args:
        mask: (h, w) bool.

    Returns:
        (n, 2) arrays of corners (row, column), the first not repeated; pixel (0, 0) has the corners (0, 0) and (1, 1).
    """
    parts = connected_components(mask, connectivity=1).labels
    polygons = []
    for value, box in enumerate(ndimage.find_objects(parts), 1):
        outlines = [_without_midpoints(outline) for outline in trace_outlines(parts[box] == value)]
        outer, *holes = sorted(outlines, key=lambda outline: -abs(_area(outline)))
        for hole in holes:
            outer = _join(outer, hole)
        polygons.append(outer + [axis.start for axis in box])
    return polygons


def _slice_header(path: Path) -> Dataset:
    header = read_dataset(path)
    for name in OFTEN_MISSING:
        if name not in header:
            setattr(header, name, "")
    return header


def _roi(number: int, organ: object, frame_uid: str) -> ROIData:
    return ROIData(
        mask=None,
        color=list(organ.color),
        number=number,
        name=organ.name,
        frame_of_reference_uid=frame_uid,
        roi_generation_algorithm="AUTOMATIC",
    )


def _add_organ(
    structures: Dataset, slices: Sequence[Dataset], mask: np.ndarray, geometry: Geometry, roi: ROIData
) -> None:
    contours = Dataset()
    contours.ROIDisplayColor = roi.color
    contours.ReferencedROINumber = str(roi.number)
    contours.ContourSequence = [
        ds_helper.create_contour(slices[index], points.ravel().tolist())
        for index, points in _contour_points(mask, geometry)
    ]
    structures.ROIContourSequence.append(contours)
    structures.StructureSetROISequence.append(ds_helper.create_structure_set_roi(roi))
    structures.RTROIObservationsSequence.append(_observation(roi.number))


def _observation(number: int) -> Dataset:
    observation = Dataset()
    observation.ObservationNumber = number
    observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    return observation


def _contour_points(mask: np.ndarray, geometry: Geometry) -> Iterator[tuple[int, np.ndarray]]:
    """Slice index and (n, 3) patient coordinates (x, y, z) in mm of every contour."""
    for index in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        for polygon in slice_polygons(mask[index]):
            points = [geometry.world_mm((index, row - 0.5, column - 0.5)) for row, column in polygon.tolist()]
            yield index, np.round(points, DECIMALS)


def _without_midpoints(outline: np.ndarray) -> np.ndarray:
    """Corners at which the outline turns."""
    before, after = outline - np.roll(outline, 1, axis=0), np.roll(outline, -1, axis=0) - outline
    return outline[(before != after).any(axis=1)]


def _area(outline: np.ndarray) -> float:
    following = np.roll(outline, -1, axis=0)
    return float((outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]).sum()) / 2


def _join(outer: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One polygon of an outline and a hole in it, joined by a cut between their closest corners and back."""
    distances = np.abs(outer[:, None] - hole[None]).sum(axis=-1)
    o, h = np.unravel_index(distances.argmin(), distances.shape)
    there_and_back = np.concatenate([hole[h:], hole[: h + 1]])
    return np.concatenate([outer[: o + 1], there_and_back, outer[o:]])

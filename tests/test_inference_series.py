"""inference.py: tilted, uneven and multi-frame series give the organs of the regular series of the same phantom.

The contours of structure sets lie on the slices as they are: filled there, they are the organs too.
"""

from functools import partial

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon

import inference
from data_preprocess.scans import list_scans, read_transformed
from data_preprocess.sources import dicom as dicom_source
from tests.dicom_files import enhanced, save_all, scan
from tests.fixed_networks import CODES_HU, PRESET, dice_of, fixed_model, masks_of, painted_patient
from utils.imaging.geometry import Geometry
from utils.imaging.masks import resample_mask
from utils.io.dicom.description import DicomDescription
from utils.io.dicom.rtstruct import write_rtstruct
from utils.io.volumes import Volume

SPACING = (2.5, 1.5, 1.5)
SURE = 0.97

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return fixed_model()


@pytest.fixture(scope="module")
def phantom():
    image, _ = painted_patient(SPACING, (260.0, 260.0, 240.0), dilations=3)
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=SPACING, origin_xyz_mm=(-81.3, 40.7, -12.9))
    return Volume(array=image, geometry=geometry)


def table_mm(volume, *distances_mm, beyond_mm=0.0):
    """Positions at these distances in blocks of equal height, from below the volume to above it."""
    bottom, top = (volume.geometry.world_mm((z, 0, 0))[2] for z in (0, volume.geometry.size_zyx[0] - 1))
    low, high = bottom - beyond_mm, top + beyond_mm
    positions = [low]
    for number, distance in enumerate(distances_mm, 1):
        end = low + (high - low) * number / len(distances_mm)
        while positions[-1] + distance <= end + 1e-6:
            positions.append(positions[-1] + distance)
    return np.array(positions)


class Segmented:
    """A series that was written, read and segmented, and its structure set beside it."""

    def __init__(self, datasets, folder, model):
        save_all(datasets, folder)
        (found,) = list_scans(folder)
        self.ct = read_transformed(found, PRESET.grid)
        self.series = self.ct.series
        segmentation = inference.segment(self.ct, model)
        self.masks = masks_of(segmentation.label)
        margin = partial(self.ct.transform.invert_margin, segmentation.prediction.probabilities)
        description = DicomDescription(organ_names=PRESET.organ_names, version="1", model="fixed")
        path = folder / "structures.dcm"
        write_rtstruct(path, segmentation.label.array, margin, self.series, PRESET, description)
        self.structures = pydicom.dcmread(path)
        (handle,) = dicom_source.list_cases(folder)
        self.case = dicom_source.read_case(handle, PRESET)


@pytest.fixture(scope="module")
def fine(phantom, model, tmp_path_factory):
    """The regular series with the smallest distances."""
    return Segmented(scan(phantom, table_mm(phantom, 1.5)), tmp_path_factory.mktemp("fine"), model)


@pytest.fixture(scope="module")
def usual_slices(phantom):
    return scan(phantom, table_mm(phantom, 2.5))


@pytest.fixture(scope="module")
def usual(usual_slices, model, tmp_path_factory):
    """A regular series with the distances of many scans."""
    return Segmented(usual_slices, tmp_path_factory.mktemp("usual"), model)


def fill_on_slices(segmented, name):
    """The pixels of each stored slice whose centers lie within the contours: bool (slices, rows, columns)."""
    slices = segmented.series.slices
    place = {(s.sop_instance_uid, s.frame_number): index for index, s in enumerate(slices)}
    filled = np.zeros((len(slices), *slices[0].geometry.size_zyx[1:]), dtype=bool)
    centers = np.indices(filled.shape[1:]).reshape(2, -1).T
    numbers = {roi.ROIName: roi.ROINumber for roi in segmented.structures.StructureSetROISequence}
    for item in segmented.structures.ROIContourSequence:
        for contour in item.get("ContourSequence", ()) if item.ReferencedROINumber == numbers[name] else ():
            (image,) = contour.ContourImageSequence
            index = place[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
            points = np.reshape([float(value) for value in contour.ContourData], (-1, 3))
            on_slice = slices[index].geometry.index_zyx(points)
            np.testing.assert_allclose(on_slice[:, 0], 0, atol=2e-3)  # in mm: it lies in the plane of its slice
            filled[index] ^= Polygon(on_slice[:, 1:]).contains_points(centers).reshape(filled.shape[1:])
    return filled


def sampled_on_slices(segmented, mask):
    """A mask on the stored slices."""
    planes = [resample_mask(mask, slice_.geometry).dense() for slice_ in segmented.series.slices]
    return np.concatenate(planes)


def require_same_organs(found, expected):
    scores = dice_of(found.masks, expected.masks)
    assert min(scores.values()) >= SURE, scores


def require_contours(found, expected):
    """On each slice as it is, the contours enclose the organs of a regular series."""
    for name in CODES_HU:
        filled, reference = fill_on_slices(found, name), sampled_on_slices(found, expected.masks[name])
        dice = 2 * np.sum(filled & reference) / (filled.sum() + reference.sum())
        assert dice >= SURE, (name, dice)


def require_trainable(found, least=SURE):
    """The source of training cases reads the structure set back as the organs that were segmented."""
    scores = dice_of(found.case.masks, found.masks)
    assert min(scores.values()) >= least, scores


@pytest.mark.parametrize(("tilt_deg", "is_multi_frame"), [(15, False), (-22, True)])
def test_a_tilted_series_gets_the_same_organs(tilt_deg, is_multi_frame, phantom, fine, model, tmp_path):
    slices = scan(phantom, table_mm(phantom, 1.5, beyond_mm=35), tilt_deg)
    found = Segmented([enhanced(slices)] if is_multi_frame else slices, tmp_path, model)
    assert f"the gantry was tilted by {abs(tilt_deg)}.0 degrees" in found.ct.notes
    require_same_organs(found, fine)
    require_contours(found, fine)
    require_trainable(found)


def test_blocks_of_7_and_4_mm_get_the_same_organs(phantom, fine, model, tmp_path):
    found = Segmented(scan(phantom, table_mm(phantom, 7.0, 4.0)), tmp_path / "uneven", model)
    grid = found.series.volume.geometry
    assert grid.spacing_zyx_mm[0] == pytest.approx(4.0)
    heights = [grid.world_mm((index, 0, 0))[2] for index in range(grid.size_zyx[0])]
    require_same_organs(found, Segmented(scan(phantom, heights), tmp_path / "regular", model))
    require_contours(found, fine)


def test_tilted_blocks_get_the_same_organs(phantom, fine, model, tmp_path):
    slices = scan(phantom, table_mm(phantom, 3.0, 2.0, beyond_mm=30), 12)
    found = Segmented([enhanced(slices)], tmp_path, model)
    assert "the gantry was tilted by 12.0 degrees" in found.ct.notes
    assert any(note.startswith("slice distances vary: 2.93 mm from") for note in found.ct.notes)
    require_same_organs(found, fine)
    require_contours(found, fine)
    require_trainable(found, least=0.96)  # between slices, contours do not say where an organ ends


def test_a_filled_gap_gets_the_same_organs(usual_slices, usual, model, tmp_path):
    save_all(usual_slices[:25] + usual_slices[26:], tmp_path)  # the missing slice shows both organs
    (found,) = list_scans(tmp_path)
    label = inference.segment(read_transformed(found, PRESET.grid, fill_gaps=True), model).label
    scores = dice_of(masks_of(label), usual.masks)
    assert min(scores.values()) >= SURE, scores


def test_a_multi_frame_file_gets_exactly_the_same_organs(usual_slices, usual, model, tmp_path):
    found = Segmented([enhanced(usual_slices)], tmp_path, model)
    for name in CODES_HU:
        np.testing.assert_array_equal(found.masks[name].voxels, usual.masks[name].voxels)
        np.testing.assert_array_equal(fill_on_slices(found, name), found.masks[name].dense())
        np.testing.assert_array_equal(found.case.masks[name].voxels, found.masks[name].voxels)

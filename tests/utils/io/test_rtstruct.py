"""rtstruct_output.py: contours lie on the slices of the CT, and independent readers get the masks back."""

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Polygon
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.draw import polygon2mask

from tests.dicom_files import ct_slices, save_all
from utils.imaging.geometry import Geometry
from utils.io.dicom import find_series, read_ct
from utils.io.rtstruct import slice_polygons, write_rtstruct
from utils.io.volumes import Volume

SIZE = (9, 40, 34)
TILTED = tuple(Rotation.from_euler("zyx", (20, -10, 5), degrees=True).as_matrix().ravel().tolist())


def organs():
    """Label map: 1 is a ball with a hole and an island in it, 3 two bodies of noise, 6 a small block; 2 is absent."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SIZE), indexing="ij")
    label = np.zeros(SIZE, dtype=np.uint8)
    radius = np.sqrt((2 * (z - 4)) ** 2 + (y - 13) ** 2 + (x - 14) ** 2)
    label[(radius < 11) & (radius > 5)] = 1
    label[radius < 2.5] = 1
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=SIZE), 1.2) > 0
    label[(y > 26) & noise & ((x < 14) | (x > 18))] = 3
    label[2:4, 1:3, 30:33] = 6
    return label


@pytest.fixture(params=["square pixels", "oblique, not square"])
def series(request, tmp_path):
    oblique = request.param.startswith("oblique")
    geometry = Geometry(
        size_zyx=SIZE,
        spacing_zyx_mm=(3.0, 1.5, 0.9) if oblique else (2.5, 1.0, 1.0),
        origin_xyz_mm=(-100.25, 33.5, -812.5),
        **({"direction": TILTED} if oblique else {}),
    )
    save_all(ct_slices(Volume(array=np.zeros(SIZE, dtype=np.int16), geometry=geometry)), tmp_path / "ct")
    return read_ct(find_series(tmp_path / "ct")[0])


@pytest.fixture
def structures(series, tiny_preset, tmp_path):
    write_rtstruct(tmp_path / "out.rtstruct.dcm", organs(), series, tiny_preset)
    return pydicom.dcmread(tmp_path / "out.rtstruct.dcm")


def contours_of(structures, number):
    (found,) = [item for item in structures.ROIContourSequence if int(item.ReferencedROINumber) == number]
    for contour in found.ContourSequence:
        (image,) = contour.ContourImageSequence
        yield image.ReferencedSOPInstanceUID, np.reshape([float(v) for v in contour.ContourData], (-1, 3))


def read_mask(structures, number, series, inside):
    """Whatever pixel centers lie in the contours, given in (row, column); `inside` says which."""
    geometry = series.volume.geometry
    matrix = geometry.index_to_world()
    mask = np.zeros(SIZE, dtype=bool)
    for uid, points in contours_of(structures, number):
        index = np.linalg.solve(matrix[:, :3], (points - matrix[:, 3]).T).T
        z = series.sop_instance_uids.index(uid)
        np.testing.assert_allclose(index[:, 0], z, atol=1e-3)  # the contour lies in the slice that it names
        mask[z] ^= inside(index[:, 1:])
    return mask


def by_matplotlib(corners):
    rows, columns = np.indices(SIZE[1:])
    return Polygon(corners).contains_points(np.column_stack([rows.ravel(), columns.ravel()])).reshape(SIZE[1:])


def by_skimage(corners):
    return polygon2mask(SIZE[1:], corners)


@pytest.mark.parametrize("inside", [by_matplotlib, by_skimage])
@pytest.mark.parametrize("number", [1, 3, 6])
def test_masks_come_back_from_their_contours(number, inside, structures, series):
    mask, truth = read_mask(structures, number, series, inside), organs() == number
    assert 2 * np.sum(mask & truth) / (mask.sum() + truth.sum()) > 0.999


def test_names_colors_and_references_are_those_of_the_ct(structures, series, tiny_preset):
    by_number = {int(roi.ROINumber): roi for roi in structures.StructureSetROISequence}
    assert {number: roi.ROIName for number, roi in by_number.items()} == {
        number: tiny_preset.organ_names[number - 1] for number in (1, 3, 6)
    }
    colors = {int(item.ReferencedROINumber): tuple(item.ROIDisplayColor) for item in structures.ROIContourSequence}
    assert colors == {number: tiny_preset.organs[number - 1].color for number in (1, 3, 6)}

    ct = pydicom.dcmread(series.paths[0])
    assert structures.Modality == "RTSTRUCT"
    assert structures.file_meta.MediaStorageSOPClassUID == structures.SOPClassUID
    for tag in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert structures[tag].value == ct[tag].value
    assert structures.SeriesInstanceUID != ct.SeriesInstanceUID
    (frame,) = structures.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert all(roi.ReferencedFrameOfReferenceUID == ct.FrameOfReferenceUID for roi in by_number.values())
    (referenced,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == ct.SeriesInstanceUID
    assert {image.ReferencedSOPInstanceUID for image in referenced.ContourImageSequence} == set(
        series.sop_instance_uids
    )
    assert all(uid in series.sop_instance_uids for number in (1, 3, 6) for uid, _ in contours_of(structures, number))


def test_a_hole_is_cut_open_to_one_polygon():
    ring = np.ones((5, 6), dtype=bool)
    ring[1:-1, 2:4] = False
    (polygon,) = slice_polygons(np.pad(ring, 1))
    rows, columns = polygon.T
    area = (columns * np.roll(rows, -1) - np.roll(columns, -1) * rows).sum() / 2
    assert abs(area) == 30 - 6
    steps = np.abs(np.diff(np.concatenate([polygon, polygon[:1]]), axis=0))
    assert (
        steps.sum() == 22 + 10 + 2 * 2 + 2
    )  # outline, hole, and the cut there and back, 1 or 2 pixels along each axis


def test_random_masks_are_exactly_their_polygons():
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = rng.random((11, 14)) > 0.45
        filled = np.zeros((11, 14), dtype=bool)
        rows, columns = np.indices(mask.shape)
        centers = np.column_stack([rows.ravel(), columns.ravel()]) + 0.5
        for polygon in slice_polygons(mask):
            filled ^= Polygon(polygon).contains_points(centers).reshape(mask.shape)
        np.testing.assert_array_equal(filled, mask)

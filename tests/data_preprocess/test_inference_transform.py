"""inference_transform.py: in any orientation the networks see the same image, and labels return to their voxels."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from data_preprocess.inference_transform import InferenceTransform, resample_to_label_map
from tests.reorientation import ALL_48, reoriented
from utils.config.preset import GridSettings
from utils.imaging.geometry import Geometry
from utils.imaging.interpolation import resize_linear
from utils.io.volumes import Volume

GRID = GridSettings(spacing_zyx_mm=(5.0, 4.0, 4.0), crop_size_vox=(8, 16, 12), roi_size_vox=(4, 8, 8))
ORIGIN = (-40.3, 17.1, 250.9)


def head(size=(24, 50, 36), spacing=(4.0, 2.5, 3.0), direction=None):
    """An ellipsoid whose values grow towards the head, the back and the left, in air; and its half-axes."""
    geometry = Geometry(size_zyx=size, spacing_zyx_mm=spacing, origin_xyz_mm=ORIGIN)
    if direction is not None:
        geometry = Geometry(size_zyx=size, spacing_zyx_mm=spacing, origin_xyz_mm=ORIGIN, direction=direction)
    center = geometry.world_mm(tuple((n - 1) / 2 for n in size))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1).reshape(-1, 3)
    matrix = geometry.index_to_world()
    x, y, z = (index @ matrix[:, :3].T + matrix[:, 3] - center).T
    inside = (z / 38) ** 2 + (y / 50) ** 2 + (x / 42) ** 2 < 1
    values = np.where(inside, 40 + 2 * z + y + 0.5 * x, -1000)
    return Volume(array=values.reshape(size).astype(np.int16), geometry=geometry)


def region_labels(seen):
    """A label of three layers of HU on the seen region."""
    return np.digitize(seen.region_hu, (0, 50, 100)).astype(np.uint8)


def test_there_are_48_orientations():
    assert len(ALL_48) == 48


@pytest.mark.parametrize(("order", "flips"), ALL_48)
def test_every_orientation_is_the_same_image_and_gets_its_own_voxels_back(order, flips):
    unchanged = head()
    expected = InferenceTransform.apply(unchanged, GRID)
    volume = reoriented(unchanged, order, flips)
    seen = InferenceTransform.apply(volume, GRID)
    np.testing.assert_array_equal(seen.image, expected.image)
    label = seen.transform.to_ct(region_labels(seen))
    np.testing.assert_array_equal(label, np.digitize(volume.array, (0, 50, 100)))
    point, other = (p.transform.world_mm((3, 2, 1)) for p in (seen, expected))
    np.testing.assert_allclose(point, other, atol=1e-6)


@pytest.mark.parametrize("angles_deg", [(10, 0, 0), (0, 20, 0), (12, -25, 33), (44, 3, 0)])
def test_an_oblique_scan_is_rotated_to_the_axes_of_the_patient_and_back(angles_deg):
    matrix = Rotation.from_euler("zyx", angles_deg, degrees=True).as_matrix()
    volume = head((60, 66, 62), (2.0, 2.0, 2.0), direction=tuple(matrix.ravel().tolist()))
    seen = InferenceTransform.apply(volume, GRID)
    aligned = InferenceTransform.apply(head((60, 66, 62), (2.0, 2.0, 2.0)), GRID)
    assert "rotated by" in seen.notes[0]
    sizes = zip(seen.image.shape, aligned.image.shape, strict=True)
    assert all(abs(own - other) <= 3 for own, other in sizes)
    body = torch.from_numpy(np.clip((seen.image + 1000) / 1000, 0, 1).astype(np.float32))
    label = seen.transform.invert(torch.stack([1 - body, body])).array
    reference = volume.array > -300
    dice = 2 * np.sum((label > 0) & reference) / (np.sum(label) + np.sum(reference))
    assert label.shape == volume.array.shape
    assert dice > 0.97


@pytest.mark.parametrize("tilt_deg", [12, 28])
def test_a_tilted_ct_of_the_networks_spacing_is_interpolated_once(tilt_deg):
    """Its layers repeat every four slices: linear interpolation between slices takes up to 30 % of their contrast."""
    matrix = Rotation.from_euler("x", tilt_deg, degrees=True).as_matrix()
    spacing = (5.0 * np.cos(np.radians(tilt_deg)), 4.0, 4.0)
    volume = head((40, 44, 42), spacing, direction=tuple(matrix.ravel().tolist()))
    middle = volume.geometry.world_mm((19.5, 21.5, 20.5))

    def layers_hu(geometry):
        to_world, index = geometry.index_to_world(), np.moveaxis(np.indices(geometry.size_zyx), 0, -1)
        x, y, z = np.moveaxis(index @ to_world[:, :3].T + to_world[:, 3], -1, 0)
        inside = ((z - middle[2]) / 30) ** 2 + ((y - middle[1]) / 40) ** 2 + ((x - middle[0]) / 34) ** 2 < 1
        return 50 + 100 * np.sin(2 * np.pi * z / 20), inside

    waves, _ = layers_hu(volume.geometry)
    volume.array[volume.array > -300] = waves[volume.array > -300]
    seen = InferenceTransform.apply(volume, GRID)
    expected, inside = layers_hu(seen.transform.network_geometry)
    assert inside.sum() > 1000
    error = seen.image[inside] - expected[inside]
    assert np.sqrt(np.mean(error**2)) < 9


@pytest.mark.parametrize("angles_deg", [(10, 0, 0), (12, -25, 33)])
def test_on_an_oblique_ct_an_organ_ends_where_its_interpolated_probability_is_one_half(angles_deg):
    """Its probability rises linearly through a plane, so that interpolation is exact; outside of the box there is 0."""
    matrix = Rotation.from_euler("zyx", angles_deg, degrees=True).as_matrix()
    volume = head((40, 44, 42), (3.0, 3.0, 3.0), direction=tuple(matrix.ravel().tolist()))
    transform = InferenceTransform.apply(volume, GRID).transform
    normal, middle = np.array((0.3, 0.5, 0.8)), np.array(volume.geometry.world_mm((19.5, 21.5, 20.5)))

    def height_mm(index_to_world, size):
        index = np.moveaxis(np.indices(size), 0, -1)
        return (index @ index_to_world[:, :3].T + index_to_world[:, 3] - middle) @ normal

    in_network = height_mm(transform.network_geometry.index_to_world(), transform.grid.size_zyx)
    second = torch.from_numpy(np.clip(0.5 + in_network / 400, 0, 1).astype(np.float32))
    label = transform.invert(torch.stack([torch.zeros_like(second), 1 - second, second])).array
    probability = transform.invert_probability(second)
    in_ct = height_mm(volume.geometry.index_to_world(), volume.array.shape)
    index = np.moveaxis(np.indices(volume.array.shape), 0, -1).reshape(-1, 3)
    to_network = transform.network_geometry.index_from(volume.geometry)
    position = index @ to_network[:, :3].T + to_network[:, 3]
    size = np.array(transform.grid.size_zyx)
    beyond = np.any((position < -0.5) | (position > size - 0.5), axis=1).reshape(label.shape)
    between = np.all((position >= 0) & (position <= size - 1), axis=1).reshape(label.shape)
    assert between.mean() > 0.3
    assert beyond.any()
    np.testing.assert_array_equal(label[between], np.where(in_ct > 0, 2, 1)[between])
    np.testing.assert_allclose(probability[between], 0.5 + in_ct[between] / 400, atol=1e-4)
    assert (label[~beyond] > 0).all()
    assert not label[beyond].any()
    assert not probability[beyond].any()


def test_probabilities_come_back_interpolated():
    volume = head()
    seen = InferenceTransform.apply(volume, GRID)
    values = seen.transform.to_ct(seen.region_hu.astype(np.float32) / 1000)
    assert values.dtype == np.float32
    inside = volume.array > -300
    np.testing.assert_allclose(values[inside], volume.array[inside] / 1000, atol=1e-6)


@pytest.mark.parametrize("angle_deg", [0, 20])
def test_invert_undoes_orientation_crop_and_spacing(angle_deg):
    matrix = Rotation.from_euler("z", angle_deg, degrees=True).as_matrix()
    volume = reoriented(
        head((60, 66, 62), (2.0, 2.0, 2.0), tuple(matrix.ravel().tolist())), (2, 0, 1), (True, False, True)
    )
    seen = InferenceTransform.apply(volume, GRID)
    body = torch.from_numpy((seen.image > -300).astype(np.float32))
    probability = seen.transform.invert_probability(body)
    label = seen.transform.invert(torch.stack([1 - body, body]))
    assert label.geometry == volume.geometry
    assert label.array.dtype == np.uint8
    expected = volume.array > -300
    for found in (label.array > 0, probability > 0.5):
        assert 2 * np.sum(found & expected) / (np.sum(found) + np.sum(expected)) > 0.95
    cropped, at_ct_spacing = seen.transform.crop_label(label), seen.region_hu > -300
    assert cropped.shape == seen.region_hu.shape
    assert 2 * np.sum((cropped > 0) & at_ct_spacing) / (np.sum(cropped > 0) + np.sum(at_ct_spacing)) > 0.95


@pytest.mark.parametrize("angle_deg", [0, 20])
def test_the_margin_of_an_organ_is_positive_where_it_is_labeled(angle_deg):
    matrix = Rotation.from_euler("z", angle_deg, degrees=True).as_matrix()
    seen = InferenceTransform.apply(head((30, 33, 31), (4.0, 4.0, 4.0), tuple(matrix.ravel().tolist())), GRID)
    hu = torch.from_numpy(seen.image.astype(np.float32))
    probabilities = torch.stack([-hu / 100, (hu - 20) / 50, (hu - 45) / 25]).softmax(dim=0)
    label = seen.transform.invert(probabilities).array
    for value in (1, 2):
        margin = seen.transform.invert_margin(probabilities, value)
        assert margin.shape == label.shape
        assert np.abs(margin).max() <= 1
        wrong = (margin > 0) != (label == value)
        assert np.count_nonzero(label == value) > 500
        assert wrong.mean() < (0.002 if angle_deg == 0 else 0.006)  # interpolated, the largest rival may change
    own = probabilities[2] - torch.maximum(probabilities[0], probabilities[1])
    np.testing.assert_allclose(
        seen.transform.invert_margin(probabilities, 2), seen.transform.invert_probability(own), atol=1e-6
    )


@pytest.mark.parametrize("spacing", [(0.3, 2.0, 2.0), (6.0, 3.0, 2.0), (3.0, 0.6, 0.6)])
def test_any_spacing_reaches_the_networks_spacing(spacing):
    size = tuple(int(n / s) for n, s in zip((90.0, 110.0, 96.0), spacing, strict=True))
    volume = head(size, spacing)
    seen = InferenceTransform.apply(volume, GRID)
    extent = np.multiply(seen.image.shape, GRID.spacing_zyx_mm)
    np.testing.assert_allclose(extent, np.multiply(seen.region_hu.shape, spacing), atol=2 * max(spacing))
    wanted = np.array((76 + 20, 100 + 20, 84 + 20))
    assert (extent >= wanted - (0, 8, 8)).all()
    assert (extent <= wanted + (20, 32, 32)).all()


def test_one_thick_slice_is_enough():
    volume = head((1, 50, 36), (6.0, 2.5, 3.0))
    seen = InferenceTransform.apply(volume, GRID)
    assert len(seen.image) <= 4
    assert seen.transform.to_ct(region_labels(seen)).shape == volume.array.shape


@pytest.mark.parametrize("angle_deg", [0, 15])
def test_added_air_is_known(angle_deg):
    matrix = Rotation.from_euler("x", angle_deg, degrees=True).as_matrix()
    full = head((40, 50, 36), (2.5, 2.5, 3.0), direction=tuple(matrix.ravel().tolist()))
    narrow = Volume(
        array=np.ascontiguousarray(full.array[:, 8:42]),
        geometry=Geometry(
            size_zyx=(40, 34, 36),
            spacing_zyx_mm=(2.5, 2.5, 3.0),
            origin_xyz_mm=full.geometry.world_mm((0, 8, 0)),
            direction=full.geometry.direction,
        ),
    )
    seen = InferenceTransform.apply(narrow, GRID)
    inside_fov = seen.transform.inside_fov()
    assert 0 < inside_fov.mean() < 1
    back = np.linalg.inv(np.reshape(narrow.geometry.direction, (3, 3)))
    for index in [(0, 0, 0), (5, 12, 11), (9, 20, 3), tuple(n - 1 for n in inside_fov.shape)]:
        point = np.subtract(seen.transform.world_mm(index), narrow.geometry.origin_xyz_mm)
        voxel = (back @ point)[::-1] / narrow.geometry.spacing_zyx_mm
        within = all(-0.5 <= v <= n - 0.5 for v, n in zip(voxel, narrow.array.shape, strict=True))
        assert inside_fov[index] == within


def test_the_label_map_at_half_the_spacing_by_hand():
    label = torch.tensor([0, 2, 2, 1, 0])
    probabilities = torch.nn.functional.one_hot(label, 3).T.float().reshape(3, 1, 1, 5)
    finer = resample_to_label_map(probabilities, (1, 1, 10), (1.0, 1.0, 0.5))
    assert finer.dtype == torch.uint8
    assert finer.flatten().tolist() == [0, 0, 2, 2, 2, 2, 1, 1, 0, 0]


def test_the_label_map_on_the_same_grid_is_the_argmax():
    probabilities = torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        resample_to_label_map(probabilities, (3, 5, 6), (1.0, 1.0, 1.0)).long(), probabilities.argmax(dim=0)
    )


def test_a_class_is_interpolated_wherever_it_can_be_the_largest():
    """Against interpolating every class over the whole volume, with organs small and large, at borders and touching."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.rand(6, 7, 9, 8, generator=generator)
    logits[1:, :, :4] -= 6  # background alone
    logits[5] -= 3
    logits[5, 3, 6, 7] = 20
    probabilities = logits.softmax(dim=0)
    for size, step in (((15, 12, 20), (0.45, 0.8, 0.4)), ((4, 5, 8), (1.7, 1.9, 1.0)), ((7, 18, 8), (1.0, 0.5, 1.0))):
        whole = tuple(slice(0, n) for n in size)
        expected = torch.stack([resize_linear(probability, whole, step) for probability in probabilities]).argmax(dim=0)
        assert torch.equal(resample_to_label_map(probabilities, size, step).long(), expected)

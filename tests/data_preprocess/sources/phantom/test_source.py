import numpy as np
import pytest
from scipy import ndimage

from data_preprocess.network_grid import find_field_of_view
from data_preprocess.sources.base import RawCase
from data_preprocess.sources.phantom.source import (
    EXTENT_ZYX_MM,
    ORGANS,
    generate_phantom,
    list_cases,
    read_case,
    render_patient,
    sample_patient,
)
from utils.config.preset import load_preset
from utils.imaging.geometry import IDENTITY_DIRECTION

SPACING = (2.5, 2.0, 2.0)
VOLUME_ML = {
    "brainstem": (18, 42),
    "chiasm": (0.25, 0.8),
    "mandible": (42, 85),
    "optic_nerve": (0.45, 1.1),
    "parotid": (14, 40),
    "submandibular": (4, 13),
}
"""Healthy adults, generously."""


@pytest.fixture(scope="module")
def phantom() -> RawCase:
    return generate_phantom(3)


@pytest.fixture(scope="module")
def full_label(phantom: RawCase) -> np.ndarray:
    """Labels of all nine organs, contoured or not."""
    return render_patient(sample_patient(np.random.default_rng([3, 0])), SPACING, np.random.default_rng([3, 1])).label


def organ(label: np.ndarray, name: str) -> np.ndarray:
    return label == ORGANS.index(name) + 1


def center_mm(label: np.ndarray, name: str) -> np.ndarray:
    return np.multiply(ndimage.center_of_mass(organ(label, name)), SPACING)


def test_case_is_well_formed(phantom: RawCase):
    assert phantom.case_id == "phantom_003"
    assert phantom.split is None
    assert phantom.volume.array.dtype == np.int16
    assert phantom.volume.array.shape == phantom.volume.geometry.size_zyx == (104, 128, 120)
    assert phantom.volume.geometry.spacing_zyx_mm == SPACING
    assert phantom.volume.geometry.direction == IDENTITY_DIRECTION
    assert set(phantom.masks) <= set(ORGANS)
    for mask in phantom.masks.values():
        assert mask.voxels.dtype == bool
        assert mask.geometry == phantom.volume.geometry


def test_organs_are_those_of_the_presets():
    assert load_preset("phantom").organ_names == ORGANS
    assert load_preset("pddca").organ_names == ORGANS


@pytest.mark.slow
def test_masks_are_the_contoured_part_of_disjoint_labels(phantom: RawCase, full_label: np.ndarray):
    for name, mask in phantom.masks.items():
        np.testing.assert_array_equal(mask.dense(), organ(full_label, name))
    assert sum(mask.dense().astype(int) for mask in phantom.masks.values()).max() == 1


@pytest.mark.slow
def test_volumes_are_anatomical(full_label: np.ndarray):
    for name in ORGANS:
        low, high = VOLUME_ML[name.removesuffix("_left").removesuffix("_right")]
        volume_ml = organ(full_label, name).sum() * np.prod(SPACING) / 1000
        assert low <= volume_ml <= high, f"{name}: {volume_ml:.2f} ml"
        assert organ(full_label, name).sum() >= 25


def test_positions_are_anatomical(full_label: np.ndarray):
    for pair in ("optic_nerve", "parotid", "submandibular"):
        left, right = center_mm(full_label, f"{pair}_left"), center_mm(full_label, f"{pair}_right")
        assert left[2] > right[2] + 20
        assert abs(left[0] - right[0]) < 15
    chiasm, nerve = center_mm(full_label, "chiasm"), center_mm(full_label, "optic_nerve_left")
    brainstem, mandible = center_mm(full_label, "brainstem"), center_mm(full_label, "mandible")
    assert nerve[1] < chiasm[1] < brainstem[1]
    assert mandible[0] < brainstem[0] < chiasm[0]
    assert mandible[1] < center_mm(full_label, "parotid_left")[1]


def test_every_organ_is_one_component(full_label: np.ndarray):
    for name in ORGANS:
        assert ndimage.label(organ(full_label, name), np.ones((3, 3, 3)))[1] == 1, name


def test_ct_numbers_are_those_of_tissues(phantom: RawCase, full_label: np.ndarray):
    image = phantom.volume.array
    median = {name: np.median(image[organ(full_label, name)]) for name in ORGANS}
    assert -1010 < np.median(image[:, :5]) < -990
    assert 20 < median["brainstem"] < 45
    assert -40 < median["parotid_left"] < median["submandibular_left"] < 80
    assert median["mandible"] > 400
    brain = image[80, 50:70, 50:70]
    assert 20 < np.median(brain) < 50
    assert 4 < brain.std() < 25


def test_table_is_separate_from_the_body(phantom: RawCase):
    image = phantom.volume.array
    grid = find_field_of_view(image, phantom.volume.geometry.spacing_zyx_mm, load_preset("phantom").grid).grid
    behind = grid.region.stop_zyx[1]
    assert behind < image.shape[1]
    assert (image[:, behind:] > -500).any()
    assert not (image[:, behind:] > 0).any()


@pytest.mark.slow
def test_same_seed_is_the_same_phantom_and_another_is_not(phantom: RawCase):
    again, other = generate_phantom(3), read_case(list_cases()[4])
    assert other.case_id == "phantom_004"
    np.testing.assert_array_equal(again.volume.array, phantom.volume.array)
    assert again.volume.geometry == phantom.volume.geometry
    assert again.masks.keys() == phantom.masks.keys()
    assert (other.volume.array != phantom.volume.array).mean() > 0.5
    assert other.volume.geometry.origin_xyz_mm != phantom.volume.geometry.origin_xyz_mm


@pytest.mark.slow
def test_about_a_tenth_of_the_organs_is_not_contoured():
    contoured = [len(sample_patient(np.random.default_rng(seed)).contoured) for seed in range(100)]
    assert 0.85 < np.mean(contoured) / len(ORGANS) < 0.95
    assert len(set(contoured)) > 1


def test_other_spacing_shows_the_same_patient(phantom: RawCase, full_label: np.ndarray):
    spacing = (5.0, 3.0, 4.0)
    patient = sample_patient(np.random.default_rng([3, 0]))
    image, label = render_patient(patient, spacing, np.random.default_rng(0))
    assert image.shape == tuple(round(e / s) for e, s in zip(EXTENT_ZYX_MM, spacing, strict=True))
    for name in ("brainstem", "mandible", "parotid_left"):
        center = (np.array(ndimage.center_of_mass(organ(label, name))) + 0.5) * spacing
        np.testing.assert_allclose(center, center_mm(full_label, name) + np.multiply(0.5, SPACING), atol=2.5)


def test_listed_cases_have_their_own_names_and_a_fifth_is_for_testing():
    handles = list_cases(None)
    assert len({handle.case_id for handle in handles}) == len(handles)
    assert sum(handle.split == "test" for handle in handles) == len(handles) / 5

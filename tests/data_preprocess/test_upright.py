"""upright.py: oblique cases are rotated, and organs stay where they are in the patient."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_preprocess.sources import RawCase
from data_preprocess.upright import upright
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask
from utils.io.volumes import Volume

NETWORK_SPACING = (2.6, 4.0, 4.0)
CENTER_MM, RADIUS_MM = np.array([12.0, -8.0, 30.0]), 11.0


def case(angles_deg):
    """A ball of 200 HU in water, which is also contoured."""
    matrix = Rotation.from_euler("zyx", angles_deg, degrees=True).as_matrix()
    size, spacing = (26, 40, 44), (2.5, 1.5, 1.2)
    middle = np.array([(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)])[::-1]
    geometry = Geometry(
        size_zyx=size,
        spacing_zyx_mm=spacing,
        origin_xyz_mm=tuple((CENTER_MM + (2, 3, -4) - matrix @ middle).tolist()),
        direction=tuple(matrix.ravel().tolist()),
    )
    index = np.stack([*np.indices(size), np.ones(size)], axis=-1)
    inside = np.linalg.norm(index @ geometry.index_to_world().T - CENTER_MM, axis=-1) < RADIUS_MM
    return RawCase(
        case_id="a",
        volume=Volume(array=np.where(inside, 200, 0).astype(np.int16), geometry=geometry),
        masks={"ball": crop_mask(inside, (0, 0, 0), geometry)},
        source="drawn",
    )


@pytest.mark.parametrize("angles_deg", [(0, 0, 15), (10, 4, -20)])
def test_organs_stay_in_their_place(angles_deg):
    raw = case(angles_deg)
    found = upright(raw, NETWORK_SPACING)
    assert found.geometry.obliqueness_deg() < 1e-6
    assert found.geometry.spacing_zyx_mm == (2.6, 1.5, 1.2)
    assert found.notes == (f"rotated by {raw.geometry.obliqueness_deg():.1f} degrees to the patient's axes",)
    mask = found.masks["ball"]
    assert mask.geometry == found.geometry
    center = found.geometry.world_mm(np.argwhere(mask.dense()).mean(axis=0))
    np.testing.assert_allclose(center, CENTER_MM, atol=0.2)
    volumes = [m.voxels.sum() * np.prod(m.geometry.spacing_zyx_mm) for m in (mask, raw.masks["ball"])]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.03)
    np.testing.assert_array_equal(found.volume.array[mask.dense()] > 60, True)


def test_other_cases_are_the_same():
    raw = case((0, 0, 0))
    assert upright(raw, NETWORK_SPACING) is raw
    masks_only = replace(case((0, 0, 15)), volume=None)
    assert upright(masks_only, NETWORK_SPACING) is masks_only

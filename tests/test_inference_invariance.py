"""inference.py: format, origin, padding, rotation and length of a scan, couch and holder do not change the organs.

Each organ of the phantom is painted in its own CT number, by which networks with fixed weights segment it. These
networks answer the same wherever their grid lies; trained ones do not. The published model is therefore tried too.
"""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

import inference
from benchmarks.resample_cts import at_spacing
from data_preprocess.inference_transform import InferenceTransform
from data_preprocess.scans import list_scans, read_transformed
from data_preprocess.sources import SOURCES
from data_preprocess.sources.phantom.source import ORGANS
from models.pretrained import load_pretrained
from tests.dicom_files import ct_slices, save_all
from tests.fixed_networks import PRESET, dice_of, fixed_model, masks_of, painted_patient
from tests.head_scan import SPACING as HEAD_SPACING
from tests.head_scan import head_scan
from tests.reorientation import ALL_48, reoriented
from utils.config.preset import load_preset
from utils.evaluation.overlap import dice_per_label
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask, crop_to_common_box
from utils.io.volumes import Volume, write_volume

SPACING = (4.0, 3.0, 3.3)
ROTATED_SPACING = (3.0, 2.5, 2.5)


@pytest.fixture(scope="module")
def model():
    return fixed_model()


@pytest.fixture(scope="module")
def patient():
    """CT and reference label map (D, H, W) of a patient down to the chest; the organs are dilated by 6 to 8 mm."""
    return painted_patient(SPACING, (520.0, 330.0, 420.0), dilations=2)


@pytest.fixture(scope="module")
def with_chest(patient):
    image, _ = patient
    geometry = Geometry(size_zyx=image.shape, spacing_zyx_mm=SPACING, origin_xyz_mm=(-81.3, 40.7, -12.9))
    return Volume(array=image, geometry=geometry)


def cut_out(volume, box):
    geometry = volume.geometry
    array = np.ascontiguousarray(volume.array[box])
    return Volume(
        array=array,
        geometry=Geometry(
            size_zyx=array.shape,
            spacing_zyx_mm=geometry.spacing_zyx_mm,
            origin_xyz_mm=geometry.world_mm(tuple(axis.start for axis in box)),
        ),
    )


def head_and_neck(array):
    """The box of the upper 260 mm of the patient: a scan of head and neck."""
    depth, _, width = array.shape
    return np.s_[depth - 65 : depth, 0:85, width // 2 - 36 : width // 2 + 36]


@pytest.fixture(scope="module")
def plain(with_chest):
    return cut_out(with_chest, head_and_neck(with_chest.array))


def segment(volume, model):
    return inference.segment(InferenceTransform.apply(volume, PRESET.grid), model).label


@pytest.fixture(scope="module")
def expected(plain, model):
    """The organs' masks in the plain scan."""
    return masks_of(segment(plain, model))


def padded(volume, pads):
    geometry = volume.geometry
    array = np.pad(volume.array, pads, constant_values=-1000)
    origin = geometry.world_mm(tuple(-before for before, _ in pads))
    return Volume(
        array=array,
        geometry=Geometry(size_zyx=array.shape, spacing_zyx_mm=geometry.spacing_zyx_mm, origin_xyz_mm=origin),
    )


def back_of(array):
    """The first row behind the patient."""
    return int(np.flatnonzero((array > -200).any(axis=(0, 2)))[-1]) + 1


def with_table_moved(volume):
    """The scan with everything behind the patient moved back by 12 mm."""
    behind = back_of(volume.array)
    array = np.full_like(volume.array, -1000)
    array[:, :behind] = volume.array[:, :behind]
    array[:, behind + 4 :] = volume.array[:, behind:-4]
    return Volume(array=array, geometry=volume.geometry)


def on_dense_table(volume):
    """The scan with a table top of 6 mm that touches the head, as wide and long as the scan."""
    behind = back_of(volume.array)
    array = volume.array.copy()
    array[:, behind : behind + 2] = -50
    return Volume(array=array, geometry=volume.geometry)


def rotated(volume, angles_deg):
    """The scan on a rotated grid that contains all of it."""
    matrix = Rotation.from_euler("zyx", angles_deg, degrees=True).as_matrix()
    old = volume.geometry
    spacings = zip(old.spacing_zyx_mm, ROTATED_SPACING, strict=True)
    size = tuple(int(1.3 * n * before / after) for n, (before, after) in zip(old.size_zyx, spacings, strict=True))
    half_mm = np.array([(n - 1) / 2 * s for n, s in zip(size, ROTATED_SPACING, strict=True)])[::-1]
    center = np.array(old.world_mm(tuple((n - 1) / 2 for n in old.size_zyx)))
    geometry = Geometry(
        size_zyx=size,
        spacing_zyx_mm=ROTATED_SPACING,
        origin_xyz_mm=tuple((center - matrix @ half_mm).tolist()),
        direction=tuple(matrix.ravel().tolist()),
    )
    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(old.spacing_zyx_mm[::-1])
    image.SetOrigin(old.origin_xyz_mm)
    like = sitk.GetImageFromArray(np.zeros(size, dtype=np.int16))
    like.SetSpacing(geometry.spacing_zyx_mm[::-1])
    like.SetOrigin(geometry.origin_xyz_mm)
    like.SetDirection(geometry.direction)
    array = sitk.GetArrayFromImage(sitk.Resample(image, like, sitk.Transform(), sitk.sitkBSpline, -1000.0))
    return Volume(array=array, geometry=geometry)


def test_all_48_orientations_give_the_networks_one_image_and_labels_return_to_the_ct(plain):
    spacing = tuple(2 * value for value in SPACING)
    array = np.ascontiguousarray(plain.array[::2, ::2, ::2])
    coarse = Volume(array=array, geometry=Geometry(size_zyx=array.shape, spacing_zyx_mm=spacing))
    straight = InferenceTransform.apply(coarse, PRESET.grid)
    region_label = np.digitize(straight.region_hu, (-500, 0, 500)).astype(np.uint8)
    label = straight.transform.to_ct(region_label)
    assert len(np.unique(label)) == 4
    for order, flips in ALL_48:
        volume = reoriented(coarse, order, flips)
        placed = InferenceTransform.apply(volume, PRESET.grid)
        np.testing.assert_array_equal(placed.image, straight.image)
        expected = reoriented(Volume(array=label, geometry=coarse.geometry), order, flips)
        np.testing.assert_array_equal(placed.transform.to_ct(region_label), expected.array)


ORIGINS_MM = [(0, 0, 0), (2, 0, 0), (0.7, -1.3, 0.4), (-120, -120, -500), (31.25, -0.5, 1e4)]


@pytest.mark.parametrize("origin_mm", ORIGINS_MM[1:])
def test_the_origin_in_the_header_changes_nothing(origin_mm):
    array = head_scan()
    geometry = Geometry(size_zyx=array.shape, spacing_zyx_mm=HEAD_SPACING)
    here = InferenceTransform.apply(Volume(array=array, geometry=geometry), PRESET.grid)
    moved = InferenceTransform.apply(
        Volume(array=array, geometry=replace(geometry, origin_xyz_mm=origin_mm)), PRESET.grid
    )
    np.testing.assert_array_equal(moved.image, here.image)
    shift_mm = np.subtract(moved.transform.world_mm((3, 1, 2)), here.transform.world_mm((3, 1, 2)))
    np.testing.assert_allclose(shift_mm, origin_mm, atol=1e-6)


@pytest.fixture(scope="module")
def fine_patient(real_data):
    """A patient of OpenKBP at 1.5 mm."""
    preset, source = load_preset("openkbp"), SOURCES["openkbp"]
    handles = source.list_cases(real_data / "openkbp" / "validation-pats")
    handle = next(handle for handle in handles if handle.case_id == "pt_232")
    return at_spacing(source.read_case(handle, preset).volume, (1.5, 1.5, 1.5))


@pytest.mark.slow
def test_origin_and_holder_do_not_change_the_masks_of_the_published_model(fine_patient):
    model = load_pretrained("openkbp", device="cpu")

    def segment_with(array=fine_patient.array, shift_mm=(0, 0, 0)):
        geometry = replace(
            fine_patient.geometry, origin_xyz_mm=tuple(np.add(fine_patient.geometry.origin_xyz_mm, shift_mm))
        )
        ct = InferenceTransform.apply(Volume(array=array, geometry=geometry), model.preset.grid)
        return inference.segment(ct, model).label.array

    def lowest_dice(label, other):
        return np.nanmin(dice_per_label(label, other, len(model.preset.organs)))

    plain = segment_with()
    assert len(np.unique(plain)) > 6
    assert lowest_dice(segment_with(shift_mm=(0.7, -1.3, 0.4)), plain) >= 0.99
    _, height, width = fine_patient.array.shape
    rows, columns = np.nonzero((fine_patient.array > -400).any(axis=0))
    y, x = np.ogrid[:height, :width]
    radius = 0.62 * np.ptp(rows)
    arc = (np.abs(np.hypot(y - rows.mean(), x - columns.mean()) - radius) < 1.6) & (y > rows.mean() + 0.55 * radius)
    held = np.where(arc & (fine_patient.array < -700), 60, fine_patient.array).astype(np.int16)
    assert (held != fine_patient.array).sum() > 10_000
    assert lowest_dice(segment_with(held), plain) >= 0.98


@pytest.mark.slow
def test_the_plain_scan_is_segmented_correctly(plain, patient, model, expected):
    reference = patient[1][head_and_neck(patient[1])]
    for name, mask in expected.items():
        drawn = crop_mask(reference == ORGANS.index(name) + 1, (0, 0, 0), plain.geometry)
        one, other = crop_to_common_box(mask, drawn)
        assert 2 * np.sum(one & other) / (one.sum() + other.sum()) > 0.9, name


@pytest.mark.parametrize("form", ["dicom", "scan.nrrd", "scan.mha", "scan.nii.gz"])
def test_the_file_format_changes_nothing(form, plain, tmp_path):
    path = tmp_path / form
    if form == "dicom":
        save_all(ct_slices(plain), path)
    else:
        write_volume(path, reoriented(plain, (2, 0, 1), (True, False, True)))
    (scan,) = list_scans(path)
    read = read_transformed(scan, PRESET.grid)
    straight = InferenceTransform.apply(plain, PRESET.grid)
    assert np.abs(read.image.astype(int) - straight.image).max() <= 2  # NIfTI rounds spacings to float32
    np.testing.assert_allclose(read.transform.world_mm((3, 1, 2)), straight.transform.world_mm((3, 1, 2)), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["air", "table moved", "dense table", "chest"])
def test_what_surrounds_the_head_changes_nothing(change, plain, with_chest, model, expected):
    volume = {
        "air": lambda: padded(plain, ((7, 13), (9, 20), (31, 5))),
        "table moved": lambda: with_table_moved(plain),
        "dense table": lambda: on_dense_table(plain),
        "chest": lambda: with_chest,
    }[change]()
    assert volume.array.shape != plain.array.shape or (volume.array != plain.array).any()
    scores = dice_of(masks_of(segment(volume, model)), expected)
    assert min(scores.values()) >= 0.98, scores


@pytest.mark.slow
@pytest.mark.parametrize("angles_deg", [(8, 0, 6), (25, -10, 12)])
def test_an_oblique_scan_gets_the_same_organs(angles_deg, plain, model, expected):
    scores = dice_of(masks_of(segment(rotated(plain, angles_deg), model)), expected)
    assert min(scores.values()) >= 0.95, scores

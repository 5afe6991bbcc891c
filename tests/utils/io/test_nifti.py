"""utils/io/nifti.py: both transforms of a header, shear, versions, byte orders, and files under a wrong name."""

import bz2
import gzip
import io
import lzma
from dataclasses import replace

import hypothesis.strategies as st
import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.nifti import NiftiGrid
from utils.io.volumes import Volume, read_volume, to_lps, write_volume

SIZE_XYZ = (6, 5, 4)
ARRAY = (np.arange(120).reshape(SIZE_XYZ) - 40).astype(np.int16)
COS, SIN = np.cos(0.3), np.sin(0.3)
AFFINE = np.array([[1.25 * COS, -0.7 * SIN, 0, -20], [1.25 * SIN, 0.7 * COS, 0, 8], [0, 0, 3, 100], [0, 0, 0, 1]])
"""RAS, spacings 1.25, 0.7 and 3 mm."""
OTHER = AFFINE + np.array([[0, 0, 0, 100], [0, 0, 0, 50], [0, 0, 0, -30], [0, 0, 0, 0]])


def write(path, *, sform=(AFFINE, 1), qform=(AFFINE, 1), image_class=nibabel.Nifti1Image, array=ARRAY, edit=None):
    """A file that nibabel writes; `edit` changes its header."""
    image = image_class(array, None)
    for setter, (matrix, code) in ((image.header.set_sform, sform), (image.header.set_qform, qform)):
        setter(matrix, code=code)
    if edit:
        edit(image.header)
    stream = io.BytesIO()
    image.file_map["image"].fileobj = stream
    image.to_file_map()
    content = stream.getvalue()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def placed(geometry):
    """The matrix (4, 4) of a grid from an index (x, y, z) to the patient, RAS."""
    affine = np.eye(4)
    affine[:3] = np.diag((-1, -1, 1)) @ geometry.index_to_world()[:, (2, 1, 0, 3)]
    return affine


def sheared(amount):
    """The matrix with its y axis leaning towards x; the axes are still 1.25, 0.7 and 3 mm long."""
    return AFFINE @ np.array(
        [[1, amount * 0.7 / 1.25, 0, 0], [0, np.sqrt(1 - amount**2), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )


@pytest.mark.parametrize(
    ("sform", "qform", "used"),
    [
        ((AFFINE, 2), (AFFINE, 1), AFFINE),
        ((OTHER, 2), (AFFINE, 1), OTHER),
        ((OTHER, 1), (AFFINE, 2), OTHER),
        ((OTHER, 0), (AFFINE, 1), AFFINE),
        ((OTHER, 4), (AFFINE, 0), OTHER),
    ],
)
def test_the_sform_counts_if_it_is_set_as_in_nibabel(sform, qform, used, tmp_path):
    found = read_volume(write(tmp_path / "ct.nii.gz", sform=sform, qform=qform))
    np.testing.assert_array_equal(found.array, ARRAY.T)
    np.testing.assert_allclose(placed(found.geometry), used, atol=1e-5)
    np.testing.assert_allclose(nibabel.load(tmp_path / "ct.nii.gz").affine, used, atol=1e-5)
    if sform[1] and qform[1] and used is OTHER:
        names = f"its sform (code {sform[1]}) and qform (code {qform[1]})"
        assert found.notes == (f"{names} place voxels up to 116 mm apart; the sform was used",)
    else:
        assert found.notes == ()


def test_notes_and_grid_survive_the_reorientation(tmp_path):
    found = to_lps(read_volume(write(tmp_path / "ct.nii.gz", sform=(OTHER, 2))))
    assert "the sform was used" in found.notes[0]
    assert type(found.geometry) is Geometry


@pytest.mark.parametrize("name", ["label.nii.gz", "label.nii"])
@pytest.mark.parametrize(
    "header",
    [
        {"sform": (OTHER, 2)},
        {"sform": (OTHER, 1), "qform": (AFFINE, 4)},
        {"sform": (sheared(1e-3), 1), "qform": (None, 0)},
        {"sform": (None, 0), "qform": (None, 0)},
        {"sform": (AFFINE, 0)},
    ],
    ids=["apart", "apart, other codes", "sheared", "no form", "qform alone"],
)
def test_a_result_has_both_transforms_of_its_input(header, name, tmp_path):
    """A viewer that takes the sform and one that takes the qform each find the result on the input."""
    given = write(tmp_path / "ct.nii.gz", **header)
    geometry = read_volume(given).geometry
    write_volume(tmp_path / name, Volume(array=(ARRAY.T > 0).astype(np.uint8), geometry=geometry))
    before, after = (nibabel.load(path) for path in (given, tmp_path / name))
    for method in ("get_sform", "get_qform"):
        for wanted, got in zip(*(getattr(image.header, method)(coded=True) for image in (before, after)), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert after.header.get_zooms() == before.header.get_zooms()
    np.testing.assert_array_equal(after.get_fdata(), ARRAY > 0)


def test_a_changed_grid_does_not_get_the_header_of_the_old_one(tmp_path):
    geometry = read_volume(write(tmp_path / "ct.nii.gz", sform=(OTHER, 2))).geometry
    moved = replace(geometry, origin_xyz_mm=(1.0, 2.0, 3.0))
    assert isinstance(moved, NiftiGrid)
    write_volume(tmp_path / "moved.nii", Volume(array=ARRAY.T, geometry=moved))
    np.testing.assert_allclose(read_volume(tmp_path / "moved.nii").geometry.origin_xyz_mm, (1, 2, 3), atol=1e-6)
    assert read_volume(tmp_path / "moved.nii").notes == ()


@pytest.mark.parametrize("amount", [1e-4, 1e-3, 1e-2, 0.1])
def test_a_sheared_grid_keeps_every_voxel_in_its_place(amount, tmp_path):
    array = np.zeros((300, 200, 2), np.int16)
    path = write(tmp_path / "ct.nii.gz", sform=(sheared(amount), 1), qform=(None, 0), array=array)
    found = read_volume(path)
    np.testing.assert_allclose(placed(found.geometry), sheared(amount), atol=1e-4)
    assert found.geometry.spacing_zyx_mm == pytest.approx((3, 0.7, 1.25), rel=1e-6)
    assert found.notes == (
        f"its axes are not perpendicular, by {np.degrees(np.arcsin(amount)):.2g} degrees; every voxel keeps its place",
    )
    corner = to_lps(found).geometry.corners_mm()
    np.testing.assert_allclose(sorted(corner), sorted(found.geometry.corners_mm()), atol=1e-6)


def test_rounded_axes_are_perpendicular(tmp_path):
    """The single precision of a header is no shear."""
    found = read_volume(write(tmp_path / "ct.nii.gz", sform=(sheared(1e-6), 1), qform=(None, 0)))
    axes = np.reshape(found.geometry.direction, (3, 3))
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert found.notes == ()


def test_itk_reads_what_is_written_for_a_sheared_grid_of_another_format(tmp_path):
    """The sform is exact; ITK refuses it and takes the qform, the nearest perpendicular grid."""
    grid = replace(read_volume(write(tmp_path / "a.nii", sform=(sheared(1e-2), 1), qform=(None, 0))).geometry)
    plain = Geometry(**{name: getattr(grid, name) for name in Geometry.__dataclass_fields__})
    write_volume(tmp_path / "ct.nii.gz", Volume(array=ARRAY.T, geometry=plain))
    assert read_volume(tmp_path / "ct.nii.gz").geometry.matches(plain, 1e-4)
    image = sitk.ReadImage(str(tmp_path / "ct.nii.gz"))
    np.testing.assert_allclose(image.GetDirection(), plain.direction, atol=0.006)


def test_without_any_transform_the_axes_are_itks(tmp_path):
    found = read_volume(
        write(tmp_path / "ct.nii", sform=(None, 0), qform=(None, 0), edit=lambda h: h.set_zooms((2, 3, 4)))
    )
    image = sitk.ReadImage(str(tmp_path / "ct.nii"))
    assert found.geometry.direction == image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert found.geometry.spacing_zyx_mm == image.GetSpacing()[::-1] == (4, 3, 2)
    assert found.geometry.origin_xyz_mm == image.GetOrigin()
    assert "neither sform nor qform" in found.notes[0]


@pytest.mark.parametrize("number", range(1, 48, 5))
def test_grids_are_those_that_itk_reads(number, tmp_path):
    """For the orientations of clinical files, which both programs read in the same way."""
    rng = np.random.default_rng(number)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    image = sitk.GetImageFromArray(rng.integers(-1000, 1000, (4, 5, 6)).astype(np.int16))
    image.SetDirection(turn.ravel() * np.sign(np.linalg.det(turn)))
    image.SetSpacing(rng.uniform(0.5, 5, 3))
    image.SetOrigin(rng.uniform(-500, 500, 3))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    found = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(found.array, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose(found.geometry.direction, image.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(found.geometry.spacing_zyx_mm[::-1], image.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(found.geometry.origin_xyz_mm, image.GetOrigin(), rtol=1e-5)
    assert found.notes == ()
    write_volume(tmp_path / "again.nii.gz", to_lps(found))
    again = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "again.nii.gz")), "LPS")
    expected = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(again.GetOrigin(), expected.GetOrigin(), atol=1e-3)


@pytest.mark.parametrize("image_class", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f4", ">f8"])
def test_versions_and_byte_orders(image_class, dtype, tmp_path):
    array = (ARRAY + 40).astype(dtype)
    order = dtype[0].replace("u", "<")
    header = image_class.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = image_class(array, AFFINE, header)
    image.to_filename(tmp_path / "ct.nii.gz")
    found = read_volume(tmp_path / "ct.nii.gz")
    np.testing.assert_array_equal(found.array, array.T)
    assert found.array.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_allclose(placed(found.geometry), AFFINE, atol=1e-5)


def test_scaled_voxels_are_rescaled(tmp_path):
    path = write(tmp_path / "ct.nii", edit=lambda h: h.set_slope_inter(0.5, -10))
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([0.5, -10], "<f4").tobytes()  # nibabel scales the voxels that it writes
    path.write_bytes(content)
    stored = np.frombuffer(bytes(content[352:]), "<i2").reshape(4, 5, 6)
    np.testing.assert_allclose(read_volume(path).array, stored * 0.5 - 10)


def test_the_content_decides_and_not_the_name(tmp_path):
    plain = write(tmp_path / "plain.nii").read_bytes()
    for name, content in (("gzip.nii", gzip.compress(plain)), ("plain.nii.gz", plain)):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(read_volume(tmp_path / name).array, ARRAY.T)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bz2.compress, "^is compressed with bzip2; unpack it.*: .*ct.nii.gz$"),
        (lzma.compress, "^is compressed with xz; unpack it.*: .*ct.nii.gz$"),
        (lambda plain: b"\x28\xb5\x2f\xfd" + plain, "^is compressed with zstd; unpack it.*: .*ct.nii.gz$"),
        (lambda plain: b"PK\x03\x04" + plain, "^is a ZIP archive; unpack it.*: .*ct.nii.gz$"),
        (lambda plain: b"NRRD0004\n", "^is NRRD, not NIfTI; rename it to .nrrd.*: .*ct.nii.gz$"),
        (lambda plain: b"ObjectType = Image", "^is MetaImage, not NIfTI; rename it to .mha.*: .*ct.nii.gz$"),
        (lambda plain: b"", "^cannot be read as a volume.*: .*ct.nii.gz$"),
        (lambda plain: gzip.compress(b"a folder in an archive"), "^cannot be read as a volume.*: .*ct.nii.gz$"),
    ],
)
def test_other_contents_are_named(content, message, tmp_path):
    plain = write(tmp_path / "plain.nii").read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(content(plain))
    with pytest.raises(UserError, match=message):
        read_volume(tmp_path / "ct.nii.gz")


def spoil(name, value, index=()):
    def edit(header):
        header[name][index] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (spoil("dim", 30000, slice(1, 4)), "is truncated: it holds fewer voxels than its header says"),
        (spoil("dim", -3, 2), "cannot be read as a volume"),
        (spoil("dim", 2, 0), "expected a 3-D volume with one value per voxel, got 2 dimensions"),
        (spoil("datatype", 128), "3 values per voxel .RGB"),
        (spoil("datatype", 32), "complex64"),
        (spoil("datatype", 999), "cannot be read as a volume"),
        (spoil("vox_offset", np.nan), "no voxels follow its header"),
        (
            lambda header: (spoil("magic", b"ni1")(header), spoil("vox_offset", 0)(header)),
            "no voxels follow its header",
        ),
        (spoil("srow_x", 0), "its sform is invalid"),
        (spoil("srow_y", np.nan), "its sform is invalid"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damaged_headers_are_refused(edit, message, packed, tmp_path, capfd):
    header = nibabel.Nifti1Image(ARRAY, AFFINE).header
    header["vox_offset"] = 352
    edit(header)
    content = header.binaryblock + bytes(4) + ARRAY.tobytes()
    (tmp_path / "ct.nii").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError, match=message):
        read_volume(tmp_path / "ct.nii")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("codes", [(0, 1), (0, 0)])
def test_a_voxel_size_of_0_is_no_millimeter(codes, tmp_path):
    def edit(header):
        header["sform_code"], header["qform_code"] = codes
        header["pixdim"][3] = 0

    path = write(tmp_path / "ct.nii", edit=edit)
    with pytest.raises(UserError, match="its qform is invalid" if any(codes) else "its voxel sizes are .*, 0"):
        read_volume(path)


def test_a_rounded_quaternion_is_read(tmp_path):
    def edit(header):
        header["sform_code"], header["qform_code"] = 0, 1
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0.707108, 0.707108

    direction = np.reshape(read_volume(write(tmp_path / "ct.nii", edit=edit)).geometry.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize("offset", [0, 348])
def test_voxels_begin_behind_the_header_whatever_it_says(offset, tmp_path):
    path = write(tmp_path / "ct.nii")
    content = bytearray(path.read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    path.write_bytes(content)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY.T)


def test_an_invalid_sform_beside_a_valid_qform_is_noted(tmp_path):
    found = read_volume(write(tmp_path / "ct.nii", edit=spoil("srow_x", 0)))
    np.testing.assert_allclose(placed(found.geometry), AFFINE, atol=1e-5)
    assert found.notes == ("its sform is invalid",)


def test_meters_are_converted(tmp_path):
    meters = np.diag((0.001, 0.001, 0.001, 1)) @ AFFINE
    path = write(tmp_path / "ct.nii", sform=(meters, 1), qform=(meters, 1), edit=lambda h: h.set_xyzt_units("meter"))
    geometry = read_volume(path).geometry
    np.testing.assert_allclose(placed(geometry), AFFINE, atol=1e-4)
    write_volume(tmp_path / "label.nii", Volume(array=ARRAY.T, geometry=geometry))
    np.testing.assert_allclose(placed(read_volume(tmp_path / "label.nii").geometry), AFFINE, atol=1e-4)


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_unit_that_makes_no_voxels_of_a_ct_is_refused(unit, tmp_path):
    """Voxels of 3 m, resampled to those of the networks, would exhaust the memory."""
    path = write(tmp_path / "ct.nii", edit=lambda h: h.set_xyzt_units(unit))
    with pytest.raises(UserError, match=r"its voxels measure 3e\+03 x 700 .* in m;|0.003 x 0.0007 .* in um;"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_more_voxels_than_the_header_says_are_refused(version, suffix, tmp_path):
    """Of a volume with a wrong size, or of the second of two volumes."""
    path = write(tmp_path / f"ct{suffix}", image_class=version)
    plain = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
    pack = gzip.compress if suffix == ".nii.gz" else bytes
    path.write_bytes(pack(plain + bytes(59)))
    np.testing.assert_array_equal(read_volume(path).array, ARRAY.T)
    path.write_bytes(pack(plain + bytes(60)))  # a slice of 6 x 5 voxels
    with pytest.raises(UserError, match="holds more voxels than its header says"):
        read_volume(path)


@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_extensions_are_no_voxels(version, tmp_path):
    image = version(ARRAY, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"16 bytes"))
    nibabel.save(image, tmp_path / "ct.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "ct.nii").array, ARRAY.T)
    content = bytearray((tmp_path / "ct.nii").read_bytes())
    place, value = (108, np.float32(352)) if version is nibabel.Nifti1Image else (168, np.int64(544))
    content[place : place + value.nbytes] = value.tobytes()  # vox_offset: where the extension lies
    (tmp_path / "ct.nii").write_bytes(content)
    with pytest.raises(UserError, match="holds more voxels than its header says"):
        read_volume(tmp_path / "ct.nii")


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(
            tmp_path / name, Volume(array=ARRAY.T, geometry=Geometry(size_zyx=(4, 5, 6), spacing_zyx_mm=(3, 2, 1)))
        )
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


NUMBERS = [0, 1, -1, np.nan, np.inf, 1e30, 1e-30, 5e-324]
CHANGES = st.lists(st.tuples(st.integers(0, 539), st.sampled_from(("u1", "<i2", "<f4", "<f8")), st.integers(0, 255)))


@pytest.mark.filterwarnings("error")
@given(changes=CHANGES, version=st.sampled_from((nibabel.Nifti1Image, nibabel.Nifti2Image)), codes=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_is_refused_or_read_in_full(changes, version, codes, tmp_path_factory):
    """Every file is either refused or read onto a grid that a result gets again, without any warning."""
    folder = tmp_path_factory.mktemp("damaged")
    path = write(folder / "ct.nii", image_class=version, sform=(AFFINE, codes & 1), qform=(AFFINE, codes & 2))
    content = bytearray(path.read_bytes())
    for place, kind, number in changes:
        value = number if kind == "u1" else NUMBERS[number % len(NUMBERS)] if "f" in kind else number * 257 - 32768
        with np.errstate(over="ignore"):
            encoded = np.array(value).astype(kind).tobytes()
        content[place : place + len(encoded)] = encoded
    path.write_bytes(content)
    try:
        found = read_volume(path)
    except UserError:
        return
    to_lps(found)
    write_volume(folder / "label.nii", Volume(array=np.zeros(found.array.shape, np.uint8), geometry=found.geometry))
    assert read_volume(folder / "label.nii").geometry.matches(found.geometry, 1e-3)

"""utils/io/text_headers.py: sizes, units and scaling in the headers of NRRD and MHA."""

import numpy as np
import pytest

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume, read_volume, write_volume

SIZE = (2, 3, 4)
ARRAY = np.arange(24, dtype=np.int16).reshape(SIZE)
DIRECTIONS = "space directions: (2,0,0) (0,2,0) (0,0,3)"
CM = '"cm" "cm" "cm"'
SPACING_MM = (3.0, 2.0, 2.0)


def nrrd(folder, *fields):
    start = ["NRRD0004", "type: short", "dimension: 3", "sizes: 4 3 2", "encoding: raw", "endian: little"]
    path = folder / "ct.nrrd"
    path.write_bytes("\n".join([*start, *fields, "\n"]).encode() + ARRAY.tobytes())
    return path


def mha(folder, *fields):
    start = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False"]
    end = ["DimSize = 4 3 2", "ElementType = MET_SHORT", "ElementDataFile = LOCAL\n"]
    path = folder / "ct.mha"
    path.write_bytes("\n".join([*start, *fields, *end]).encode() + ARRAY.tobytes())
    return path


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([], "found none"),
        (["space: LPS", "space origin: (1,2,3)"], "found none"),
        (["comment:=space directions: (1,0,0) (0,1,0) (0,0,1)"], "found none"),
        (["# spacings: 1 1 1"], "found none"),
        (["spacings: 1 2 nan"], "got 1 2 nan"),
        (["space: LPS", "space directions: (2,0,0) (0,2,0) none"], "got .*none"),
    ],
)
def test_an_nrrd_without_voxel_sizes_is_refused(fields, found, tmp_path):
    """ITK takes 1 mm."""
    with pytest.raises(UserError, match=rf"how large the voxels are: expected .*{found}; export it again"):
        read_volume(nrrd(tmp_path, *fields))


@pytest.mark.parametrize("fields", [[], ["elementspacing = 2 2 3"]])
def test_an_mha_without_voxel_sizes_is_refused(fields, tmp_path):
    with pytest.raises(UserError, match="expected three numbers as `ElementSpacing`, got none; export it again"):
        read_volume(mha(tmp_path, *fields))


def test_an_origin_that_is_no_number_is_refused(tmp_path):
    """ITK takes 0."""
    with pytest.raises(UserError, match="its origin is not three numbers"):
        read_volume(mha(tmp_path, "ElementSpacing = 2 2 3", "Offset = nan 0 0"))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("mm", 1.0), ("", 1.0), ("cm", 10.0), ("um", 0.001), ("Millimeters", 1.0), ("meters", 1000.0), ("µm", 0.001)],
)
def test_lengths_in_another_unit_become_mm(unit, factor, tmp_path):
    units = f'"{unit}" "{unit}" "{unit}"'
    paths = [
        nrrd(tmp_path, "space: LPS", DIRECTIONS, "space origin: (1,-2,5)", f"space units: {units}"),
        mha(tmp_path, "ElementSpacing = 2 2 3", "Offset = 1 -2 5", f"DistanceUnits = {unit or '?'}"),
    ]
    for path in paths[: 1 if len(unit) > 2 or unit == "µm" else 2]:  # MetaIO has short names only
        found = read_volume(path)
        assert found.geometry.spacing_zyx_mm == pytest.approx(np.multiply(SPACING_MM, factor))
        assert found.geometry.origin_xyz_mm == pytest.approx(np.multiply((1, -2, 5), factor))
        np.testing.assert_array_equal(found.array, ARRAY)
        assert not found.notes


def test_the_fields_of_an_nrrd_may_have_any_capitals(tmp_path):
    path = nrrd(tmp_path, "SPACE: left-posterior-superior", DIRECTIONS.title(), f"Space Units: {CM}")
    assert read_volume(path).geometry.spacing_zyx_mm == (30.0, 20.0, 20.0)


@pytest.mark.parametrize("units", ['"inch" "inch" "inch"', '"mm" "mm" "cm"', '"mm" "mm" "s"'])
def test_units_that_are_no_length_or_differ_are_refused(units, tmp_path):
    with pytest.raises(
        UserError, match=r"its lengths are in .*; expected mm, cm, m or um; export it again in mm: .*ct\.nrrd"
    ):
        read_volume(nrrd(tmp_path, "space: LPS", DIRECTIONS, f"space units: {units}"))


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        (["spacings: 2 2 3"], SPACING_MM),
        (["spacings: 2 2 3", f"units: {CM}"], (30.0, 20.0, 20.0)),
        (["space dimension: 3", DIRECTIONS], SPACING_MM),
        (["space: scanner-xyz", DIRECTIONS], SPACING_MM),
    ],
)
def test_an_nrrd_that_does_not_name_the_patients_axes_is_read_with_a_note(fields, spacing, tmp_path):
    found = read_volume(nrrd(tmp_path, *fields))
    assert found.geometry.spacing_zyx_mm == pytest.approx(spacing)
    assert len(found.notes) == 1
    assert "names no space of the patient" in found.notes[0]


@pytest.mark.parametrize("space", ["LPS", "RAS", "left-anterior-superior", "Right-Anterior-Superior"])
def test_the_patients_spaces_need_no_note(space, tmp_path):
    assert not read_volume(nrrd(tmp_path, f"space: {space}", DIRECTIONS)).notes


@pytest.mark.parametrize("field", ["Slope = 2", "Offset = -1024", "Slope = x"])
def test_voxels_that_the_header_asks_to_scale_are_refused(field, tmp_path):
    """ITK does not scale them."""
    path = mha(tmp_path, "ElementSpacing = 2 2 3", f"ElementToIntensityFunction{field}")
    with pytest.raises(UserError, match="asks to scale the voxels"):
        read_volume(path)


def test_a_scaling_by_one_is_none(tmp_path):
    fields = ("ElementToIntensityFunctionSlope = 1", "ElementToIntensityFunctionOffset = 0")
    np.testing.assert_array_equal(read_volume(mha(tmp_path, "ElementSpacing = 2 2 3", *fields)).array, ARRAY)


def test_axes_of_another_length_than_1_scale_the_voxels(tmp_path):
    """Every voxel keeps its place; ITK leaves the length in the direction, where programs overlook it."""
    found = read_volume(mha(tmp_path, "ElementSpacing = 1 2 3", "TransformMatrix = 0 2 0 1 0 0 0 0 -0.5"))
    assert found.geometry.spacing_zyx_mm == (1.5, 2.0, 2.0)
    assert found.geometry.direction == (0, 1, 0, 1, 0, 0, 0, 0, -1)
    assert found.geometry.world_mm((1, 1, 1)) == pytest.approx((2.0, 2.0, -1.5))
    assert not found.notes


def test_rounded_unit_vectors_leave_the_spacing(tmp_path):
    found = read_volume(mha(tmp_path, "ElementSpacing = 1 2 3", "TransformMatrix = 0.99999 0 0 0 1 0 0 0 1"))
    assert found.geometry.spacing_zyx_mm == (3.0, 2.0, 1.0)
    assert found.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_a_sheared_grid_keeps_every_voxel_in_its_place(suffix, tmp_path):
    sheared = Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING_MM, direction=(1, 0, 0, 0, 1, 0.2, 0, 0, 0.96**0.5))
    path = tmp_path / f"ct{suffix}"
    write_volume(path, Volume(array=ARRAY, geometry=sheared))
    found = read_volume(path)
    np.testing.assert_allclose(found.geometry.corners_mm(), sheared.corners_mm(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(np.reshape(found.geometry.direction, (3, 3)), axis=0), 1)
    assert found.notes == ("its axes are not perpendicular, by 12 degrees; every voxel keeps its place",)


def test_what_is_written_needs_no_note(tmp_path):
    grid = Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING_MM, origin_xyz_mm=(5.0, 6.0, 7.0))
    for suffix in (".mha", ".nrrd", ".seg.nrrd"):
        path = tmp_path / f"ct{suffix}"
        write_volume(path, Volume(array=ARRAY, geometry=grid))
        assert read_volume(path).notes == ()
        assert read_volume(path).geometry == grid


@pytest.mark.parametrize("number", ["-3", "0", "3.0", "x", ""])
def test_a_number_of_dimensions_that_is_none_is_refused(number, tmp_path):
    """ITK ends the program at a negative one."""
    path = mha(tmp_path, "ElementSpacing = 2 2 3")
    path.write_bytes(path.read_bytes().replace(b"NDims = 3", b"NDims = " + number.encode()))
    with pytest.raises(UserError, match=rf"damaged \(NDims is {number}\); copy or export it again: .*ct\.mha"):
        read_volume(path)


@pytest.mark.parametrize("write", [nrrd, mha])
def test_a_header_of_more_voxels_than_the_file_holds_is_refused_before_they_are_reserved(write, tmp_path):
    """ITK asks for the memory first: 24 TB here."""
    path = write(tmp_path, *(["space: LPS", DIRECTIONS] if write is nrrd else ["ElementSpacing = 2 2 3"]))
    path.write_bytes(path.read_bytes().replace(b" 4 3 2\n", b" 4 3 1000000000000\n"))
    with pytest.raises(UserError, match=r"^is truncated: it holds fewer voxels than its header says.*: .*ct\."):
        read_volume(path)


@pytest.mark.parametrize("field", ["CompressedData = True", "CompressedData = 1", "CompressedData = true"])
@pytest.mark.parametrize("has_type", [True, False])
def test_voxels_that_are_not_compressed_as_the_header_says_are_refused(field, has_type, tmp_path):
    """ITK reads other voxels in their place."""
    path = mha(tmp_path, "ElementSpacing = 2 2 3", field)
    if not has_type:
        path.write_bytes(path.read_bytes().removeprefix(b"ObjectType = Image\n"))
    with pytest.raises(UserError, match=r"^cannot be read as a volume: damaged .*: .*ct\.mha"):
        read_volume(path)


def test_a_line_that_hides_the_voxel_sizes_from_itk_is_refused(tmp_path):
    """ITK would take 1 mm."""
    path = mha(tmp_path, "AnatomicalOrientation \u0663 RAI", "ElementSpacing = 2 2 3")
    with pytest.raises(UserError, match="a line before `ElementSpacing` cannot be read"):
        read_volume(path)


@pytest.mark.parametrize(
    "fields",
    [
        ("ElementSpacing = 1e-40 1 1",),
        ("ElementSpacing = 1 1 1e9",),
        ("ElementSpacing = 1 1 1", "Offset = 1e300 0 0"),
        ("ElementSpacing = 1 1 1", "TransformMatrix = 1e-9 0 0 0 1 0 0 0 1"),
    ],
)
def test_lengths_that_no_patient_has_are_refused(fields, tmp_path):
    with pytest.raises(UserError, match="no patient has such lengths"):
        read_volume(mha(tmp_path, *fields))


@pytest.mark.parametrize(
    ("write", "before", "after"),
    [
        (nrrd, b"type: short", b"type: unsigned char"),
        (nrrd, b"sizes: 4 3 2", b"sizes: 4 3 1"),
        (mha, b"MET_SHORT", b"MET_UCHAR"),
        (mha, b"DimSize = 4 3 2", b"DimSize = 4 3 1"),
    ],
)
def test_a_header_of_fewer_voxels_than_the_file_holds_is_refused(write, before, after, tmp_path):
    path = write(tmp_path, *(["space: LPS", DIRECTIONS] if write is nrrd else ["ElementSpacing = 2 2 3"]))
    path.write_bytes(path.read_bytes() + b"\n")
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    path.write_bytes(path.read_bytes().replace(before, after))
    with pytest.raises(UserError, match=r"^holds more voxels than its header says; copy or export it again: .*ct\."):
        read_volume(path)

"""Files with text headers: utils/io/text_headers.py, utils/io/nrrd.py and utils/io/metaimage.py."""

import contextlib
import gzip
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume, from_sitk, read_volume, write_volume

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
    found = (
        "how large the voxels are" if not fields else "expected `ElementSpacing` in its header, got `elementspacing`"
    )
    with pytest.raises(UserError, match=f"{found}.*; (copy or )?export it again"):
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
    xy, z = 2 / factor, 3 / factor
    directions = f"space directions: ({xy},0,0) (0,{xy},0) (0,0,{z})"
    paths = [
        nrrd(tmp_path, "space: LPS", directions, "space origin: (1,-2,5)", f"space units: {units}"),
        mha(tmp_path, f"ElementSpacing = {xy} {xy} {z}", "Offset = 1 -2 5", f"DistanceUnits = {unit or '?'}"),
    ]
    for path in paths[: 1 if len(unit) > 2 or unit == "µm" else 2]:  # MetaIO has short names only
        found = read_volume(path)
        assert found.geometry.spacing_zyx_mm == pytest.approx(SPACING_MM)
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
    with pytest.raises(UserError, match=rf"damaged, .*\(NDims is {number}\); copy or export it again: .*ct\.mha"):
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
    with pytest.raises(UserError, match=r"^cannot be read as a volume: damaged, .*: .*ct\.mha"):
        read_volume(path)


@pytest.mark.parametrize(
    ("write", "field", "found"),
    [
        (mha, "AnatomicalOrientation \u0663 RAI", "a line of its header has no `=`"),  # ITK takes a spacing of 1 mm
        (mha, "Comment = a\rOffset = 1 2 3", "a control character: 'Comment = a"),  # ITK reads one line
        (nrrd, "content: a\x0bb", "a control character"),
        (mha, "OFFSET = 1 2 3", "expected `Offset` in its header, got `OFFSET`"),  # ITK takes 0
        (mha, "Origin = 1 2 3\nPosition = 4 5 6", "Position and Origin differ"),  # ITK takes the first
        (mha, "ElementSpacing = 4 4 4", "its header gives `ElementSpacing` twice"),  # ITK takes the last
        (mha, "TransformMatrix = 1 0 0 0 1 0 0 0", "its axes are 1 0 0 0 1 0 0 0"),
        (mha, "TransformMatrix = 1 0 0 0 1 0 0 0 0", "its axes are"),
        (mha, "CompressedData = maybe", "CompressedData is maybe"),
        (nrrd, "space origins: (1,2,3)", "no field of NRRD: space origins"),
        (nrrd, "space: LPS", "gives `space` twice: RAS and LPS"),
        (nrrd, "hello", "no field of NRRD: hello"),
        (nrrd, "kinds: domain domain", "its kinds are domain domain, but it has 3 sizes"),
        (nrrd, "space origin: (1,2)", "got \\(1,2\\)"),
        (nrrd, "space origin: (1,2,nan)", "got \\(1,2,nan\\)"),
    ],
)
def test_a_line_that_programs_pass_over_is_refused(write, field, found, tmp_path):
    needed = ["space: RAS", DIRECTIONS] if write is nrrd else ["ElementSpacing = 2 2 3"]
    with pytest.raises(UserError, match=f"{found}.*: .*ct\\."):
        read_volume(write(tmp_path, *needed, field))


@pytest.mark.parametrize(
    ("write", "before", "after", "found"),
    [
        (mha, "LOCAL", "ct.raw", "do not follow its header"),
        (mha, "LOCAL", "LIST", "do not follow its header"),
        (mha, "NDims", "HeaderSize = 12\nNDims", "do not follow its header"),
        (mha, "NDims", "HeaderSize = -1\nNDims", "do not follow its header"),
        (nrrd, "sizes", "data file: ct.raw\nsizes", "do not follow its header"),
        (nrrd, "sizes", "byte skip: 4\nsizes", "do not follow its header"),
        (mha, "BinaryData = True", "BinaryData = False", "stored as text"),
        (nrrd, "raw", "ascii", "its encoding is ascii; expected raw or gzip"),
        (mha, "MET_SHORT", "MET_STRING", "ElementType is MET_STRING"),
        (nrrd, "short", "block", "its type is block"),
        (nrrd, "little", "middle", "its endian is middle"),
        (nrrd, "sizes: 4 3 2", "sizes: 4 -3 2", "sizes is 4 -3 2"),
        (nrrd, "sizes: 4 3 2", "sizes: 4 3", "its dimension is 3, but it has 2 sizes"),
        (mha, "DimSize = 4 3 2", "DimSize = 4 3 0", "DimSize is 4 3 0"),
        (nrrd, "NRRD0004", "NRRD0009", "no header of NRRD"),
        (mha, "ElementDataFile", "ElementFile", "no ElementDataFile"),
    ],
)
def test_voxels_of_another_kind_or_place_are_refused(write, before, after, found, tmp_path):
    path = write(tmp_path, *(["space: LPS", DIRECTIONS] if write is nrrd else ["ElementSpacing = 2 2 3"]))
    path.write_bytes(path.read_bytes().replace(before.encode(), after.encode()))
    with pytest.raises(UserError, match=f"{found}.*: .*ct\\."):
        read_volume(path)


@pytest.mark.parametrize("space", ["RAS", "right-anterior-superior", "LAS", "LPS", "scanner-xyz"])
def test_nrrd_files_are_read_as_itk_reads_them(space, tmp_path):
    fields = ("space directions: (0.6,1.6,0) (1.6,-0.6,0) (0,0,-3)", "space origin: (10,-20.5,3e1)")
    check_as_itk(nrrd(tmp_path, f"space: {space}", *fields))


@pytest.mark.parametrize("encoding", ["gzip", "gz"])
@pytest.mark.parametrize(
    ("kind", "numpy"), [("short", "i2"), ("unsigned char", "u1"), ("double", "f8"), ("int64", "i8")]
)
def test_types_and_byte_orders_of_nrrd_are_read_as_itk_reads_them(kind, numpy, encoding, tmp_path):
    for order, endian in (("<", "little"), (">", "big")):
        path = nrrd(tmp_path, "space: LPS", DIRECTIONS)
        header = path.read_bytes().partition(b"\n\n")[0].decode()
        for old, new in (("short", kind), ("raw", encoding), ("little", endian)):
            header = header.replace(old, new)
        path.write_bytes(f"{header}\n\n".encode() + gzip.compress(ARRAY.astype(order + numpy).tobytes()))
        check_as_itk(path)
        assert read_volume(path).array.dtype == np.dtype(numpy)


@pytest.mark.parametrize(
    "fields",
    [
        ("TransformMatrix = 0.6 0.8 0 0.8 -0.6 0 0 0 1", "Offset = 1 2 3", "ElementSize = 9 9 9"),
        ("Rotation = 0 1 0 1 0 0 0 0 -1", "Origin = 1e1 -2 3.5"),
        ("Orientation = 0 0 1 0 1 0 1 0 0", "Position = 1 2 3", "CenterOfRotation = 5 5 5"),
        ("BinaryDataByteOrderMSB = True",),
        ("ElementByteOrderMSB = True", "Comment = a = b: c", "AnatomicalOrientation = RAI", "Name = x"),
    ],
)
def test_mha_files_are_read_as_itk_reads_them(fields, tmp_path):
    path = mha(tmp_path, *fields, "ElementSpacing = 1.5 2 3")
    if "MSB" in fields[0]:
        path.write_bytes(path.read_bytes().replace(b"BinaryDataByteOrderMSB = False\n", b""))
    check_as_itk(path)


def test_compressed_mha_files_are_read_as_itk_reads_them(tmp_path):
    voxels = zlib.compress(ARRAY.tobytes())
    fields = ("CompressedData = True", f"CompressedDataSize = {len(voxels)}", "ElementSpacing = 1.5 2 3")
    path = mha(tmp_path, *fields)
    header, end, _ = path.read_bytes().partition(b"LOCAL\n")
    path.write_bytes(header + end + voxels)
    check_as_itk(path)


@pytest.mark.parametrize(
    ("numpy", "kind"),
    [("i1", "CHAR"), ("u2", "USHORT"), ("i4", "LONG"), ("u4", "UINT"), ("f4", "FLOAT"), ("i8", "LONG_LONG")],
)
def test_types_of_mha_are_read_as_itk_reads_them(numpy, kind, tmp_path):
    path = mha(tmp_path, "ElementSpacing = 1 2 3")
    header = path.read_bytes().partition(b"LOCAL\n")[0].replace(b"MET_SHORT", f"MET_{kind}".encode())
    path.write_bytes(header + b"LOCAL\n" + ARRAY.astype(numpy).tobytes())
    check_as_itk(path)
    assert read_volume(path).array.dtype == np.dtype(numpy)


def check_as_itk(path):
    found, expected = read_volume(path), from_sitk(sitk.ReadImage(str(path)))
    assert found.geometry.matches(expected.geometry, tolerance_vox=1e-9), (found.geometry, expected.geometry)
    np.testing.assert_array_equal(found.array, expected.array)


def test_names_of_segments_may_have_any_letters(tmp_path):
    found = read_volume(nrrd(tmp_path, "space: LPS", DIRECTIONS, "Segment0_Name:=\u00d6sophagus: oben"))
    assert found.metadata == {"Segment0_Name": "\u00d6sophagus: oben"}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_damage_to_a_header_is_refused_or_leaves_a_volume(data):
    """ITK ended the program at some of them."""
    with tempfile.TemporaryDirectory() as folder:
        write = data.draw(st.sampled_from([nrrd, mha]))
        needed = ["space: LPS", DIRECTIONS, "space origin: (1,2,3)"]
        path = write(Path(folder), *(needed if write is nrrd else ["ElementSpacing = 2 2 3", "Offset = 1 2 3"]))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content) - 48))
            stop = start + data.draw(st.integers(0, 6))
            piece = st.sampled_from([b"-", b"0", b"9999999999", b"\n", b"=", b":", b" ", b"(", b"1e400", b"\xff"])
            content[start:stop] = data.draw(st.one_of(piece, st.binary(max_size=4)))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            found = read_volume(path)
            assert found.array.shape == found.geometry.size_zyx


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

"""utils/io/volumes.py: round trips, orientation and damaged files."""

import tempfile

import numpy as np
import pytest
import SimpleITK as sitk

from tests.posix import ANY_NAME, NOT_UTF8
from utils.imaging.geometry import Geometry
from utils.io import volumes
from utils.io.nifti import NIFTI_SUFFIXES
from utils.io.volumes import (
    SUFFIXES,
    Volume,
    match_orientation,
    read_volume,
    to_lps,
    volume_stem,
    volume_suffix,
    write_volume,
)

SIZE = (4, 5, 6)
COS, SIN = np.cos(0.25), np.sin(0.25)
TILTED = np.array([[COS, -SIN, 0], [SIN, COS, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, COS, -SIN], [0, SIN, COS]])
CODES = ("LPS", "RAS", "LPI", "SRA", "AIL", "IPR", "PSL", "RIP", "ASR")


def numbered_volume(direction=TILTED, dtype=np.int16):
    """A volume whose voxels are all different, on an anisotropic grid."""
    array = (np.arange(np.prod(SIZE)).reshape(SIZE) - 60).astype(dtype)
    geometry = Geometry(
        size_zyx=SIZE,
        spacing_zyx_mm=(3.0, 0.7, 1.25),
        origin_xyz_mm=(-20.5, 7.25, 100.0),
        direction=tuple(np.ravel(direction)),
    )
    return Volume(array=array, geometry=geometry)


def direction_of(code):
    """The direction whose axes run as the code's letters say: "L" grows to the left, and so on."""
    columns = {"L": (1, 0, 0), "R": (-1, 0, 0), "P": (0, 1, 0), "A": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return np.transpose([columns[letter] for letter in code]).astype(float)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_round_trip_keeps_voxels_and_oblique_grid(suffix, dtype, tmp_path):
    volume = numbered_volume(dtype=dtype)
    write_volume(tmp_path / f"ct{suffix}", volume)
    back = read_volume(tmp_path / f"ct{suffix}")
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == dtype
    assert back.geometry.matches(volume.geometry, tolerance_vox=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == [f"ct{suffix}"]


def test_masks_are_written_as_numbers(tmp_path):
    volume = numbered_volume()
    write_volume(tmp_path / "mask.nrrd", Volume(array=volume.array > 0, geometry=volume.geometry))
    assert read_volume(tmp_path / "mask.nrrd").array.dtype == np.uint8


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_header_fields_survive(suffix, tmp_path):
    write_volume(tmp_path / f"label{suffix}", numbered_volume(), {"Segment0_Name": "brainstem"})
    assert read_volume(tmp_path / f"label{suffix}").metadata["Segment0_Name"] == "brainstem"


def test_an_array_that_does_not_fit_its_geometry_is_refused_and_nothing_written(tmp_path):
    volume = numbered_volume()
    with pytest.raises(ValueError, match=r"array of shape \(5, 4, 6\) does not fit"):
        write_volume(tmp_path / "a.mha", Volume(array=volume.array.reshape(5, 4, 6), geometry=volume.geometry))
    assert list(tmp_path.iterdir()) == []


def test_lps_by_hand():
    """All three axes of a RAI file are opposite to LPS: they are flipped, and the origin moves to the far corner."""
    volume = numbered_volume(direction_of("RAI"))
    lps = to_lps(volume)
    np.testing.assert_array_equal(lps.array, volume.array[::-1, ::-1, ::-1])
    assert lps.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    np.testing.assert_allclose(lps.geometry.origin_xyz_mm, (-20.5 - 5 * 1.25, 7.25 - 4 * 0.7, 100 - 3 * 3.0))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("tilt", [np.eye(3), TILTED])
def test_to_lps_and_back_is_the_identity(code, tilt):
    volume = numbered_volume(tilt @ direction_of(code))
    lps = to_lps(volume)
    assert np.diag(np.reshape(lps.geometry.direction, (3, 3))).min() > 0.9
    index = np.argwhere(lps.array == 17)[0]
    original_index = np.argwhere(volume.array == 17)[0]
    np.testing.assert_allclose(lps.geometry.world_mm(index), volume.geometry.world_mm(original_index), atol=1e-6)

    back = match_orientation(lps, volume.geometry)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.matches(volume.geometry, tolerance_vox=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.6, 0.99])
def test_truncated_files_are_refused(suffix, compressed, fraction, tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (8, 20, 30)).astype(np.int16)
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path), useCompression=compressed)
    np.testing.assert_array_equal(read_volume(path).array, noise)
    path.write_bytes(path.read_bytes()[: int(fraction * path.stat().st_size)])
    with pytest.raises(ValueError, match=f"(cannot be read|is truncated).*: .*ct{suffix}$"):
        read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_other_formats_are_refused(suffix, tmp_path):
    path = tmp_path / f"ct{suffix}"
    path.write_text("this is not a CT", encoding="utf-8")
    with pytest.raises(ValueError, match=f"^cannot be read as a volume.*: .*ct{suffix}$"):
        read_volume(path)


def test_only_three_dimensional_scalar_volumes_are_read(tmp_path):
    images = {
        "flat.nrrd": sitk.GetImageFromArray(np.zeros((5, 6), np.int16)),
        "series.nii.gz": sitk.JoinSeries([sitk.GetImageFromArray(np.zeros(SIZE, np.int16))] * 2),
        "color.mha": sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True),
    }
    messages = {
        "flat.nrrd": "got 2 dimensions",
        "series.nii.gz": "got 4 dimensions",
        "color.mha": "3 values per voxel",
    }
    for name, image in images.items():
        sitk.WriteImage(image, str(tmp_path / name))
        with pytest.raises(ValueError, match=f"^expected a 3-D volume .*{messages[name]}.*: .*{name}$"):
            read_volume(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no such file; check the path: .*ct\.mha"):
        read_volume(tmp_path / "ct.mha")


def test_upper_case_suffixes_are_read(tmp_path):
    write_volume(tmp_path / "ct.nii.gz", numbered_volume())
    (tmp_path / "ct.nii.gz").rename(tmp_path / "CT.NII.GZ")
    assert read_volume(tmp_path / "CT.NII.GZ").array.shape == SIZE


def test_suffixes_and_stems(tmp_path):
    assert (volume_suffix(tmp_path / "pt.1.nii.gz"), volume_stem(tmp_path / "pt.1.nii.gz")) == (".nii.gz", "pt.1")
    assert (volume_suffix(tmp_path / "pt.NRRD"), volume_stem(tmp_path / "pt.NRRD")) == (".nrrd", "pt")
    assert volume_suffix(tmp_path / "notes.txt") is None


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_in_a_nifti_file_is_not_read_as_zero(name, dtype, tmp_path):
    array = np.full((3, 4, 5), 7, dtype=dtype)
    array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf
    geometry = Geometry(size_zyx=(3, 4, 5), spacing_zyx_mm=(1.0, 1.0, 1.0))
    write_volume(tmp_path / name, Volume(array=array, geometry=geometry))
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_path_that_itk_cannot_open_on_windows_is_read_and_written(suffix, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(volumes, "ITK_OPENS", lambda path: opened.append(path) or "M\xfcller" not in path)
    (tmp_path / "public").mkdir()
    (tmp_path / "M\xfcller").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "M\xfcller"))
    monkeypatch.setenv("PROGRAMDATA", str(tmp_path / "public"))
    for name in ("WriteImage", "ReadImage"):
        monkeypatch.setattr(sitk, name, without_umlauts(getattr(sitk, name)))
    volume, path = numbered_volume(), tmp_path / "M\xfcller" / f"ct{suffix}"
    write_volume(path, volume)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)
    assert [left.name for left in sorted(tmp_path.rglob("*"))] == ["M\xfcller", path.name, "public"]
    assert suffix in NIFTI_SUFFIXES or opened


def without_umlauts(function):
    """A function of ITK as on Windows: it does not find a file whose path has other characters than ASCII."""

    def call(*arguments, **options):
        if any("\xfc" in argument for argument in arguments if isinstance(argument, str)):
            raise RuntimeError("the file does not exist")
        return function(*arguments, **options)

    return call


@ANY_NAME
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_are_not_utf8_are_read_and_written(suffix, tmp_path):
    """ITK would end the program at such a name, of the file or of its folder."""
    volume, path = numbered_volume(), tmp_path / NOT_UTF8 / f"{NOT_UTF8}{suffix}"
    write_volume(path, volume)
    np.testing.assert_array_equal(read_volume(path).array, volume.array)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert volume_stem(path) == "M%FCller"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read as a volume|is truncated"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".nii"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_compressed_voxels_with_a_wrong_byte_are_refused(suffix, fraction, tmp_path):
    """ITK reads other voxels in their place, in MHA always and in NRRD sometimes."""
    noise = np.random.default_rng(0).integers(-1000, 1000, (8, 20, 30)).astype(np.int16)
    path = tmp_path / f"ct{suffix}"
    write_volume(path, Volume(array=noise, geometry=Geometry(size_zyx=noise.shape, spacing_zyx_mm=(1.0, 1.0, 1.0))))
    content = bytearray(path.read_bytes())
    content[int(len(content) * fraction)] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^cannot be read as a volume: damaged.*: .*ct{suffix}$"):
        read_volume(path)

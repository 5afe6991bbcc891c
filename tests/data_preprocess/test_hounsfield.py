"""hu_check.py: what is HU passes, what is 1024 too high is said, and nothing else is taken for a CT."""

import numpy as np
import pytest

from data_preprocess.hounsfield import validate_hounsfield

SIZE = (8, 30, 20)


def ct(dtype=np.int16):
    """Half air, half soft tissue around 40 HU, and a little bone."""
    rng = np.random.default_rng(0)
    array = np.where(np.arange(30)[:, None] < 15, -1000, 40) + rng.normal(0, 12, SIZE)
    array[:, 20:22, 5:8] = 1200
    return array.round().astype(dtype)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_hu_of_any_dtype_pass_as_they_are(dtype):
    checked = validate_hounsfield(ct(dtype), correct_offset=False)
    assert checked.array.dtype == np.int16
    np.testing.assert_array_equal(checked.array, ct())
    assert checked.notes == []


def test_fractions_are_rounded_and_metal_is_clipped_to_int16():
    array = ct(np.float32) + 0.4
    array[0, 0, 0] = 60000
    checked = validate_hounsfield(array, correct_offset=False)
    assert checked.array[0, 0, 0] == 32767
    np.testing.assert_array_equal(checked.array[1:], ct()[1:])


def test_fractions_survive_an_offset():
    array = ct(np.float32) + 1024 - 0.4
    np.testing.assert_array_equal(validate_hounsfield(array, correct_offset=True).array, ct())


@pytest.mark.parametrize("padding", [-2000, -3024, -1500])
def test_padding_becomes_air_and_is_noted(padding):
    array = ct()
    array[:, :, :3] = padding
    checked = validate_hounsfield(array, correct_offset=False)
    assert (checked.array[:, :, :3] == -1000).all()
    np.testing.assert_array_equal(checked.array[:, :, 3:], ct()[:, :, 3:])
    assert checked.notes == [f"15.0% of the voxels are padding (down to {padding}) and became air"]


def test_the_input_is_left_alone():
    array = ct()
    array[0, 0, 0] = -3024
    before = array.copy()
    validate_hounsfield(array, correct_offset=False)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_an_offset_is_refused_with_the_peaks_and_the_remedy(dtype):
    array = (ct().astype(np.int32) + 1024).astype(dtype)
    with pytest.raises(
        ValueError,
        match=r"air peaks at 2\d and soft tissue at 10\d\d, .*; export the CT in Hounsfield .*--hu-offset auto",
    ):
        validate_hounsfield(array, correct_offset=False)


def test_an_offset_is_subtracted_on_request_and_noted():
    array = np.clip(ct().astype(np.int32) + 1024, 0, None).astype(np.uint16)
    checked = validate_hounsfield(array, correct_offset=True)
    np.testing.assert_array_equal(checked.array, np.maximum(ct(), -1024))
    assert checked.notes[0].endswith("1024 was subtracted")


def test_an_offset_with_padding_is_subtracted_from_the_rest_only():
    array = (ct().astype(np.int32) + 1024).astype(np.int16)
    array[:, :, :3] = -2000
    checked = validate_hounsfield(array, correct_offset=True)
    assert (checked.array[:, :, :3] == -1000).all()
    np.testing.assert_array_equal(checked.array[:, :, 3:], ct()[:, :, 3:])


def test_correcting_leaves_proper_hu_alone():
    np.testing.assert_array_equal(validate_hounsfield(ct(), correct_offset=True).array, ct())


@pytest.mark.parametrize(
    "wrong",
    [
        np.linspace(0, 255, 4800).reshape(SIZE),  # a picture
        np.linspace(0, 1, 4800).reshape(SIZE),
        np.linspace(0, 20000, 4800).reshape(SIZE),  # PET activity
        np.zeros(SIZE),
        np.full(SIZE, -1000.0),
        ct() * 10.0,
    ],
    ids=["8 bit", "0 to 1", "PET", "zeros", "air", "scaled"],
)
@pytest.mark.parametrize("correct_offset", [False, True])
def test_values_that_are_not_hu_are_refused(wrong, correct_offset):
    with pytest.raises(
        ValueError, match="values are not HU: 98 % of them lie between .* export the CT in Hounsfield units"
    ):
        validate_hounsfield(wrong, correct_offset=correct_offset)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinite_voxels_are_counted(bad):
    array = ct(np.float32)
    array[0, 1, 2:5] = bad
    with pytest.raises(ValueError, match="3 of 4800 voxels are NaN or infinite"):
        validate_hounsfield(array, correct_offset=False)

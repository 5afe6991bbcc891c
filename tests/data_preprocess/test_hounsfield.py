"""data_preprocess/hounsfield.py: what is HU passes, HU + 1024 is said, and nothing else is taken for a CT."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_preprocess.hounsfield import validate_hounsfield
from data_preprocess.sources import SOURCES
from utils.config.preset import load_preset

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
        np.clip(ct(), -160, 240),
        np.clip(ct(), -160, 240) + 1024,
        -ct(),
        1024 - ct(),
        ct() - 1024,
        ct().astype(np.uint16),  # air at 64536
    ],
    ids=["8 bit", "0 to 1", "PET", "zeros", "air", "scaled", "window", "window + 1024", "inverted", "1024 - HU",
         "HU - 1024", "wrapped"],
)  # fmt: skip
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


def tissues(seed, **shares):
    """Voxels of a slice, each normal with mean and standard deviation, in the order of `shares`."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(*normal, count) for count, normal in shares.values()]).reshape(1, 100, -1)


def refuses(array):
    for correct_offset in (False, True):
        with pytest.raises(ValueError, match="values are not HU"):
            validate_hounsfield(array, correct_offset=correct_offset)


SEED = st.integers(0, 9)
FAST = settings(max_examples=60, deadline=None, derandomize=True)


@FAST
@given(SEED, st.floats(300, 985) | st.floats(1125, 3000), st.floats(0.02, 0.2), st.floats(2, 30), st.booleans())
def test_mr_is_no_ct_stored_with_an_offset(seed, muscle, relative_deviation, noise, is_signed):
    """Noise around 0 outside of the patient, dark bone, bright fat: also where the peaks are about 880 apart."""
    volume = tissues(
        seed,
        outside=(6000, (0, noise)),
        bone=(200, (0.2 * muscle, 0.05 * muscle)),
        muscle=(3000, (muscle, relative_deviation * muscle)),
        fat=(800, (2 * muscle, 0.2 * muscle)),
    )
    refuses(volume.astype(np.int16) if is_signed else np.abs(volume).astype(np.uint16))


def test_an_mr_with_peaks_at_0_and_880_is_refused():
    refuses(np.abs(tissues(0, outside=(6000, (0, 12)), tissue=(4000, (880, 15)))).astype(np.int16))


@FAST
@given(SEED, st.floats(-100, 100), st.floats(20, 1000))
def test_noise_is_no_ct(seed, mean, deviation):
    refuses(tissues(seed, noise=(10000, (mean, deviation))))


@FAST
@given(SEED, st.floats(10, 40000), st.floats(0.5, 3))
def test_pet_is_no_ct(seed, scale, power):
    refuses(np.random.default_rng(seed).exponential(1, (1, 100, 100)) ** power * scale)


@FAST
@given(SEED, st.floats(15, 65), st.floats(3, 40), st.integers(0, 6000), st.sampled_from((-1000, -1024)))
def test_every_ct_passes_and_with_an_offset_it_is_corrected(seed, muscle, noise, outside, air):
    """Noisy or not, with much air around the patient or with the airways' only."""
    parts = {"outside": (outside, (air, noise)), "airways": (150, (-980, 30)), "bone": (300, (500, 200))}
    parts |= {"fat": (1400, (-100, noise)), "muscle": (2150, (muscle, noise)), "partial": (200, (-500, 150))}
    volume = np.clip(tissues(seed, **parts, rest=(-sum(n for n, _ in parts.values()) % 100, (40, 9))), -1024, None)
    expected = volume.round().astype(np.int16)
    np.testing.assert_array_equal(validate_hounsfield(expected, correct_offset=False).array, expected)
    corrected = validate_hounsfield((expected.astype(np.int32) + 1024).astype(np.uint16), correct_offset=True)
    np.testing.assert_array_equal(corrected.array, expected)


@pytest.fixture(scope="module")
def patient(real_data):
    source = SOURCES["openkbp"]
    handle = next(iter(source.list_cases(real_data / "openkbp" / "train-pats")))
    return source.read_case(handle, load_preset("openkbp")).volume.array.astype(np.int16)


def test_a_patient_passes_as_it_is_and_corrected(patient):
    np.testing.assert_array_equal(validate_hounsfield(patient, correct_offset=False).array, patient)
    for offset in (1000, 1024):  # nothing tells them apart; with 1000 the result is 24 HU too low
        with pytest.raises(ValueError, match="as in a CT stored as HU"):
            validate_hounsfield(patient + offset, correct_offset=False)
        corrected = validate_hounsfield((patient + offset).astype(np.uint16), correct_offset=True)
        np.testing.assert_array_equal(corrected.array, patient + offset - 1024)


def test_changed_values_of_a_patient_are_refused(patient):
    low, high = float(patient.min()), float(patient.max())
    scaled = (patient - low) / (high - low)
    for changed in (255 * scaled, scaled, -patient, 255 - 255 * scaled, np.clip(patient, -160, 240), patient - 1024):
        refuses(changed)


def test_slices_that_were_lost_between_others_are_noted():
    array = ct()
    array[0] = array[-1] = -1000  # air above and below the patient
    assert validate_hounsfield(array, correct_offset=False).notes == []
    array[3:5] = -1000
    (note,) = validate_hounsfield(array, correct_offset=False).notes
    assert note.startswith("2 slice(s) between others hold one value alone, so their pixels may be lost")

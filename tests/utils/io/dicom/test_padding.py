"""utils/io/dicom/padding.py: pixels that the header declares as padding, however writers store the tags."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from utils.io.dicom.padding import declared_padding

WORDS = np.array([[0, 24, 1024, 63536], [2000, 63536, 63000, 4095]], "<u2")


def image(value, limit=None, *, signed=False, intercept=-1024):
    dataset = Dataset()
    dataset.BitsAllocated, dataset.PixelRepresentation = 16, int(signed)
    dataset.RescaleSlope, dataset.RescaleIntercept = "1", str(intercept)
    dataset.add_new("PixelPaddingValue", "US" if value >= 0 else "SS", value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", "US" if limit >= 0 else "SS", limit)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (image(63536), WORDS == 63536),
        (image(-2000), WORDS == 63536),  # the same word, stored as signed
        (image(-2000, signed=True, intercept=0), WORDS == 63536),
        (image(63000, 63536), WORDS >= 63000),
        (image(63536, 63000), WORDS >= 63000),
        (image(1024), WORDS < 0),  # 0 HU: water is not padding
        (image(0, 65535), WORDS < 0),
    ],
)
def test_declared_words_are_padding(dataset, expected):
    np.testing.assert_array_equal(declared_padding(dataset, WORDS), expected)


def test_without_a_declaration_nothing_is_padding():
    dataset = image(63536)
    del dataset.PixelPaddingValue
    assert not declared_padding(dataset, WORDS).any()

"""Tests of models/autoencoder.py."""

import pytest
import torch

from models.autoencoder import ShapeAutoEncoder


def test_autoencoder_has_the_reference_parameters_and_shapes():
    network = ShapeAutoEncoder(roi_size=(8, 64, 64)).requires_grad_(False)
    encoding = network(torch.zeros(2, 1, 8, 64, 64))

    assert sum(parameter.numel() for parameter in network.parameters()) == 31_148_801
    assert encoding.code.shape == (2, 512)
    assert encoding.feature_1.shape == (2, 128, 2, 16, 16)
    assert encoding.feature_2.shape == (2, 64, 4, 32, 32)
    assert encoding.reconstruction.shape == (2, 1, 8, 64, 64)


@pytest.mark.parametrize(
    ("roi_size", "size_1", "size_2"),
    [((8, 16, 24), (2, 4, 6), (4, 8, 12)), ((5, 14, 18), (2, 4, 5), (3, 7, 9)), ((1, 9, 7), (1, 3, 2), (1, 5, 4))],
)
def test_autoencoder_derives_its_shapes_from_the_roi(roi_size, size_1, size_2):
    network = ShapeAutoEncoder(roi_size=roi_size, code_length=12, width=0.125)

    encoding = network(torch.rand(3, 1, *roi_size))

    assert encoding.code.shape == (3, 12)
    assert encoding.feature_1.shape == (3, 16, *size_1)
    assert encoding.feature_2.shape == (3, 8, *size_2)
    assert encoding.reconstruction.shape == (3, 1, *roi_size)


def test_autoencoder_reconstructs_probabilities_and_has_no_negative_features():
    torch.manual_seed(0)
    network = ShapeAutoEncoder(roi_size=(4, 8, 12), code_length=16, width=0.125)

    encoding = network((torch.rand(2, 1, 4, 8, 12) < 0.2).float())

    assert encoding.reconstruction.min() >= 0
    assert encoding.reconstruction.max() <= 1
    assert encoding.feature_1.min() == 0
    assert encoding.feature_2.min() == 0


def test_autoencoder_code_reaches_back_to_the_mask():
    torch.manual_seed(0)
    network = ShapeAutoEncoder(roi_size=(4, 8, 12), code_length=16, width=0.125).eval()
    mask = torch.rand(2, 1, 4, 8, 12, requires_grad=True)

    network(mask).code[0].sum().backward()

    assert mask.grad[0].any()
    assert not mask.grad[1].any()


def test_autoencoder_batched_equals_one_by_one():
    torch.manual_seed(0)
    network = ShapeAutoEncoder(roi_size=(4, 8, 12), code_length=16, width=0.125).eval()
    masks = torch.rand(2, 1, 4, 8, 12)

    batched = network(masks)
    one_by_one = [network(mask[None]) for mask in masks]

    for field, fields in zip(batched, zip(*one_by_one, strict=True), strict=True):
        torch.testing.assert_close(field, torch.cat(fields), rtol=1e-4, atol=1e-5)


def test_autoencoder_rejects_another_size():
    network = ShapeAutoEncoder(roi_size=(4, 8, 12), code_length=16, width=0.125)

    with pytest.raises(ValueError, match=r"\(4, 8, 12\).*\(4, 12, 8\)"):
        network(torch.rand(1, 1, 4, 12, 8))


def test_autoencoder_in_bfloat16_agrees_with_float32():
    torch.manual_seed(0)
    network = ShapeAutoEncoder(roi_size=(4, 8, 12), code_length=16, width=0.125).eval()
    mask = (torch.rand(2, 1, 4, 8, 12) > 0.5).float()
    expected = network(mask)

    network.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoding = network(mask.to(memory_format=torch.channels_last_3d))

    assert encoding.reconstruction.dtype == torch.float32
    torch.testing.assert_close(encoding.reconstruction, expected.reconstruction, rtol=0, atol=0.02)
    torch.testing.assert_close(encoding.code.float(), expected.code, rtol=0.02, atol=0.05)

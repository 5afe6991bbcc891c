"""roi_fit.py: the sizes of organs, counted by hand."""

import logging

import numpy as np
import pytest
import torch

from adv_train import AdversarialStage
from data_preprocess.dataset import CaseFolder
from data_preprocess.roi_fit import needed_size_vox, size_that_holds, warn_of_large_organs
from models.roi import roi_corners
from train_autoencoder import AutoEncoderStage
from utils.io.files import write_json
from utils.runtime.device import choose_compute

SHAPE = (20, 40, 30)
CHIASM = 2
ROI = (4, 12, 8)
"""The tiny preset's."""


@pytest.fixture
def chiasms(tmp_path, add_case):
    """A function that writes one training case for each box (z, y, x) that a chiasm fills, and opens them."""

    def build(*boxes, preset):
        for i, box in enumerate(boxes):
            label = np.zeros(SHAPE, np.uint8)
            label[tuple(slice(start, stop) for start, stop in box)] = CHIASM
            add_case(tmp_path, f"case_{i}", np.zeros(SHAPE, np.int16), label)
        ids = [f"case_{i}" for i in range(len(boxes))]
        write_json(tmp_path / "splits.json", {"train": ids, "val": ids[:0], "test": []})
        return CaseFolder(tmp_path, "train", preset.organ_names)

    return build


FITTING = ((8, 12), (10, 22), (10, 18))
LONG = ((5, 14), (10, 22), (10, 18))
WIDE = ((8, 12), (10, 22), (6, 22))


@pytest.mark.parametrize("box", [FITTING, LONG, WIDE, ((3, 4), (7, 8), (9, 10)), ((0, 5), (3, 9), (2, 4))])
def test_the_needed_size_is_the_smallest_box_that_the_networks_would_place(box, chiasms, tiny_preset):
    case = chiasms(box, preset=tiny_preset)[0]
    needed = needed_size_vox(case, "chiasm")

    def holds(size):
        far = 500  # from the volume's border, where boxes are clamped
        corner = roi_corners(torch.tensor(case.info.organs["chiasm"].center_vox) + far, size, (2 * far,) * 3) - far
        return [c <= start and stop <= c + s for c, s, (start, stop) in zip(corner.tolist(), size, box, strict=True)]

    assert all(holds(needed.tolist()))
    assert not any(holds((needed - 1).tolist()))


def test_organs_that_exceed_the_box_are_counted(chiasms, tiny_preset, caplog):
    cases = chiasms(FITTING, LONG, WIDE, preset=tiny_preset)
    with caplog.at_level(logging.WARNING):
        warn_of_large_organs(cases, tiny_preset)
    assert [record.getMessage() for record in caplog.records] == [
        "chiasm exceeds grid.roi_size_vox [4, 12, 8] in 2 of 3 train cases; SOS-Net cuts it off. "
        "[9, 12, 16] would hold 90 %"
    ]


def test_organs_that_fit_need_no_warning(chiasms, tiny_preset, caplog):
    warn_of_large_organs(chiasms(FITTING, FITTING, preset=tiny_preset), tiny_preset)
    assert not caplog.records


def test_a_tenth_of_the_organs_may_be_larger_than_the_advised_size():
    sizes = np.array([(4, 12, 8)] * 8 + [(6, 12, 8), (40, 12, 8)])
    assert size_that_holds(sizes, np.array(ROI)).tolist() == [6, 12, 8]
    assert size_that_holds(sizes // 2, np.array(ROI)).tolist() == [4, 12, 8]


@pytest.mark.parametrize("stage", [AdversarialStage, AutoEncoderStage])
def test_the_stages_that_use_boxes_warn(stage, chiasms, tiny_preset, caplog):
    cases = chiasms(LONG, preset=tiny_preset)
    stage(tiny_preset, choose_compute("cpu", "fp32"), seed=0).build_dataset(cases)
    assert "chiasm exceeds grid.roi_size_vox [4, 12, 8] in 1 of 1 train cases" in caplog.text

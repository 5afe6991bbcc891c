"""pseudo_labels.py: which voxels are labeled, and which predictions stand in for a contour."""

import numpy as np
import pytest

from data_preprocess.pseudo_labels import PseudoRule, UsualVolumes, agreement, doubts, pseudo_label
from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement, OrganOffset
from utils.imaging.masks import UNKNOWN_LABEL
from utils.reporting.organ_report import OrganConfidence

RULE = PseudoRule(high=0.7, low=0.2)
PRESET = load_preset("openkbp")
LARYNX = PRESET.organ_names.index("larynx")
NOTHING_KNOWN = Arrangement(())


def test_voxels_by_hand():
    """Five voxels in a row; the last one has a contour, which stays."""
    probabilities = np.zeros((3, 1, 1, 5))
    probabilities[1] = [0.1, 0.2, 0.69, 0.7, 0.9]
    probabilities[2] = [0.75, 0.1, 0.25, 0.1, 0.0]
    label = np.array([[[0, 0, 0, 0, 3]]], dtype=np.uint8)
    unknown = UNKNOWN_LABEL
    both = pseudo_label(probabilities, label, [0, 1], RULE)
    assert both.tolist() == [[[2, unknown, unknown, 1, 0]]]
    assert both.dtype == np.uint8
    assert pseudo_label(probabilities, label, [1], RULE).tolist() == [[[2, 0, unknown, 0, 0]]]
    assert not pseudo_label(probabilities, label, [], RULE).any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.7), (0.8, 0.7), (0.2, 1.0), (0.2, 0.4)])
def test_impossible_rules_are_refused(low, high):
    """From 0.5 on, a voxel cannot surely belong to two organs."""
    with pytest.raises(UserError, match=r"expected 0 < low <= high < 1 and high of at least 0.5"):
        PseudoRule(low=low, high=high)


def test_agreement_by_hand():
    """Of four contoured voxels two are labeled and one is excluded; one voxel beside them is labeled too."""
    probability = np.array([0.9, 0.8, 0.5, 0.1, 0.7, 0.9])
    label = np.array([1, 1, 1, 1, 0, 2], dtype=np.uint8)  # the last one belongs to another contour
    found = agreement(probability, label, 0, RULE)
    assert found == (pytest.approx(2 / 3), 0.5, 0.25)


def test_volumes_are_compared_with_contours():
    usual = UsualVolumes({"larynx": [20, 22, 24, 26, 28, 30, 32, 34], "mandible": [60]})
    assert usual.is_usual("larynx", 27)
    assert not usual.is_usual("larynx", 5)
    assert not usual.is_usual("larynx", 120)
    assert usual.is_usual("mandible", 1)  # one case says little
    assert usual.is_usual("esophagus", 1)


def doubt_of(label, *, confidence=0.9, volumes=None, arrangement=NOTHING_KNOWN, centers_mm=None, organ="larynx"):
    found = doubts(
        label,
        {organ: OrganConfidence(confidence=confidence)},
        centers_mm or {},
        preset=PRESET,
        arrangement=arrangement,
        volumes=UsualVolumes(volumes or {}),
        rule=RULE,
    )
    return found[organ]


@pytest.fixture
def larynx():
    """A larynx of 8 x 8 x 8 voxels: 20 ml, its center at (30, 60, 60) mm, about."""
    label = np.zeros((40, 40, 40), dtype=np.uint8)
    label[8:16, 12:20, 12:20] = LARYNX + 1
    return label


def test_a_usual_organ_stands_in(larynx):
    assert doubt_of(larynx) == ""
    assert doubt_of(larynx, organ="brainstem") == "not found"


def test_an_unsure_organ_does_not(larynx):
    assert doubt_of(larynx, confidence=0.7) == "confidence below 0.75"


def test_an_organ_of_an_unusual_size_does_not(larynx):
    assert doubt_of(larynx, volumes={"larynx": [60, 61, 62, 63, 64, 65, 66, 90]}) == "19.5 ml, unlike contours"
    larynx[9:] = 0  # 2.4 ml on one slice, touching nothing
    assert doubt_of(larynx) == ""
    larynx[8, 16:] = 0
    assert doubt_of(larynx) == "unusual volume"


def test_an_organ_that_the_scan_cuts_off_may_stand_in(larynx):
    assert doubt_of(np.roll(larynx, -8, axis=0)) == ""


def test_an_organ_in_the_wrong_place_does_not(larynx):
    above = Arrangement([OrganOffset("brainstem", "larynx", (100.0, 0.0, 0.0), (3.0, 3.0, 3.0))])
    right, wrong = {"brainstem": (128.0, 60.0, 60.0)}, {"brainstem": (80.0, 60.0, 60.0)}
    assert doubt_of(larynx, arrangement=above, centers_mm=right) == ""
    assert doubt_of(larynx, arrangement=above, centers_mm=wrong).startswith("brainstem lies 51 mm above larynx")
    elsewhere = Arrangement([OrganOffset("brainstem", "mandible", (0.0, 0.0, 0.0), (3.0, 3.0, 3.0))])
    assert doubt_of(larynx, arrangement=elsewhere, centers_mm={**wrong, "mandible": (0.0, 0.0, 0.0)}) == ""

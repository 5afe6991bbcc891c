"""models/postprocessing.py: small components of an organ become background."""

import torch

from models.postprocessing import remove_small_components

ORGAN, OTHER = 1, 2


def probabilities_of(label):
    """0.8 for each voxel's own class."""
    one_hot = torch.nn.functional.one_hot(label, 3).movedim(-1, 0).float()
    return 0.7 * one_hot + 0.1


def painted(*boxes):
    label = torch.zeros(6, 8, 10, dtype=torch.long)
    for value, box in boxes:
        label[box] = value
    return label


BODY = (slice(0, 3), slice(0, 4), slice(0, 4))  # 48 voxels
SMALL = (slice(5, 6), slice(7, 8), slice(6, 10))  # 4
HALF = (slice(0, 3), slice(0, 4), slice(6, 8))  # 24


def test_a_small_component_becomes_background_and_the_sum_stays_one():
    probabilities = probabilities_of(painted((ORGAN, BODY), (ORGAN, SMALL), (OTHER, HALF)))
    remove_small_components(probabilities)
    assert torch.equal(probabilities.argmax(dim=0), painted((ORGAN, BODY), (OTHER, HALF)))
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(6, 8, 10))


def test_a_half_stays():
    label = painted((ORGAN, BODY), (ORGAN, HALF))
    probabilities = probabilities_of(label)
    remove_small_components(probabilities)
    assert torch.equal(probabilities, probabilities_of(label))


def test_voxels_that_touch_at_a_corner_are_one_component():
    label = painted((ORGAN, BODY))
    label[3, 4, 4] = ORGAN
    probabilities = probabilities_of(label)
    remove_small_components(probabilities)
    assert torch.equal(probabilities.argmax(dim=0), label)


def test_an_empty_volume_is_left_alone():
    probabilities = probabilities_of(painted())
    remove_small_components(probabilities)
    assert torch.equal(probabilities, probabilities_of(painted()))

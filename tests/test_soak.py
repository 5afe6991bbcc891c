"""A short form of tests/soak_training.py."""

import pytest

from tests.posix import POSIX_ONLY
from tests.soak_training import soak


@POSIX_ONLY
@pytest.mark.slow
def test_a_training_killed_at_random_moments_ends_as_an_undisturbed_one(case_folder, tmp_path):
    report = soak(case_folder, tmp_path, kills=3, overrides=(), seed=1)
    assert report.kills == 3
    assert report.finished_runs >= 1

"""--deterministic on a CPU; tests/test_gpu.py has the same for a GPU."""

import pytest
import torch

from tests.all_stages import SCRIPTS, arguments_of, weights_of
from utils.runtime.command_line import run_main


@pytest.fixture(autouse=True)
def _not_for_other_tests():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_two_runs_of_every_stage_give_the_same_weights(case_folder, tmp_path):
    for stage, (script, _) in SCRIPTS.items():
        for name in (stage, f"{stage}_again"):
            words = arguments_of(stage, case_folder, tmp_path, name, "--device", "cpu", "--max-steps", "2")
            assert run_main(script.main, [*words, "--deterministic"]) == 0
        first, second = weights_of(tmp_path / stage), weights_of(tmp_path / f"{stage}_again")
        assert [key for key, value in first.items() if not torch.equal(value, second[key])] == []
    assert torch.are_deterministic_algorithms_enabled()

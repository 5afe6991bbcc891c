"""utils/runtime/distributed.py: what torchrun tells a process."""

import pytest
from torch.distributed import HashStore

from utils.errors import UserError
from utils.runtime import distributed
from utils.runtime.distributed import (
    DistributedContext,
    decided_by_rank0,
    distributed_context,
    is_under_torchrun,
    num_restarts,
)


def test_torchrun_is_recognized(monkeypatch):
    assert num_restarts() == 0
    assert not is_under_torchrun()
    assert distributed_context() == DistributedContext(rank=0, local_rank=0, world_size=1)
    torchrun = {"RESTART_COUNT": "1", "RUN_ID": "none"}
    environment = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    for name, value in (environment | {f"TORCHELASTIC_{key}": text for key, text in torchrun.items()}).items():
        monkeypatch.setenv(name, value)
    assert num_restarts() == 1
    assert is_under_torchrun()
    assert distributed_context() == DistributedContext(rank=3, local_rank=1, world_size=4)


@pytest.mark.parametrize(("rank", "found"), [(None, "RANK=, LOCAL_RANK=0"), ("x", "RANK=x, LOCAL_RANK=0")])
def test_an_environment_that_torchrun_did_not_make_is_named(rank, found, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "RANK": rank}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=f"of torchrun, got {found}, WORLD_SIZE=2; start the command with torchrun, or"):
        distributed_context()


def test_rank_0_decides_for_all(monkeypatch):
    stores = {}
    monkeypatch.setattr(distributed, "_store_at", lambda *address: stores.setdefault(address, HashStore()))
    ranks = [DistributedContext(rank=rank, local_rank=rank, world_size=2) for rank in range(2)]
    assert decided_by_rank0(ranks[0], "precision", lambda: "bf16") == "bf16"
    assert decided_by_rank0(ranks[1], "precision", lambda: pytest.fail("rank 1 decides")) == "bf16"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")  # what the ranks said before they were restarted is over
    assert decided_by_rank0(ranks[0], "precision", lambda: "fp32") == "fp32"
    assert decided_by_rank0(ranks[1], "precision", lambda: pytest.fail("rank 1 decides")) == "fp32"


def test_a_single_process_decides_without_a_store():
    assert decided_by_rank0(DistributedContext(), "precision", lambda: "fp32") == "fp32"

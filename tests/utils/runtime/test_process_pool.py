"""utils/runtime/process_pool.py: results, reasons, and bugs with the traceback of their worker."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.posix import POSIX_ONLY
from utils.errors import CaseFailure, UserError
from utils.runtime import process_pool
from utils.runtime.process_pool import WORKER_KILLED, run_cases


class UnpicklableError(Exception):
    """An exception that its own arguments cannot rebuild, as those of several libraries."""

    def __init__(self, first, second):
        super().__init__(f"{first}{second}")


def task(item):
    if item == "user":
        raise UserError("ct.mha: is damaged; copy it again")
    if item == "bug":
        return [][7]  # planted
    if item == "unpicklable":
        raise UnpicklableError("a", "b")
    if item == "memory":
        raise MemoryError
    if item == "result":
        return lambda: None
    return item.upper()


def run(*items, num_workers):
    return run_cases(task, {f"case_{item}": item for item in items}, num_workers)


def test_more_workers_than_windows_allows_are_not_started(monkeypatch):
    monkeypatch.setattr(process_pool, "MAX_POOL_WORKERS", 1)
    asked = []
    pool = process_pool.ProcessPoolExecutor
    monkeypatch.setattr(
        process_pool, "ProcessPoolExecutor", lambda count, **options: asked.append(count) or pool(count, **options)
    )
    assert run("a", "b", num_workers=62).results == {"case_a": "A", "case_b": "B"}
    assert asked == [1]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_case_has_its_result_or_its_reason_in_the_order_of_the_items(num_workers):
    outcome = run("b", "user", "bug", "a", "memory", "unpicklable", num_workers=num_workers)
    assert list(outcome.results.items()) == [("case_b", "B"), ("case_a", "A")]
    assert list(outcome.failures) == ["case_user", "case_bug", "case_memory", "case_unpicklable"]
    assert outcome.failures["case_user"] == CaseFailure("ct.mha: is damaged; copy it again")
    assert outcome.failures["case_memory"] == CaseFailure("out of memory; run again with fewer --workers")
    assert outcome.failures["case_unpicklable"].reason == "bug: UnpicklableError: ab"
    bug = outcome.failures["case_bug"]
    assert bug.reason == "bug: IndexError: list index out of range"
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if text.endswith("# planted"))
    assert f'test_process_pool.py", line {line}, in task' in bug.traceback


def test_a_result_that_cannot_be_sent_is_a_bug_of_its_case():
    outcome = run("a", "result", num_workers=2)
    assert outcome.results == {"case_a": "A"}
    assert "pickle" in outcome.failures["case_result"].traceback


def kill_own_process(_item):
    os._exit(9)  # as the system does that runs out of memory


def test_a_killed_worker_is_reported_with_its_remedy():
    outcome = run_cases(kill_own_process, {"a": 1, "b": 2}, 2)
    assert outcome.results == {}
    assert outcome.failures == {"a": CaseFailure(WORKER_KILLED), "b": CaseFailure(WORKER_KILLED)}
    assert "fewer --workers" in WORKER_KILLED


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
from utils.io.files import atomic_write
from utils.runtime.command_line import run_main
from utils.runtime.process_pool import run_cases

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored

def task(name):
    with atomic_write(Path(name)) as partial:
        partial.write_text("half")
        Path(f"{name}.started").touch()
        try:
            time.sleep(1)
        finally:
            time.sleep(0.3 * (name == "c0"))  # slower to clean up than the others

def main(argv):
    run_cases(task, {f"c{i}": f"c{i}" for i in range(8)}, 3)

if __name__ == "__main__":
    sys.exit(run_main(main))
"""


@POSIX_ONLY
@pytest.mark.slow
def test_ctrl_c_ends_all_workers_at_once_and_without_a_word(tmp_path):
    """A terminal sends the signal to all processes; the first two workers are busy, and the third perhaps idle."""
    root, work = Path(__file__).resolve().parents[3], tmp_path / "work"
    work.mkdir()
    (tmp_path / "script.py").write_text(INTERRUPTED, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    num_busy = 2 if multiprocessing.get_start_method() == "fork" else 3  # one that still imports would tell of Ctrl-C
    while len(list(work.glob("*.started"))) < num_busy and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, shown = process.communicate(timeout=60)
    assert (process.returncode, shown) == (130, "interrupted\n")
    left = {path.name for path in work.iterdir()}
    assert left <= {"c0.started", "c1.started", "c2.started"}

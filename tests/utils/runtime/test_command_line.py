"""utils/runtime/command_line.py: exit statuses, errors in one line, bugs with their traceback, shards."""

import argparse
import errno
import logging
import os
import subprocess
import sys

import pytest
import torch

from utils import errors
from utils.errors import CaseFailure, UserError
from utils.runtime.command_line import Shard, nonnegative_int, positive_int, report_failures, run_main


def raising(error):
    def main(argv):
        raise error

    return main


def test_the_status_is_that_of_main_or_0():
    assert run_main(lambda argv: None, []) == 0
    assert run_main(lambda argv: len(argv), ["a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("ct.mha: is damaged"), "ct.mha: is damaged"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.json"),
            "out/a.json: No space left on device; free some space or choose another disk",
        ),
        (
            OSError(errno.EACCES, "Permission denied"),
            "Permission denied; change its permissions or choose another folder",
        ),
        (MemoryError(), "out of memory; close other programs or use a machine with more memory"),
        (torch.OutOfMemoryError("CUDA"), "out of memory; close other programs or use a machine with more memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "out of memory; close other programs or use a machine with more memory",
        ),
    ],
)
def test_errors_that_the_user_can_fix_are_one_line_and_status_2(error, message, capsys):
    assert run_main(raising(error), []) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(("length", "told"), [(259, False), (260, True)])
def test_a_path_that_is_too_long_for_windows_is_told_from_a_missing_file(length, told, monkeypatch):
    monkeypatch.setattr(errors, "MAX_PATH_LENGTH", 260)
    path = os.path.abspath("a").ljust(length, "a")
    message = errors.user_message(FileNotFoundError(errno.ENOENT, "No such file or directory", path))
    assert message == (f"{path}: the path is too long for Windows; {errors.SHORTER_PATH}" if told else None)


def test_an_interrupt_has_the_shells_status(capsys):
    assert run_main(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_warnings_are_marked_as_such_and_other_lines_are_not(capsys, monkeypatch):
    def main(argv):
        logging.info("found 2 CTs")
        logging.warning("%s: permission denied", "lost+found")

    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    run_main(main, [])
    assert capsys.readouterr().err == "found 2 CTs\nwarning: lost+found: permission denied\n"


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("x"), OSError("x"), FileNotFoundError(errno.ENOENT, "x"), TypeError("x")]
)
def test_a_bug_is_not_caught(error):
    with pytest.raises(type(error)):
        run_main(raising(error), [])


@pytest.mark.slow
def test_a_bug_shows_file_and_line_and_has_status_1(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom utils.runtime.command_line import run_main\n"
        "def main(argv):\n    int('no number')\nsys.exit(run_main(main))\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, script]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    assert ended.returncode == 1
    assert f'{script}", line 4, in main' in ended.stderr


@pytest.mark.parametrize(("failed", "status"), [([], 0), (["a"], 1), (["a", "b", "c"], 2)])
def test_failures_of_some_cases_differ_from_failures_of_all(failed, status, caplog):
    with caplog.at_level(logging.ERROR):
        failures = {case_id: CaseFailure(f"slice {case_id} is damaged") for case_id in failed}
        assert report_failures(failures, 3) == status
    for case_id in failed:
        assert f"error: {case_id}: slice {case_id} is damaged" in caplog.text
    assert (f"{len(failed)} of 3 cases failed; fix these and run again" in caplog.text) == bool(failed)


def test_cases_that_failed_for_the_same_reason_share_a_line(caplog):
    reasons = {"c": "is damaged", "a": "is damaged", "b": "is not a CT"}
    with caplog.at_level(logging.ERROR):
        report_failures({case_id: CaseFailure(reason) for case_id, reason in reasons.items()}, 4)
    assert caplog.messages[:-1] == ["error: a, c: is damaged", "error: b: is not a CT"]


def test_many_cases_are_counted_and_the_first_are_named(caplog):
    with caplog.at_level(logging.ERROR):
        report_failures(dict.fromkeys("gfedcba", CaseFailure("is damaged")), 9)
    assert caplog.messages[0] == "error: a, b, c, d, ... (7 cases): is damaged"


def test_a_bug_is_logged_with_its_traceback_and_has_status_1(caplog):
    try:
        [][7]
    except IndexError as error:
        failure = CaseFailure.of(error)
    with caplog.at_level(logging.ERROR):
        assert report_failures({"a": failure, "b": failure}, 2) == 1
    message = caplog.messages[0]
    assert message.startswith("error: a, b: bug: IndexError: list index out of range\nTraceback")
    assert 'test_command_line.py", line' in message


def test_shards_divide_the_cases():
    cases = [f"case_{i}" for i in range(10)]
    parts = [Shard.parse(f"{i}/3").select(cases) for i in (1, 2, 3)]
    assert sorted(sum(parts, [])) == cases
    assert [len(part) for part in parts] == [4, 3, 3]
    assert Shard.parse("1/1").select(cases) == cases
    assert (Shard.parse("2/8").suffix, Shard.parse("1/1").suffix) == ("_2of8", "")


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "a/b", "-1/2", "1/0", "1.5/2", "1/2/3", "١/٢", "1/2\n"])
def test_a_text_that_is_not_a_shard_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected I/N with I from 1 to N"):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["-1", "1.5", "", "x", "²"])
def test_counts_are_whole_numbers(text):
    assert (nonnegative_int("0"), positive_int("3")) == (0, 3)
    for parse in (nonnegative_int, positive_int):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number of at least"):
            parse(text)
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, got '0'"):
        positive_int("0")

"""utils/runtime/command_line.py: exit statuses, and errors in one line."""

import logging

import pytest

from utils.runtime.command_line import report_failures, run_main


def raising(error):
    def main(argv):
        raise error

    return main


def test_the_status_is_that_of_main_or_0():
    assert run_main(lambda argv: None, []) == 0
    assert run_main(lambda argv: len(argv), ["a", "b", "c"]) == 3


@pytest.mark.parametrize("error", [ValueError("ct.mha: is damaged"), OSError("disk full")])
def test_errors_of_a_user_are_one_line_and_status_2(error, capsys):
    assert run_main(raising(error), []) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_an_interrupt_has_the_shells_status(capsys):
    assert run_main(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_main(lambda argv: 1 // 0, [])


@pytest.mark.parametrize(("failed", "status"), [([], 0), (["a"], 1), (["a", "b", "c"], 2)])
def test_failures_of_some_cases_differ_from_failures_of_all(failed, status, caplog):
    with caplog.at_level(logging.ERROR):
        assert report_failures({case_id: f"slice {case_id} is damaged" for case_id in failed}, 3) == status
    for case_id in failed:
        assert f"error: {case_id}: slice {case_id} is damaged" in caplog.text
    assert (f"{len(failed)} of 3 cases failed" in caplog.text) == bool(failed)


def test_cases_that_failed_alike_share_a_line(caplog):
    with caplog.at_level(logging.ERROR):
        report_failures({"c": "is damaged", "a": "is damaged", "b": "is no CT"}, 4)
    assert caplog.messages[:-1] == ["error: a, c: is damaged", "error: b: is no CT"]

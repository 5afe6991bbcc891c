"""utils/training/preemption.py: signals and the clock."""

import os
import signal

import pytest

from utils.training.preemption import StopRequest, StopTraining, runs_under_torchrun, was_restarted


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_and_a_second_one_ends_at_once(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.is_due()
        send(number)
        assert stop.is_due()
        assert stop.reason == signal.Signals(number).name
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert signal.getsignal(number) is before


def test_where_nothing_is_lost_a_signal_stops_at_once():
    with StopRequest() as stop:
        with stop.at_once(), pytest.raises(StopTraining):
            send(signal.SIGTERM)
        with pytest.raises(StopTraining), stop.at_once():
            pytest.fail("the request from before is still there")


def test_time_is_up(monkeypatch):
    stop = StopRequest(max_minutes=2)
    assert not stop.is_due()
    stop.deadline -= 121
    assert stop.is_due()
    assert stop.reason == "--max-minutes are over"


def test_torchrun_is_recognized(monkeypatch):
    assert not was_restarted()
    assert not runs_under_torchrun()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert was_restarted()
    assert runs_under_torchrun()

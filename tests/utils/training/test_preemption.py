"""utils/training/preemption.py: signals and the time limit."""

import signal

import pytest

from utils.training.preemption import StopRequest, StopTraining


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_requests_a_stop_and_a_second_one_ends_at_once(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested()
        signal.raise_signal(number)
        assert stop.requested()
        assert stop.reason == signal.Signals(number).name
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_where_nothing_is_lost_a_signal_stops_immediate():
    with StopRequest() as stop:
        with stop.immediate(), pytest.raises(StopTraining):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopTraining), stop.immediate():
            pytest.fail("the request from before is still there")


def test_time_is_up(monkeypatch):
    stop = StopRequest(max_minutes=2)
    assert not stop.requested()
    stop.deadline -= 121
    assert stop.requested()
    assert stop.reason == "--max-minutes is over"

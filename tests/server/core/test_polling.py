from __future__ import annotations

import threading

import pytest
from fakes import TIMEOUT_S, FakeClock

from ladle.server.core.polling import Poller


def test_what_fails_once_is_done_again(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    calls = 0
    twice = threading.Event()

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError
        twice.set()

    poller = Poller(step, name="tea leaves", wait_s=5, clock=clock)
    poller.start()
    while not twice.is_set():
        clock.wait_until_sleeping(1)
        clock.advance(5)
    poller.stop()

    assert [record.message for record in caplog.records] == ["a look at the tea leaves failed"]


def test_a_poller_that_was_stopped_before_it_began_does_nothing() -> None:
    poller = Poller(pytest.fail, name="tea leaves", wait_s=0)
    poller.stop()
    before = set(threading.enumerate())
    poller.start()
    for thread in set(threading.enumerate()) - before:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()

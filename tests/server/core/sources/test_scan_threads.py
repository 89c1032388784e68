from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from fakes import TIMEOUT_S, FakeClock, until

from ladle.server.core.sources import scan_threads as module
from ladle.server.core.sources.scan_threads import ScanThreads


class Harness:
    """ScanThreads, and looks that hang until they are let go."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.clock = FakeClock()
        self.scan_threads = ScanThreads(self.clock)
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.hangs = threading.Event()
        self._pool = pool

    def hang(self) -> None:
        self.scan()
        self.hangs.set()
        assert self.gate.wait(TIMEOUT_S)

    def scan(self) -> None:
        self.threads.append(threading.current_thread())

    def leave_behind(self) -> None:
        """Have a look hang for longer than it is waited for."""
        self.hangs.clear()
        done = self.asked(self.hang)
        assert self.hangs.wait(TIMEOUT_S)
        self.clock.wait_until_sleeping(1)
        self.clock.advance(1)
        assert not done.result(TIMEOUT_S)

    def asked(self, scan: Callable[[], None]) -> Future[bool]:
        return self._pool.submit(self.scan_threads.run, scan, 1.0)


@pytest.fixture
def setting() -> Iterator[Harness]:
    with ThreadPoolExecutor(1) as pool:
        setting = Harness(pool)
        yield setting
        setting.gate.set()
        setting.scan_threads.close()


def test_one_thread_looks_as_long_as_none_hangs(setting: Harness) -> None:
    for _ in range(3):
        assert setting.scan_threads.run(setting.scan, 1.0)

    assert len(set(setting.threads)) == 1
    assert threading.current_thread() not in setting.threads


def test_a_look_that_hangs_is_left_behind_and_its_thread_ends_once_it_comes_back(
    setting: Harness,
) -> None:
    setting.leave_behind()
    assert setting.scan_threads.run(setting.scan, 1.0)
    hanging, other = setting.threads
    assert hanging is not other

    setting.gate.set()
    hanging.join(TIMEOUT_S)

    assert not hanging.is_alive()
    assert setting.scan_threads.run(setting.scan, 1.0)
    assert setting.threads[-1] is other


def test_what_a_look_raises_is_logged(setting: Harness, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise RuntimeError("boom")

    assert setting.scan_threads.run(fail, 1.0)
    assert "the scan of a base path failed" in caplog.text
    assert setting.scan_threads.run(setting.scan, 1.0)


def test_only_so_many_are_left_behind(setting: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_THREADS", 2)
    full = []
    for _ in range(2):
        setting.leave_behind()
        full.append(setting.scan_threads.are_all_hanging)
    assert full == [False, True]

    setting.gate.set()
    until(lambda: not setting.scan_threads.are_all_hanging)


def test_without_a_thread_it_looks_itself(
    setting: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_room)

    assert setting.scan_threads.run(setting.scan, 1.0)

    assert setting.threads == [threading.current_thread()]

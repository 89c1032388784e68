"""A panic in Rust ends what it is in; the thread that takes calls says so, and goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fakes import TIMEOUT_S, until
from transports import TRANSPORTS, require

from ladle.server.call import NonBlocking

Taken = tuple[list[Any], list[Any], list[Any], list[tuple[str, int, str, int]]]


class Panic(BaseException):
    """As PyO3's PanicException, which is no Exception."""


class FakeNetwork:
    """A network that gives what the test wants, and then nothing any more."""

    def __init__(self, methods: list[tuple[Any, ...]], *_: Any, **__: Any) -> None:
        self.begin = methods[0][-1]
        self.gives: list[Callable[[FakeNetwork], Taken]] = []
        self.closed = threading.Event()

    def start(self) -> None: ...

    def take(self, _most: int, _timeout_s: float) -> Taken | None:
        if self.gives:
            return self.gives.pop(0)(self)
        self.closed.set()
        return None


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNetwork]:
    """Has a transport take what the test gives, and returns the network; waits where that ends."""
    require("native")
    import ladle_native

    made: list[FakeNetwork] = []

    def make(*arguments: Any, **options: Any) -> FakeNetwork:
        made.append(FakeNetwork(*arguments, **options))
        return made[-1]

    def serve(*gives: Callable[[FakeNetwork], Taken], ends: bool = True) -> FakeNetwork:
        monkeypatch.setattr(ladle_native, "Network", make)
        transport = TRANSPORTS["native"]({"/a/B": NonBlocking(lambda _: None)}, max_threads=1)
        made[0].gives = list(gives)
        transport.start()
        if ends:
            assert made[0].closed.wait(TIMEOUT_S)
        return made[0]

    return serve


def panic(_: FakeNetwork) -> Taken:
    raise Panic("a panic")


def call(network: FakeNetwork) -> Taken:
    return [(lambda _: handled.append(1), None)], [], [], []


handled: list[int] = []


def test_a_panic_while_calls_are_taken_is_logged_and_the_next_are_taken(
    network: Callable[..., FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    handled.clear()
    network(panic, call)
    assert handled == [1]
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], Panic)


def test_a_panic_of_a_handlers_is_logged_and_the_next_are_taken(
    network: Callable[..., FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    handled.clear()

    def begun(_: FakeNetwork) -> Taken:
        return [(panic, None)], [], [], []

    network(begun, call)
    assert handled == [1]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_panic_that_ended_a_connection_is_logged(
    network: Callable[..., FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    network(lambda _: ([], [], [], [("fault", 13, "index out of bounds", 1)]))
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "index out of bounds" in record.getMessage()


def test_faults_without_end_do_not_fill_the_log(
    network: Callable[..., FakeNetwork], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    served = network(*[panic] * 5000, ends=False)
    until(lambda: caplog.records)
    assert len(served.gives) == 4000

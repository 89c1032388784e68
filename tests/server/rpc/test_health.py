from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, refusal, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transports import MakeTransport

from ladle.server.core.errors import ServingError
from ladle.server.rpc import health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
Start = Callable[[], tuple[health.Health, Any]]


@pytest.fixture
def start(make_transport: MakeTransport) -> Iterator[Start]:
    """Starts a server that is well, and returns it with a stub of its health service."""
    closing: list[Callable[[], object]] = []

    def start() -> tuple[health.Health, Any]:
        service = health.Health()
        transport = make_transport(service.methods, max_threads=1)
        port = transport.listen("127.0.0.1:0")
        transport.start()
        service.set("", True)
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        closing.extend([channel.close, lambda: transport.stop(TIMEOUT_S)])
        return service, health_pb2_grpc.HealthStub(channel)

    yield start
    for close in closing:
        close()


def ask(stub: Any) -> Any:
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status


def watch(stub: Any) -> Any:
    return stub.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)


def test_watchers_are_bounded_and_give_up_their_places(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody needs a token to watch."""
    monkeypatch.setattr(health, "_MAX_WATCHERS", 2)
    service, stub = start()
    watching = [watch(stub) for _ in range(2)]
    assert [next(each).status for each in watching] == [SERVING] * 2

    with pytest.raises(grpc.RpcError) as raised:
        next(watch(stub))
    assert refusal(raised.value)[0] == "RESOURCE_EXHAUSTED"
    assert ask(stub) == SERVING

    watching[0].cancel()
    until(lambda: service.watchers == 1)
    assert next(watch(stub)).status == SERVING
    watching[1].cancel()


def test_watchers_who_come_and_go_while_all_are_told_end_nothing(start: Start) -> None:
    """gRPC's polling thread must not wait for what it has to bring about itself."""
    service, stub = start()

    def come_and_go(serving: bool) -> None:
        for _ in range(50):
            watching = watch(stub)
            assert next(watching).status in (SERVING, NOT_SERVING)
            service.set("", serving)
            watching.cancel()

    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(come_and_go, bool(n % 2)) for n in range(4)]:
            each.result()
    service.set("", True)
    assert ask(stub) == SERVING


def asking(name: str) -> bytes:
    request: bytes = health_pb2.HealthCheckRequest(service=name).SerializeToString()
    return request


class Reader:
    """A stream whose caller reads only when told to."""

    local = True
    deadline = None

    def __init__(self, service: health.Health, request: bytes | None) -> None:
        self.told: list[int] = []
        self.ended: list[ServingError | None] = []
        self.at_end: list[Callable[[], None]] = []
        self.sent: Callable[[], None] | None = None
        self.request = request
        self.at_stop: Callable[[], None] = lambda: None
        watch: Any = service.methods["/grpc.health.v1.Health/Watch"]
        watch.handle(self)

    def on_end(self, callback: Callable[[], None]) -> None:
        self.at_end.append(callback)

    def on_stop(self, callback: Callable[[], None]) -> None:
        self.at_stop = callback

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        callback(self.request)

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        assert self.sent is None
        self.told.append(health_pb2.HealthCheckResponse.FromString(message).status)
        self.sent = sent

    def end(self, error: ServingError | None = None) -> None:
        self.ended.append(error)

    def read(self) -> None:
        sent, self.sent = self.sent, None
        assert sent is not None
        sent()

    def go(self) -> None:
        for callback in self.at_end:
            callback()


def test_who_does_not_read_holds_up_nobody_and_is_told_the_last_word() -> None:
    service = health.Health()
    stuck, reading = Reader(service, asking("m")), Reader(service, asking("m"))
    reading.read()
    for serving in (True, False, True):
        service.set("m", serving)
        reading.read()
    assert reading.told == [UNKNOWN, SERVING, NOT_SERVING, SERVING]
    assert stuck.told == [UNKNOWN]
    assert service.serves("m")

    stuck.read()
    assert stuck.told == [UNKNOWN, SERVING]
    service.set("m", None)
    service.set("m", True)
    stuck.read()
    assert stuck.sent is None, "it knows that already"


def test_who_has_gone_is_told_nothing_and_kept_nowhere() -> None:
    service = health.Health()
    gone = Reader(service, asking("m"))
    gone.read()
    gone.go()
    service.set("m", True)

    assert gone.told == [UNKNOWN]
    assert service.watchers == 0


def test_a_stop_is_told_for_good_and_then_ends_the_watching() -> None:
    service = health.Health()
    service.set("m", True)
    watching = Reader(service, asking("m"))
    watching.read()
    service.enter_lame_duck()
    service.set("m", True)
    watching.read()
    assert watching.told == [SERVING, NOT_SERVING]
    assert not service.serves("m")

    watching.at_stop()
    assert watching.ended == [None]


@pytest.mark.parametrize(
    ("request_bytes", "says"),
    [(None, "expected one HealthCheckRequest, got none"), (b"\xff", "it can't be read")],
)
def test_what_is_no_request_is_refused(request_bytes: bytes | None, says: str) -> None:
    (error,) = Reader(health.Health(), request_bytes).ended
    assert error is not None
    assert error.code.name == "INVALID_ARGUMENT"
    assert says in error.message

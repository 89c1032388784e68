from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from ladle.server.core.errors import Code, InvalidArgument, ServingError
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.rpc.middleware import Middleware, ObservedCall
from ladle.server.rpc.status import as_status


class FakeCall:
    """A Call that keeps what it is refused with."""

    local = False
    deadline = None
    shared_observation = None

    def __init__(self) -> None:
        self.request = b"request"
        self.error: ServingError | None = None
        self.at_end: list[Callable[[], None]] = []

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        self.at_end.append(callback)

    def discard_request(self) -> None:
        self.request = b""

    def respond(self, response: bytes) -> None:
        raise AssertionError("not to be answered")

    def fail(self, error: ServingError) -> None:
        self.error = error


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_collector")
def test_a_refused_request_is_gone_at_once_and_waits_for_no_collection() -> None:
    """What hostile callers send would pile up until the next one."""

    def method(call: ObservedCall) -> None:
        try:
            call.request.decode("no such encoding")
        except LookupError:
            raise InvalidArgument("no request") from None

    call = FakeCall()
    ref = weakref.ref(call)
    Middleware().non_blocking("/a/B", method).handle(call)
    assert call.error is not None
    del call

    assert ref() is None


def test_a_caller_who_goes_before_there_is_a_thread_to_wait_in_leaves_nothing_there() -> None:
    seen: list[Observation] = []
    waited: list[ObservedCall] = []

    class Observer(Unobserved):
        def request_ended(self, request: Observation) -> None:
            seen.append(request)

    call = FakeCall()
    blocking = Middleware(Observer()).non_blocking("/a/B", lambda _: waited.append).handle(call)
    assert blocking is not None
    (leave,) = call.at_end
    leave()
    blocking(call)

    assert not waited
    assert call.request == b""
    assert [(one.code, one.request) for one in seen] == [(Code.CANCELLED, None)]


def test_a_call_that_waits_in_a_thread_is_not_left_when_it_ends() -> None:
    waited: list[ObservedCall] = []
    call = FakeCall()
    blocking = Middleware().non_blocking("/a/B", lambda _: waited.append).handle(call)
    assert blocking is not None
    blocking(call)
    call.at_end[0]()

    assert [each.request for each in waited] == [b"request"]
    assert call.error is None


def test_lack_of_memory_is_no_fault_of_ours_and_leaves_no_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A traceback's frames would hold what there was no memory for."""
    with pytest.raises(MemoryError) as raised:
        raise MemoryError
    status = as_status(raised.value, "/v1/models/m:predict")
    assert raised.value.__traceback__ is None
    assert (status.code, status.message) == (
        Code.RESOURCE_EXHAUSTED,
        "there is no memory for the request",
    )
    (record,) = caplog.records
    assert record.exc_info is None
    assert "method=/v1/models/m:predict" in record.getMessage()

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest

from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.rpc.observed import ObservedCall
from ladle.server.rpc.status import Edge


class FakeCall:
    """A Call that keeps what it is refused with."""

    local = False
    deadline = None

    def __init__(self) -> None:
        self.request = b"request"
        self.error: ServingError | None = None

    def metadata(self, key: str) -> str | None:
        return None

    def on_end(self, callback: Callable[[], None]) -> None:
        pass

    def let_go(self) -> None:
        pass

    def answer(self, response: bytes) -> None:
        raise AssertionError("not to be answered")

    def refuse(self, error: ServingError) -> None:
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
    Edge().prompt("/a/B", method).handle(call)
    assert call.error is not None
    del call

    assert ref() is None

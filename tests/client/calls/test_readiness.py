"""Waiting until a server is ready, against a fake one, without gRPC and without time."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from client.fakes import FakeServing, Refused, image_version

from ladle.client.calls import retry_loop, server_flows
from ladle.client.calls.effects import Failure, Outcome, Pause
from ladle.client.calls.fleet import Fleet
from ladle.client.calls.retry import Retry
from ladle.client.errors import DeadlineExceeded, LadleError, PermissionDenied, from_status
from ladle.client.messages.requests import Servable

Code = grpc.StatusCode


def wait(
    server: FakeServing,
    asked: Servable | None = None,
    *,
    timeout_s: float,
    fleet: Fleet | None = None,
) -> float:
    """Wait as a client does; return the seconds that it took."""
    now_s = 0.0
    talk = retry_loop.drive(
        server_flows.wait_until_ready(asked),
        fleet or Fleet(["server"], retry=Retry()),
        timeout_s,
        lambda: now_s,
        once=True,
    )
    outcome: Outcome = None
    try:
        while True:
            effect = talk.send(outcome)
            if isinstance(effect, Pause):
                now_s, outcome = now_s + effect.seconds, None
                continue
            try:
                outcome = server.answer(effect.request.method, effect.request.body)
            except Refused as refused:
                error = from_status(refused.code, refused.details, effect.what)
                outcome = Failure(error)
    except StopIteration:
        return now_s


class Refusing(FakeServing):
    """Refuses the first calls, with one code after the other."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        super().__init__({1: image_version(255)})
        self.codes = [*codes]

    def answer(self, method: str, body: bytes) -> Any:
        if self.codes:
            raise Refused(self.codes.pop(0), "not yet")
        return super().answer(method, body)


def test_a_server_that_comes_up_is_waited_for() -> None:
    """CANCELLED is how one that is about to stop drops calls."""
    server = Refusing(Code.UNAVAILABLE, Code.CANCELLED, Code.RESOURCE_EXHAUSTED, Code.NOT_FOUND)
    assert wait(server, Servable("m"), timeout_s=30.0) == pytest.approx(
        4 * server_flows.READY_POLL_S
    )


@pytest.mark.parametrize("asked", [None, Servable("m")])
def test_what_is_missing_is_told(asked: Servable | None) -> None:
    server = FakeServing({})
    server.is_healthy = False
    message = "Servable not found" if asked else "the server says that it takes no calls"
    with pytest.raises(DeadlineExceeded, match=f"not ready within the timeout: .*{message}"):
        wait(server, asked, timeout_s=1.0)


def test_what_waiting_does_not_change_is_told_at_once() -> None:
    with pytest.raises(PermissionDenied):
        wait(Refusing(Code.PERMISSION_DENIED), timeout_s=30.0)


def test_waiting_takes_nothing_of_the_budget_for_retries() -> None:
    fleet = Fleet(["server"], retry=Retry())
    with pytest.raises(LadleError):
        wait(Refusing(*[Code.UNAVAILABLE] * 5_000), timeout_s=600.0, fleet=fleet)
    assert all(fleet.retries.take() for _ in range(200))

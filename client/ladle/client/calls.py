"""How a flow's requests become calls: to which server, how often, and until when; no I/O.

A conversation is a generator that drives a flow. It yields what has to be done, a Send or a Pause,
is sent what came of it, and returns the flow's result. The clients only do what they are told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias, TypeVar

from ladle.client import requests
from ladle.client.errors import DeadlineExceeded, LadleError
from ladle.client.fleet import Fleet
from ladle.client.flows import Flow, Pause
from ladle.client.requests import Request
from ladle.client.retry import should_retry

T = TypeVar("T")

_HEDGED = {requests.PREDICT, requests.CLASSIFY, requests.REGRESS, requests.MULTI_INFERENCE}


class Second(NamedTuple):
    """A second attempt beside the first, while that takes long."""

    address: int
    after_s: float
    allow: Callable[[], bool]
    """Asked when the time has come."""


class Send(NamedTuple):
    """A call to be made; what comes of it is the answer's bytes or a Failure."""

    request: Request
    address: int
    """Index of the address in the fleet."""
    timeout_s: float
    asked: str
    """What is asked, and of whom, for error messages."""
    second: Second | None

    @property
    def may_stream(self) -> bool:
        """Whether the request may go with others on one PredictStream call."""
        return self.request.method == requests.PREDICT and self.second is None


class Failure(NamedTuple):
    """A call that failed."""

    error: LadleError
    pushback: str | None = None
    """What the server says of retries: its `grpc-retry-pushback-ms`."""


Outcome: TypeAlias = "bytes | Failure | None"
"""What comes of a Send, or None after a Pause."""

Conversation: TypeAlias = Generator[Send | Pause, Outcome, T]


def conversation(
    flow: Flow[T],
    fleet: Fleet,
    deadline: float,
    now: Callable[[], float],
    jitter: Callable[[], float] | None = None,
    *,
    patient: bool = False,
) -> Conversation[T]:
    """Drive a flow to its result, all its calls within one deadline on the clock `now`.

    A `patient` one makes calls that no server could take again for as long as there is time; how
    many of them there are at once has to be bounded elsewhere, since they take from no budget.
    `jitter` gives random numbers from 0 to 1 for `should_retry`; None for Python's.
    """
    try:
        wanted = next(flow)
        while True:
            if isinstance(wanted, Pause):
                yield Pause(min(wanted.seconds, max(deadline - now(), 0.0)))
                wanted = flow.send(b"")
                continue
            try:
                answer = yield from _call(wanted, fleet, deadline, now, jitter or _jitter, patient)
            except LadleError as error:
                wanted = flow.throw(error)
            else:
                wanted = flow.send(answer)
    except StopIteration as finished:
        result: T = finished.value
        return result


def _call(
    request: Request,
    fleet: Fleet,
    deadline: float,
    now: Callable[[], float],
    jitter: Callable[[], float],
    patient: bool,
) -> Conversation[bytes]:
    policy = fleet.retry.patient() if patient else fleet.retry
    fleet.retries.earn()
    fleet.hedges.earn()
    tried: set[int] = set()
    for attempt in range(1, policy.max_attempts + 1):
        instant = now()
        address = fleet.pick(tried, instant)
        asked = f"{request.method.rpartition('/')[2]} at {fleet.addresses[address]}"
        if deadline <= instant:  # gRPC might still find the time
            raise DeadlineExceeded(f"{asked}: the timeout had passed before it was sent")
        tried.add(address)
        second = _second(request, fleet, address, tried, instant)
        outcome = yield Send(request, address, deadline - instant, asked, second)
        if isinstance(outcome, bytes):
            fleet.succeeded(address)
            return outcome
        assert outcome is not None  # only a Pause is answered so
        failed = now()
        fleet.failed(address, outcome.error.code, failed)
        delay_s = should_retry(
            outcome.error.code,
            attempt,
            policy=policy,
            remaining_s=deadline - failed,
            pushback=outcome.pushback,
            is_elsewhere=fleet.has_untried(tried),
            jitter=jitter(),
        )
        if delay_s is None or not (patient or fleet.retries.take()):
            raise outcome.error
        if delay_s:
            yield Pause(delay_s)
    raise AssertionError("should_retry gives up after the last attempt")


def _jitter() -> float:
    from random import random  # here, since most who import the client need no retry

    return random()


def _second(
    request: Request, fleet: Fleet, address: int, tried: set[int], now: float
) -> Second | None:
    if fleet.hedge is None or request.method not in _HEDGED:
        return None
    return Second(fleet.pick_beside(address, tried, now), fleet.hedge.after_s, fleet.hedges.take)

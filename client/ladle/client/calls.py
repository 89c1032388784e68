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
from ladle.client.retry import Retry, should_retry

T = TypeVar("T")

_HEDGED = {requests.PREDICT, requests.CLASSIFY, requests.REGRESS, requests.MULTI_INFERENCE}


class Second(NamedTuple):
    """A second attempt beside the first, while that takes long."""

    address: int
    after_s: float
    asked: str
    """As the first attempt's."""
    allow: Callable[[], bool]
    """Asked when the time has come."""


class Send(NamedTuple):
    """A call to be made; what comes of it is the answer's bytes or a Failure.

    With a `second`, Raced may tell of both attempts.
    """

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


class Raced(NamedTuple):
    """What came of a call and of a second attempt beside it, of which one may not have ended."""

    ended: tuple[tuple[int, bytes | Failure], ...]
    """By the address that was asked, at least one; what comes of the call is the last."""


Outcome: TypeAlias = "bytes | Failure | Raced | None"
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
    once: bool = False,
) -> Conversation[T]:
    """Drive a flow to its result, all its calls within one deadline on the clock `now`.

    A `patient` one makes calls that no server could take again for as long as there is time; how
    many of them there are at once has to be bounded elsewhere, since they take from no budget. One
    whose flow itself asks again makes each call `once`. `jitter` gives random numbers from 0 to 1
    for `should_retry`; None for Python's.
    """
    policy = fleet.retry.patient() if patient else Retry(max_attempts=1) if once else fleet.retry
    try:
        wanted = next(flow)
        while True:
            if isinstance(wanted, Pause):
                yield Pause(min(wanted.seconds, max(deadline - now(), 0.0)))
                wanted = flow.send(b"")
                continue
            try:
                answer = yield from _call(
                    wanted, fleet, deadline, now, jitter or _jitter, policy, patient
                )
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
    policy: Retry,
    patient: bool,
) -> Conversation[bytes]:
    fleet.retries.earn()
    fleet.hedges.earn()
    tried: set[int] = set()
    for attempt in range(1, policy.max_attempts + 1):
        instant = now()
        address = fleet.pick(tried, instant)
        asked = _asked(request, fleet, address)
        if deadline <= instant:  # gRPC might still find the time
            raise DeadlineExceeded(f"{asked}: the timeout had passed before it was sent")
        tried.add(address)
        second = _second(request, fleet, address, tried, instant)
        outcome = yield Send(request, address, deadline - instant, asked, second)
        if isinstance(outcome, Raced):
            *before, (address, outcome) = outcome.ended
            for other, ended in before:
                _note(fleet, other, ended, now())
            tried.add(address)
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


def _asked(request: Request, fleet: Fleet, address: int) -> str:
    return f"{request.method.rpartition('/')[2]} at {fleet.addresses[address]}"


def _note(fleet: Fleet, address: int, ended: bytes | Failure, now: float) -> None:
    if isinstance(ended, bytes):
        fleet.succeeded(address)
    else:
        fleet.failed(address, ended.error.code, now)


def _jitter() -> float:
    from random import random  # here, since most who import the client need no retry

    return random()


def _second(
    request: Request, fleet: Fleet, address: int, tried: set[int], now: float
) -> Second | None:
    if fleet.hedge is None or request.method not in _HEDGED:
        return None
    beside = fleet.pick_beside(address, tried, now)
    asked = _asked(request, fleet, beside)
    return Second(beside, fleet.hedge.after_s, asked, fleet.hedges.take)

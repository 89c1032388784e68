"""The retry loop: which server gets each request of a flow, how often, and until when; no I/O.

The loop is a generator that drives a flow. It yields effects, a Send or a Pause. The I/O driver
performs each effect and sends the outcome back. The loop returns the flow's result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from ladle.client.calls.effects import Failure, Flow, Outcome, Pause, Raced, Second, Send
from ladle.client.calls.fleet import Fleet
from ladle.client.calls.retry import Retry, should_retry
from ladle.client.errors import DeadlineExceeded, LadleError
from ladle.client.messages import requests
from ladle.client.messages.requests import EncodedRequest

T = TypeVar("T")

_HEDGED = requests.PREDICTIONS | {
    requests.CLASSIFY,
    requests.REGRESS,
    requests.MULTI_INFERENCE,
}

RetryLoop: TypeAlias = Generator[Send | Pause, Outcome, T]


def drive(
    flow: Flow[T],
    fleet: Fleet,
    deadline: float,
    now: Callable[[], float],
    jitter: Callable[[], float] | None = None,
    *,
    patient: bool = False,
    once: bool = False,
) -> RetryLoop[T]:
    """Drive a flow to its result; all its calls share one deadline on the clock `now`.

    Args:
        flow: Yields requests and pauses.
        fleet: The servers.
        deadline: In seconds on the clock `now`.
        now: A monotonic clock.
        jitter: Gives random numbers from 0 to 1 for `should_retry`; None for Python's `random`.
        patient: Retry until the deadline, and without the retry budget. The caller has to bound
            how many such loops run at once.
        once: Make each call once; for a flow that retries by itself.
    """
    policy = fleet.retry.patient() if patient else Retry(max_attempts=1) if once else fleet.retry
    try:
        effect = next(flow)
        while True:
            if isinstance(effect, Pause):
                yield Pause(min(effect.seconds, max(deadline - now(), 0.0)))
                effect = flow.send(b"")
                continue
            try:
                answer = yield from _call(
                    effect, fleet, deadline, now, jitter or _jitter, policy, patient
                )
            except LadleError as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(answer)
    except StopIteration as finished:
        result: T = finished.value
        return result


def _call(
    request: EncodedRequest,
    fleet: Fleet,
    deadline: float,
    now: Callable[[], float],
    jitter: Callable[[], float],
    policy: Retry,
    patient: bool,
) -> RetryLoop[bytes]:
    fleet.retries.earn()
    fleet.hedges.earn()
    tried: set[int] = set()
    for attempt in range(1, policy.max_attempts + 1):
        instant = now()
        address = fleet.pick(tried, instant)
        what = _what(request, fleet, address)
        if deadline <= instant:  # gRPC might still find the time
            raise DeadlineExceeded(f"{what}: the timeout had passed before it was sent")
        tried.add(address)
        second = _second(request, fleet, address, tried, instant)
        outcome = yield Send(request, address, deadline - instant, what, second)
        if isinstance(outcome, Raced):
            *before, (address, outcome) = outcome.ended
            for other, ended in before:
                _note(fleet, other, ended, now())
            tried.add(address)
        if isinstance(outcome, bytes):
            fleet.succeeded(address)
            return outcome
        assert outcome is not None  # None is the outcome of a Pause only
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


def _what(request: EncodedRequest, fleet: Fleet, address: int) -> str:
    return f"{request.method.rpartition('/')[2]} at {fleet.addresses[address]}"


def _note(fleet: Fleet, address: int, ended: bytes | Failure, now: float) -> None:
    if isinstance(ended, bytes):
        fleet.succeeded(address)
    else:
        fleet.failed(address, ended.error.code, now)


def _jitter() -> float:
    from random import random  # imported here, because most processes never retry

    return random()


def _second(
    request: EncodedRequest, fleet: Fleet, address: int, tried: set[int], now: float
) -> Second | None:
    if fleet.hedge is None or request.method not in _HEDGED:
        return None
    beside = fleet.pick_beside(address, tried, now)
    what = _what(request, fleet, beside)
    return Second(beside, fleet.hedge.after_s, what, fleet.hedges.take)

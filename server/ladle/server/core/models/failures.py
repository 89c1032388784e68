"""Why a model is not loaded when a request asks for it, and when that may be otherwise."""

from __future__ import annotations

from typing import NamedTuple

from ladle.server.core.errors import (
    Code,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    ServingError,
)
from ladle.server.core.lifecycle.states import retry_wait_s
from ladle.server.core.models.residency import Full, ResidencyOptions

NO_ROOM = "no_room"
"""The reason, for metrics, of requests to models for which there is no room."""

# Codes of errors that pass by themselves, as a lack of memory or of threads does.
_PASSING = (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.CANCELLED)


class Failure(NamedTuple):
    """What is remembered of a load that failed."""

    code: Code
    reason: str
    """Why, in words."""
    word: str
    """The reason in a word for metrics; else empty."""
    attempt: int
    """How many loads of the model failed before this one."""
    due: float
    """When it is tried again at the earliest, on the clock of who asks."""
    room_at: float | None = None
    """When there may be room for it, where that was all that it lacked."""

    def as_error(self, name: str, now: float) -> ServingError:
        """Return what requests for the model get until then."""
        if self.code is NotFound.code:
            # "Servable" is what clients and readiness probes of upstream look for.
            return NotFound(f"Servable not found for request: Latest({name}): {self.reason}")
        if self.word == NO_ROOM:
            error = ServingError(self.reason, self.code)
            error.reason = self.word
            error.retry_after_s = self.room_at and max(0.0, self.room_at - now)
            return error
        wait_s = max(0.0, self.due - now)
        error = ServingError(
            f"model {name} can't be loaded: {self.reason}; it is tried again after {wait_s:.0f} s",
            self.code,
        )
        error.reason = self.word or "not_loaded"
        if self.code in _PASSING:
            error.retry_after_s = wait_s
        return error


def failure_of(
    error: ServingError | None, problem: str, attempt: int, now: float, longest_wait_s: float
) -> Failure:
    """Return what to remember of a load that failed.

    Args:
        error: the error of the load; None where there was no version to load.
        problem: why, in words.
        attempt: how many loads of the model failed before this one.
        now: the time.
        longest_wait_s: the bound of the waits between two loads.
    """
    due = now + retry_wait_s(attempt, longest_wait_s)
    if error is None:
        return Failure(NotFound.code, problem, "", attempt, due)
    code = error.code if error.code in _PASSING else FailedPrecondition.code
    if error.reason == NO_ROOM:  # the model is all right
        room_at = None if error.retry_after_s is None else now + error.retry_after_s
        soon = now + retry_wait_s(0, longest_wait_s)
        return Failure(code, error.message, error.reason, 0, soon, room_at)
    return Failure(code, problem, error.reason, attempt, due)


def no_place(name: str, full: Full, options: ResidencyOptions) -> ServingError:
    """Return what requests get for a model beside which too many others must stay loaded."""
    return _no_room(
        f"no room for model {name}: as many models are loaded or on their way as "
        f"--max_loaded_models allows, which is {options.max_models}",
        full,
        options,
    )


def no_bytes(name: str, needed: int, full: Full, options: ResidencyOptions) -> ServingError:
    """Return what requests get for a model that takes more than the others leave."""
    return _no_room(
        f"no room for model {name}: it takes about {needed} bytes, and --max_loaded_bytes is "
        f"{options.max_bytes} for all models",
        full,
        options,
    )


def _no_room(message: str, full: Full, options: ResidencyOptions) -> ServingError:
    if full.retry_after_s is None:
        error = ResourceExhausted(f"{message}; nothing else can be unloaded for it")
    else:
        error = ResourceExhausted(
            f"{message}. None of them can be unloaded now: each is in use, or was loaded less "
            f"than {options.least_stay_s:g} s ago; try again in {full.retry_after_s:.0f} s"
        )
        error.retry_after_s = full.retry_after_s
    error.reason = NO_ROOM
    return error

"""What is noted of requests, runs and loads on their way, and who observes them.

The core notes times and sizes and knows nothing of metrics, traces or logs: an Observer makes
those of it. Times are seconds of the monotonic clock; what has not been reached is None.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ladle.server.core.batching.plan import Priority
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

# What names a model in a request is the caller's, and may be as long as the request.
_MAX_NAME = 1024

UNKNOWN_INFERENCE = "unknown"
"""The `api` of what is asked for under the Open Inference Protocol's `/v2` and is not there."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_numbers = itertools.count(1)
# Makes the ids of this process's requests differ from those of other processes.
_PREFIX = secrets.token_hex(4)


def _new_request_id() -> str:
    return f"{_PREFIX}-{next(_numbers):x}"


class Observation:
    """One request, from the moment that a method takes it until its answer or its refusal.

    It belongs to one thread after the other, as the request does, and needs no lock. The answer
    and the caller's leaving may come in two threads at a time: only the first of them ends it.
    """

    __slots__ = (
        "_open",
        "_request_id",
        "api",
        "began",
        "count",
        "encoding",
        "ended",
        "entrypoint",
        "error",
        "metadata",
        "model",
        "outputs",
        "priority",
        "queued",
        "request",
        "request_bytes",
        "response",
        "response_bytes",
        "rows",
        "run",
        "signatures",
        "span",
        "version",
    )

    def __init__(
        self,
        api: str,
        entrypoint: str,
        request: bytes,
        metadata: Callable[[str], str | None] | None = None,
    ) -> None:
        """Note that a request has begun.

        Args:
            api: the method, as `Predict`.
            entrypoint: how it came: `GRPC` or `REST`, as upstream's metrics call them.
            request: the message as it came.
            metadata: returns what the caller sent under a lower-case key.
        """
        self.api = api
        self.entrypoint = entrypoint
        self.request: bytes | None = request
        """The message; over REST the one that was made of JSON. It is dropped once the observer
        was called with the request's end, and so is `response`."""
        self.request_bytes = len(request)
        self.metadata = metadata
        self.began = time.monotonic()
        self.model = ""
        """The name that the caller gave: known to exist only where there is a version."""
        self.version: int | None = None
        self.signatures: tuple[str, ...] = ()
        """What it runs: several for MultiInference; none before that is known."""
        self.rows = 0
        self.priority = Priority.NORMAL
        """How urgent the caller calls it."""
        self.queued: float | None = None
        self.run: Run | None = None
        """The run that its last rows were in."""
        self.encoding: float | None = None
        self.ended: float | None = None
        self.response: bytes | None = None
        self.response_bytes = 0
        self.outputs: Mapping[str, NDArray[Any]] | None = None
        """Outputs that the answer holds something else of, such as names of classes; by alias.
        They are dropped with the messages."""
        self.error: ServingError | None = None
        """Why it was refused; None if it was answered."""
        self.count = 1
        """How many requests it is of: more than one where they were answered as one."""
        self.span: object = None
        """Whatever an observer keeps with the request."""
        self._open = True  # only one thread can delete it, and that one ends the request

    @property
    def code(self) -> Code:
        """The status that the request ended with."""
        return Code.OK if self.error is None else self.error.code

    @property
    def request_id(self) -> str:
        """The caller's `x-request-id`, if that is one short word, and else one made here."""
        try:
            return self._request_id
        except AttributeError:  # nobody has asked yet
            given = self.metadata("x-request-id") if self.metadata else None
            is_safe = given and _REQUEST_ID.fullmatch(given)
            self._request_id: str = given if given and is_safe else _new_request_id()
            return self._request_id

    def known_as(self, request_id: str) -> None:
        """Take an id that stands in the request, unless its caller sent an `x-request-id`.

        Without effect where the id is not one short word, or where somebody has asked for it.
        """
        given = self.metadata("x-request-id") if self.metadata else None
        if (given and _REQUEST_ID.fullmatch(given)) or hasattr(self, "_request_id"):
            return
        if _REQUEST_ID.fullmatch(request_id):
            self._request_id = request_id

    def served_by(self, servable_id: ServableId) -> None:
        """Note which version the request goes to."""
        self.model, self.version = servable_id

    def part(self) -> Observation:
        """Return a new observation of requests that are alike, as far as they have come by now."""
        part = Observation(self.api, self.entrypoint, b"")
        part.request = None
        part.request_bytes = self.request_bytes
        part.began, part.queued = self.began, self.queued
        part.model, part.version = self.model, self.version
        part.signatures, part.rows = self.signatures, self.rows
        part.priority = self.priority
        part.run, part.encoding = self.run, self.encoding
        return part

    def end_alike(self, count: int, outcome: int | ServingError, observer: Observer) -> None:
        """Note the answers to so many requests that this observation is of; call the observer.

        Args:
            count: how many have been answered or refused, at the same time.
            outcome: the size of each answer in bytes, or why all were refused.
            observer: one that takes many at once.
        """
        self.ended = time.monotonic()
        self.count = count
        if isinstance(outcome, ServingError):
            self.error = outcome
        else:
            self.response_bytes = outcome
        try:
            observer.requests_ended(self)
        except Exception:
            logger.exception("an observer failed on the end of requests")

    def end(self, outcome: bytes | ServingError, observer: Observer) -> None:
        """Note the answer or the refusal, call the observer, and drop what is large.

        Without effect once the request has ended.
        """
        try:
            del self._open
        except AttributeError:
            return
        self.ended = time.monotonic()
        self.model = self.model[:_MAX_NAME]
        if isinstance(outcome, ServingError):
            self.error = outcome
        else:
            if self.response is None:
                self.response = outcome
            self.response_bytes += len(outcome)
        try:
            observer.request_ended(self)
        except Exception:  # the caller gets the answer, whatever an observer does
            logger.exception("an observer failed on a request's end")
        if self.error is not None:
            self.error.clear_traceback()  # observers keep what they count later
        self.request = self.response = self.metadata = self.span = self.outputs = None


class Run:
    """One run of a model: the rows of one request or of many."""

    __slots__ = (
        "assembled",
        "batched",
        "computed",
        "ended",
        "failed",
        "padding",
        "requests",
        "rows",
        "servable_id",
        "signatures",
        "started",
    )

    def __init__(
        self,
        servable_id: ServableId,
        signatures: tuple[str, ...],
        requests: Sequence[Observation],
        rows: int,
        padding: int,
        now: float,
    ) -> None:
        """Note that a run has begun.

        Args:
            servable_id: what runs.
            signatures: which of its functions; several may run as one.
            requests: whose rows are in it.
            rows: how many.
            padding: how many were added to them to reach an allowed batch size.
            now: the time.
        """
        self.servable_id = servable_id
        self.signatures = signatures
        self.requests = requests
        """Dropped once the observer was called with the run's end."""
        self.batched = len(requests)
        """How many of them there are."""
        self.rows = rows
        self.padding = padding
        self.started = now
        self.assembled: float | None = None
        """When the inputs of all were one."""
        self.computed: float | None = None
        """When the model had run."""
        self.ended = now
        """When each request had its rows."""
        self.failed = True
        for request in requests:
            request.run = self

    def end(self, now: float, observer: Observer) -> None:
        """Note the end, call the observer, and drop the requests."""
        self.ended = now
        try:
            observer.run_ended(self)
        except Exception:
            logger.exception("an observer failed on a run's end")
        self.requests = ()


class Loading(NamedTuple):
    """How a load ended, or the warm-up that is a part of it."""

    servable_id: ServableId
    path: Path
    took_s: float
    error: Exception | None
    """None if all went well."""


class Observer(Protocol):
    """Is called at the end of requests, runs and loads.

    Any thread calls; nothing may block. What is raised is logged.
    """

    @property
    def takes_many(self) -> bool:
        """Whether `requests_ended` says as much to it as many calls of `request_ended`."""

    def request_ended(self, request: Observation) -> None:
        """A request was answered or refused."""

    def requests_ended(self, requests: Observation) -> None:
        """Requests were answered or refused at once that differ in nothing that is observed.

        There is one observation of all of them, without their messages and metadata. This is only
        called where all observers take many at once.
        """

    def run_ended(self, run: Run) -> None:
        """A model has run; the requests in it have not been answered yet."""

    def load_ended(self, load: Loading) -> None:
        """A version was loaded, warm-up included, or could not be."""

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """A version's warm-up requests have run, or one has failed; not called without any."""


class Unobserved:
    """An Observer that does nothing; others derive from it what they leave out."""

    @property
    def takes_many(self) -> bool:
        """Whether it leaves out what is called for each request, or has what is called for many."""
        return not _hears(self, "request_ended") or _hears(self, "requests_ended")

    def request_ended(self, request: Observation) -> None:
        """Do nothing."""

    def requests_ended(self, requests: Observation) -> None:
        """Do nothing."""

    def run_ended(self, run: Run) -> None:
        """Do nothing."""

    def load_ended(self, load: Loading) -> None:
        """Do nothing."""

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """Do nothing."""


class Fanout:
    """An Observer that calls several, in their order, whatever one of them raises.

    Who does nothing at the end of a request or of a run, as Unobserved, is not called for it.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self.replace(observers)

    def replace(self, observers: Sequence[Observer]) -> None:
        """Call these from now on. Any thread may do so at any time."""
        self._observers = observers
        self.takes_many = all(o.takes_many for o in observers)
        """Whether all of them do."""
        self._of_requests = [o.request_ended for o in observers if _hears(o, "request_ended")]
        self._of_runs = [o.run_ended for o in observers if _hears(o, "run_ended")]

    def request_ended(self, request: Observation) -> None:
        """Pass it on."""
        for request_ended in self._of_requests:
            try:
                request_ended(request)
            except Exception:
                logger.exception("an observer failed")

    def requests_ended(self, requests: Observation) -> None:
        """Pass it on to those who take many; one who does not may have come meanwhile."""
        for observer in self._observers:
            if observer.takes_many:
                try:
                    observer.requests_ended(requests)
                except Exception:
                    logger.exception("an observer failed")

    def run_ended(self, run: Run) -> None:
        """Pass it on."""
        for run_ended in self._of_runs:
            try:
                run_ended(run)
            except Exception:
                logger.exception("an observer failed")

    def load_ended(self, load: Loading) -> None:
        """Pass it on."""
        self._call_each("load_ended", load)

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        """Pass it on."""
        self._call_each("warmup_ended", warmup, records)

    def _call_each(self, event: str, *arguments: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, event)(*arguments)
            except Exception:
                logger.exception("an observer failed")


def _hears(observer: Observer, event: str) -> bool:
    return getattr(type(observer), event) is not getattr(Unobserved, event)

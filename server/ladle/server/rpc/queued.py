"""Requests that wait for their batch in a model's queue, and not in a thread.

An API's method is an InferMethod: a parser before the queue, and an encoder after it. All else is
here, once for all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from numpy.typing import NDArray

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.machine import malloc
from ladle.server.core.observation import Observation
from ladle.server.core.rollout.shadow_runs import Sample, ShadowRuns
from ladle.server.core.servable import Afterwards, Model, Pending
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.middleware import BlockingPart, ObservedCall
from ladle.server.rpc.request import Invocation, priority_of, with_version
from ladle.server.rpc.status import as_status

R = TypeVar("R")  # a request as its API's parser returns it
A_co = TypeVar("A_co", covariant=True)  # an answer as its API's encoder returns it
A = TypeVar("A")

Outputs: TypeAlias = "dict[str, NDArray[Any]]"
"""What a run gave a request: arrays by output alias."""


class InferMethod(Protocol[R, A_co]):
    """How one API asks for a run and reads its outputs. Thread-safe, and without state."""

    @property
    def path(self) -> str:
        """The full method path, for logs."""

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> R:
        """Return the request that a message holds.

        Args:
            data: the message. Large tensors of the request may be views of it.
            metadata: returns what the caller sent under a lower-case key.

        Raises:
            InvalidArgument: The message is no request.
        """

    def model_spec(self, request: R) -> ModelSpec:
        """Return which model and version the request names."""

    def plan(
        self, model: Model, request: R
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], A_co]]:
        """Return what to run, and the encoder that makes the answer of the outputs.

        The encoder gets the version that has answered, and may raise ServingError.

        Raises:
            ServingError: The request does not fit the model.
        """


class QueuedRequest(Generic[R, A]):
    """One request on its way through the queue.

    Its life, each step once: `submit`; then, in a thread of the batch, `_ran`, which encodes the
    answer and delivers it. `cancel` may come at any time.
    """

    __slots__ = (
        "_cancelled",
        "_deadline",
        "_deliver",
        "_encode",
        "_handle",
        "_method",
        "_nbytes",
        "_observation",
        "_pending",
        "_request",
        "_sample",
        "_shadows",
        "is_large",
        "is_submitted",
    )

    def __init__(
        self,
        method: InferMethod[R, A],
        request: R,
        nbytes: int,
        deadline: float | None,
        observation: Observation,
        deliver: Callable[[A | Exception], Afterwards],
        shadows: ShadowRuns | None = None,
    ) -> None:
        """Take a request that was parsed.

        Args:
            method: what it is a request of.
            request: as `method.parse` returned it.
            nbytes: how large it was on the wire.
            deadline: the monotonic time at which the caller stops waiting; None if it never does.
            observation: where what becomes of the request is noted.
            deliver: gets the answer, or the exception, once, in any thread, unless `submit` raises.
                What it returns is done after all others of the batch have their answers.
            shadows: run some of what was answered on another version too; None for nothing.
        """
        self._method = method
        self._request: R | None = request
        self._deadline = deadline
        self._observation = observation
        # These go when the answer is there. A request that held its caller and its task, which hold
        # the request, would be garbage for the collector, and a full collection stops every thread.
        self._deliver: Callable[[A | Exception], Afterwards] | None = deliver
        self._encode: Callable[[Outputs, ServableId], A] | None = None
        self._pending: Pending | None = None
        self._cancelled = False
        self._nbytes = nbytes
        self._shadows = shadows
        self._sample: Sample | None = None
        self.is_large = nbytes >= malloc.LARGE_BYTES
        """Whether the request is worth some milliseconds to take less memory."""
        self.is_submitted = False
        """Whether the queue has taken the request; what it comes to is delivered."""

    def submit(self, handle: Handle) -> None:
        """Put the request into the queue of its version; never blocks.

        `handle` is on the version that the request names. It is released at the request's end.

        Raises:
            ServingError: The request is wrong, or there is no room for it.
        """
        request, self._request = self._request, None
        if request is None:  # the caller has gone
            handle.release()
            return
        observation, servable = self._observation, handle.servable
        try:
            observation.served_by(handle.id)
            servable.admit(self._nbytes)
            invocation, self._encode = self._method.plan(servable, request)
            observation.signatures = invocation.signature.names
            self._handle = handle
            if self._shadows is not None and self._shadows.lanes:
                self._sample = self._shadows.sample(
                    handle.id,
                    invocation.signature.stateful,
                    partial(self._planned, request),
                    self._nbytes,
                    observation,
                )
            pending = servable.submit(*invocation, self._ran, self._deadline, observation)
        except BaseException:
            if self._sample is not None:
                self._sample.abandon()
            handle.release()
            raise
        self.is_submitted = True
        self._pending = pending
        if self._deliver is None:  # the answer is there: a thread of the batch was quicker
            self._pending = None
        elif self._cancelled:  # meanwhile, before there was anything to cancel
            pending.cancel()

    def cancel(self) -> None:
        """Say that nobody waits for the answer any more; without effect once it is there."""
        self._cancelled = True
        self._request = None
        pending = self._pending
        if pending is not None:
            pending.cancel()

    def _ran(self, outcome: Outputs | Exception) -> Afterwards:
        """Encode what the run gave, deliver it, and release the version."""
        answer: A | Exception
        encode, deliver, sample = self._encode, self._deliver, self._sample
        assert encode is not None
        assert deliver is not None
        try:
            if isinstance(outcome, Exception):
                answer = outcome
            else:
                self._observation.encoding = time.monotonic()
                try:
                    answer = encode(outcome, self._handle.id)
                except Exception as error:
                    answer = error
            afterwards = deliver(answer)
        finally:
            self._handle.release()
            self._pending = self._encode = self._deliver = self._sample = None
            if sample is not None and isinstance(outcome, Exception):
                sample.abandon()
        if sample is not None and not isinstance(outcome, Exception):
            afterwards = (*(afterwards or ()), partial(sample.answered, outcome))
        # The next large request should find the heap as this one found it.
        return (*(afterwards or ()), malloc.trim) if self.is_large else afterwards

    def _planned(self, request: R, model: Model) -> Invocation:
        """Return what a request comes down to for another version."""
        return self._method.plan(model, request)[0]


class QueuedMethod(Generic[R]):
    """Answers the unary calls of an InferMethod. Thread-safe.

    Checks come in upstream's order: the message, the model, then all that `plan` looks at.
    """

    def __init__(
        self,
        manager: Manager,
        method: InferMethod[R, bytes],
        shadows: ShadowRuns | None = None,
    ) -> None:
        self._manager = manager
        self._method = method
        self._shadows = shadows

    def __call__(self, call: ObservedCall) -> BlockingPart | None:
        """Answer the call once its rows have run; never blocks.

        Returns what has to be called in a thread instead, where it has to wait for the model.
        """
        return self.begin(call, self._method.parse(call.request, call.metadata), call.deadline)

    def begin(self, call: ObservedCall, request: R, deadline: float | None) -> BlockingPart | None:
        """As a call, for a request that was parsed, and a deadline that may come earlier."""
        spec = self._method.model_spec(request)
        call.observation.model = spec.name
        call.observation.priority = priority_of(call.metadata)
        queued = QueuedRequest(
            self._method,
            request,
            len(call.request),
            deadline,
            call.observation,
            partial(self._deliver, call),
            # Who names a version is not routed, and so not shadowed.
            None if spec.WhichOneof("version_choice") else self._shadows,
        )
        return with_version(self._manager, spec, partial(self._submit, call, queued), call.metadata)

    def _submit(self, call: ObservedCall, queued: QueuedRequest[R, bytes], handle: Handle) -> None:
        queued.submit(handle)
        if queued.is_large:
            call.discard_request()
        call.on_end(queued.cancel)

    def _deliver(self, call: ObservedCall, answer: bytes | Exception) -> None:
        if isinstance(answer, Exception):
            call.fail(as_status(answer, self._method.path, call.observation))
        else:
            call.respond(answer)

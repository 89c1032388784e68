"""Methods whose requests wait for their batch in the model's queue, and not in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from numpy.typing import NDArray

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import NotFound
from ladle.server.core.lifecycle.entry import Handle
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import Arrays, Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.observed import ObservedCall
from ladle.server.rpc.request import acquire, acquire_at_once
from ladle.server.rpc.signatures import Run
from ladle.server.rpc.status import ObservedHandler, as_status

R = TypeVar("R")

Respond: TypeAlias = "Callable[[Arrays, ServableId], bytes]"
"""Makes the serialized response of a run's outputs, and of what has answered."""


class QueuedMethod(Generic[R]):
    """Answers the requests of one method; thread-safe.

    Checks come in upstream's order: the message, the model, then all that `plan` looks at.
    """

    def __init__(
        self,
        name: str,
        manager: Manager,
        read: Callable[[bytes], tuple[R, ModelSpec]],
        plan: Callable[[Model, R], tuple[Run, Respond]],
    ) -> None:
        """Take what tells this method from others; both functions may raise ServingError.

        Args:
            name: the method's, of PredictionService.
            manager: where the models are.
            read: returns a request, and what it says of the model.
            plan: returns what to run, and what makes the response of it.
        """
        self._path = f"/tensorflow.serving.PredictionService/{name}"
        self._manager = manager
        self._read = read
        self._plan = plan

    def __call__(self, call: ObservedCall) -> ObservedHandler | None:
        """Answer the call once its rows have run; never blocks.

        Returns what has to be called in a thread instead, where it has to wait for the model.
        """
        request, spec = self._read(call.request)
        call.seen.model = spec.name
        try:
            handle = acquire_at_once(self._manager, spec)
        except NotFound:
            return self._wait_and_answer
        self._answer(call, request, handle)
        return None

    def _wait_and_answer(self, call: ObservedCall) -> None:
        request, spec = self._read(call.request)
        handle = acquire(self._manager, spec, call.deadline, call.on_end)
        self._answer(call, request, handle)

    def _answer(self, call: ObservedCall, request: R, handle: Handle) -> None:
        try:
            call.seen.served_by(handle.id)
            handle.servable.admit(len(call.request))
            run, respond = self._plan(handle.servable, request)
            call.seen.signature = run.signature.name

            def done(outcome: dict[str, NDArray[Any]] | Exception) -> None:
                try:
                    if isinstance(outcome, Exception):
                        raise outcome
                    call.seen.encoding = time.monotonic()
                    call.respond(respond(outcome, handle.id))
                except Exception as error:
                    call.fail(as_status(error, self._path, call.seen))
                finally:
                    handle.release()

            pending = handle.servable.submit(*run, done, call.deadline, call.seen)
        except BaseException:
            handle.release()
            raise
        call.on_end(pending.leave)

"""Between a transport and every method: observation, and a status for each exception."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from ladle.server.call import Alike, Call, Handler, NonBlocking
from ladle.server.core.errors import Cancelled, ServingError
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.rpc.status import as_status

BlockingPart: TypeAlias = "Callable[[ObservedCall], None]"
"""What has to be done in a thread, because it waits; it takes the call over."""
NonBlockingMethod: TypeAlias = "Callable[[ObservedCall], BlockingPart | None]"
"""Takes a call without waiting; returns the part that waits, if there is one."""


class ObservedCall:
    """A Call that notes in `observation` what becomes of it.

    A method notes there, besides, which model and signature the call goes to.
    """

    __slots__ = (
        "_call",
        "_is_whole",
        "_observer",
        "deadline",
        "metadata",
        "observation",
        "on_end",
        "request",
    )

    def __init__(self, call: Call, api: str, observer: Observer) -> None:
        self._call = call
        self._observer = observer
        self.request = call.request
        self.deadline = call.deadline
        """The monotonic time at which the caller stops waiting; None if it never does."""
        self.metadata: Callable[[str], str | None] = call.metadata
        self.on_end: Callable[[Callable[[], None]], None] = call.on_end
        shared = call.shared_observation
        self._is_whole = shared is None
        self.observation = shared or Observation(api, "GRPC", call.request, call.metadata)

    def discard_request(self) -> None:
        """Free the request message, which may be large; nobody may read it after this."""
        self._call.discard_request()
        self.request = b""
        self.observation.request = None

    def abandon(self) -> None:
        """Note that the caller went away before anybody did anything for it."""
        self.discard_request()
        self.fail(Cancelled("the caller went away"))

    def respond(self, response: bytes) -> None:
        """Send the response message; never blocks."""
        # Noted first, so that a caller who has the answer finds it counted.
        if self._is_whole:
            self.observation.end(response, self._observer)
        else:
            self.observation.request, self.observation.response = self.request, response
        self._call.respond(response)

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        if self._is_whole:
            self.observation.end(error, self._observer)
        self._call.fail(error)


@dataclass(frozen=True)
class Middleware:
    """Makes transports' handlers of methods: observed, and with a status for each exception."""

    observer: Observer = field(default_factory=Unobserved)

    def handler(self, path: str, method: Callable[[ObservedCall], bytes]) -> Handler:
        """Make a handler of a method that returns the response or raises."""
        api = _api(path)

        def handle(call: Call) -> None:
            observed = ObservedCall(call, api, self.observer)
            try:
                response = method(observed)
            except Exception as error:
                observed.fail(as_status(error, path, observed.observation))
            else:
                observed.respond(response)

        return handle

    def non_blocking(
        self, path: str, method: NonBlockingMethod, alike: Alike | None = None
    ) -> NonBlocking:
        """Make a handler of a method that waits for nothing and ends the call itself.

        `alike` handles calls to it that are alike, and has them observed itself.
        """
        api = _api(path)

        def handle(call: Call) -> Handler | None:
            observed = ObservedCall(call, api, self.observer)
            try:
                blocking = method(observed)
            except Exception as error:
                observed.fail(as_status(error, path, observed.observation))
                return None
            return blocking and _once(path, observed, blocking)

        return NonBlocking(handle, alike=alike)


def _api(path: str) -> str:
    return path.rpartition("/")[2]


def _once(path: str, observed: ObservedCall, blocking: BlockingPart) -> Handler:
    """Return a handler that does the blocking part, unless the caller goes before a thread comes.

    What waits for a thread holds nothing of a request whose caller has gone.
    """
    waiting = [(observed, blocking)]  # a thread or the caller's end pops it, and has the call then

    def caller_left() -> None:
        with suppress(IndexError):
            observed, _ = waiting.pop()
            observed.abandon()

    def handle(_call: Call) -> None:
        try:
            observed, blocking = waiting.pop()
        except IndexError:
            return
        try:
            blocking(observed)
        except Exception as error:
            observed.fail(as_status(error, path, observed.observation))

    observed.on_end(caller_left)
    return handle

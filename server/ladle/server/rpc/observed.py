"""Calls of which an observer hears when they are over."""

from __future__ import annotations

from collections.abc import Callable

from ladle.server.call import Call
from ladle.server.core.errors import Cancelled, ServingError
from ladle.server.core.observation import Observation, Observer


class ObservedCall:
    """A Call that notes in `seen` what becomes of it, and is otherwise the one that it is made of.

    A method notes there, besides, which model and signature it goes to.
    """

    __slots__ = ("_call", "_is_whole", "_observer", "metadata", "on_end", "request", "seen")

    def __init__(self, call: Call, api: str, observer: Observer) -> None:
        self._call = call
        self._observer = observer
        self.request = call.request
        self.metadata: Callable[[str], str | None] = call.metadata
        self.on_end: Callable[[Callable[[], None]], None] = call.on_end
        seen = call.shared_observation
        self._is_whole = seen is None
        self.seen = seen or Observation(api, "GRPC", call.request, call.metadata)

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""
        return self._call.deadline

    def discard_request(self) -> None:
        """Let go of the request message, which nobody will read again: it may be large."""
        self._call.discard_request()
        self.request = b""
        self.seen.request = None

    def leave(self) -> None:
        """Note that the caller went away before anybody did anything for it."""
        self.discard_request()
        self.fail(Cancelled("the caller went away"))

    def respond(self, response: bytes) -> None:
        """Send the response message; never blocks."""
        # Noted first: who has the answer finds it counted.
        if self._is_whole:
            self.seen.end(response, self._observer)
        else:
            self.seen.request, self.seen.response = self.request, response
        self._call.respond(response)

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""
        if self._is_whole:
            self.seen.end(error, self._observer)
        self._call.fail(error)

"""The standard health service, grpc.health.v1: Check and Watch.

Nothing here waits for a watcher. A watcher who leaves or does not read holds up nobody.
"""

from __future__ import annotations

import threading

from google.protobuf.message import DecodeError

from ladle.protos.health_pb import HealthCheckRequest, HealthCheckResponse
from ladle.server.call import Call, Methods, NonBlocking, Stream, Streaming
from ladle.server.core.errors import InvalidArgument, NotFound, ResourceExhausted, ServingError

_SERVICE = "/grpc.health.v1.Health"

# Each watcher takes memory, and over grpcio a thread; each name that is watched takes memory, known
# or not. Nobody needs a token for it.
_MAX_WATCHERS = 4096
_MAX_WATCHED_NAMES = 1024


class Health:
    """States whether names serve: `""` for the server as a whole, services, models. Thread-safe.

    A name that was never set is NOT_FOUND to Check, and SERVICE_UNKNOWN to Watch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all fields
        self._statuses: dict[str, int] = {"": HealthCheckResponse.NOT_SERVING}
        self._watchers: dict[str, set[_Watcher]] = {}  # by the name that they watch
        self._watching = 0
        self._is_final = False

    @property
    def methods(self) -> Methods:
        """The service's handlers, by full method path."""
        return {
            f"{_SERVICE}/Check": NonBlocking(self._check, has_own_room=True),
            f"{_SERVICE}/Watch": Streaming(self._watch, has_own_room=True),
        }

    @property
    def watchers(self) -> int:
        """How many streams watch a name now."""
        with self._lock:
            return self._watching

    def set(self, name: str, serving: bool | None) -> None:
        """Set whether `name` serves, for Check and for all watchers; None forgets the name."""
        with self._lock:
            if self._is_final:
                return
            if serving is None:
                self._statuses.pop(name, None)
                self._tell(name)
            else:
                self._state(name, serving=serving)

    def serves(self, name: str) -> bool:
        """Whether `name` is said to serve."""
        with self._lock:
            return self._statuses.get(name) == HealthCheckResponse.SERVING

    def enter_lame_duck(self) -> None:
        """Make every name NOT_SERVING, for good."""
        with self._lock:
            self._is_final = True
            for name in self._statuses:
                self._state(name, serving=False)

    def _state(self, name: str, *, serving: bool) -> None:
        self._statuses[name] = (
            HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        )
        self._tell(name)

    def _tell(self, name: str) -> None:
        status = self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN)
        for watcher in self._watchers.get(name, ()):
            watcher.tell(status)

    def _check(self, call: Call) -> None:
        try:
            name = _read(call.request)
        except ServingError as error:
            call.fail(error)
            return
        with self._lock:
            status = self._statuses.get(name)
        if status is None:
            call.fail(NotFound("no service or model of that name was ever served"))
        else:
            call.respond(HealthCheckResponse(status=status).SerializeToString())

    def _watch(self, stream: Stream) -> None:
        def received(message: bytes | None) -> None:
            try:
                watcher = self._add(stream, message)
            except ServingError as error:
                stream.end(error)
            else:
                stream.on_end(lambda: self._remove(watcher))

        stream.on_stop(stream.end)  # it would never end by itself
        stream.receive(received)

    def _add(self, stream: Stream, message: bytes | None) -> _Watcher:
        if message is None:
            raise InvalidArgument("expected one HealthCheckRequest, got none")
        name = _read(message)
        with self._lock:
            if self._watching >= _MAX_WATCHERS:
                raise ResourceExhausted("too many watch already")
            if name not in self._watchers and len(self._watchers) >= _MAX_WATCHED_NAMES:
                raise ResourceExhausted("too many names are watched")
            watcher = _Watcher(stream, name, self._lock)
            self._watchers.setdefault(name, set()).add(watcher)
            self._watching += 1
            watcher.tell(self._statuses.get(name, HealthCheckResponse.SERVICE_UNKNOWN))
        return watcher

    def _remove(self, watcher: _Watcher) -> None:
        with self._lock:
            self._watching -= 1
            watchers = self._watchers[watcher.name]
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[watcher.name]


def _read(message: bytes) -> str:
    try:
        return HealthCheckRequest.FromString(message).service
    except DecodeError:
        raise InvalidArgument("expected a HealthCheckRequest, and it can't be read") from None


class _Watcher:
    """A stream that watches a name.

    One status is on its way at a time. Of those that come meanwhile only the last one is sent.
    """

    def __init__(self, stream: Stream, name: str, lock: threading.Lock) -> None:
        """`lock` is held around `tell`."""
        self.stream = stream
        self.name = name
        self._lock = lock
        self._latest: int | None = None
        self._sent_status: int | None = None
        self._is_sending = False

    def tell(self, status: int) -> None:
        """Say how things stand, as soon as the connection has taken what was said before."""
        self._latest = status
        if self._is_sending or status == self._sent_status:
            return
        self._is_sending = True
        self._sent_status = status
        self.stream.send(HealthCheckResponse(status=status).SerializeToString(), self._sent)

    def _sent(self) -> None:
        with self._lock:
            self._is_sending = False
            assert self._latest is not None  # something was said
            self.tell(self._latest)

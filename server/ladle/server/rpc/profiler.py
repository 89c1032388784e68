"""ProfilerService: recordings of what TensorFlow does, for TensorBoard and tf.profiler."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from ladle.protos.tensorflow_pb import (
    ProfileOptions,
    ProfileRequest,
    ProfileResponse,
    TerminateRequest,
    TerminateResponse,
)
from ladle.server.core.errors import Cancelled, InvalidArgument, NotFound
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.request import parse

# A recording grows with the work under way: some megabytes a second on a busy server.
_LONGEST_S = 600.0

# The file that TensorBoard's profile plugin looks for.
_FILE = "xplane.pb"


class Recorder(Protocol):
    """Records what the runtime does, one session at a time. Thread-safe."""

    def record(self, duration_s: float, levels: dict[str, int], stopped: threading.Event) -> bytes:
        """Return the recording of `duration_s` seconds, or of less once `stopped`; blocks.

        Raises:
            ServingError: Another session is under way, or nothing can be recorded.
        """


class ProfilerService:
    """Answers ProfilerService's methods. Thread-safe.

    The recording goes into the answer. The folder that a request names for it belongs to the
    caller's machine, and nothing is written here.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._lock = threading.Lock()
        self._stops: dict[str, threading.Event] = {}  # by session id, guarded by _lock

    @property
    def methods(self) -> dict[str, Callable[[ObservedCall], bytes]]:
        """Each method by its name."""
        return {"Profile": self.profile, "Terminate": self.terminate}

    def profile(self, call: ObservedCall) -> bytes:
        """Record, and return the ProfileResponse; blocks for as long as the caller asked for.

        Raises:
            InvalidArgument: The duration is zero, or too long.
            Cancelled: The caller went away.
            ServingError: Another recording is under way.
        """
        request = parse(ProfileRequest, call.request)
        duration_s = request.duration_ms / 1000
        if not 0 < duration_s <= _LONGEST_S:
            raise InvalidArgument(
                f"duration_ms: expected 1 to {_LONGEST_S * 1000:.0f}, got {request.duration_ms}"
            )
        stopped = threading.Event()
        gone = threading.Event()
        with self._lock:
            self._stops.setdefault(request.session_id, stopped)

        def leave() -> None:
            gone.set()
            stopped.set()

        call.on_end(leave)
        try:
            recording = self._recorder.record(duration_s, _levels(request.opts), stopped)
        finally:
            with self._lock:
                if self._stops.get(request.session_id) is stopped:
                    del self._stops[request.session_id]
        if gone.is_set():
            raise Cancelled("the caller went away")
        response = ProfileResponse(empty_trace=not recording)
        if request.emit_xspace:
            response.xspace = recording
        else:
            response.tool_data.add(name=_FILE, data=recording)
        return response.SerializeToString()

    def terminate(self, call: ObservedCall) -> bytes:
        """End a recording early.

        Raises:
            NotFound: There is no recording of that session.
        """
        session_id = parse(TerminateRequest, call.request).session_id
        with self._lock:
            stopped = self._stops.get(session_id)
        if stopped is None:
            raise NotFound(f"no profile is being recorded for the session {session_id!r}")
        stopped.set()
        return TerminateResponse().SerializeToString()


def _levels(options: ProfileOptions) -> dict[str, int]:
    """Return how much is recorded; a request that says nothing gets TensorFlow's defaults."""
    if not options.version:
        return {}
    return {
        "host_tracer_level": options.host_tracer_level,
        "device_tracer_level": options.device_tracer_level,
        "python_tracer_level": options.python_tracer_level,
    }

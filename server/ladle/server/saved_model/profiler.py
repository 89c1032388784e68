"""Recordings of what TensorFlow does in this process."""

from __future__ import annotations

import threading

from ladle.server.core.errors import Code, ServingError
from ladle.server.saved_model.errors import serving_error
from ladle.server.saved_model.runtime import tensorflow


class TensorFlowProfiler:
    """Records one session at a time. Thread-safe."""

    def __init__(self) -> None:
        self._recording = threading.Lock()

    def record(self, duration_s: float, levels: dict[str, int], stopped: threading.Event) -> bytes:
        """Return a serialized `tensorflow.profiler.XSpace`; blocks while it is recorded.

        Args:
            duration_s: for how long.
            levels: how much is recorded, by `host_tracer_level` and its siblings.
            stopped: ends the recording early.

        Raises:
            ServingError: A recording is under way already, or TensorFlow can't record.
        """
        tensorflow()  # whole, before a part of it
        from tensorflow.python.profiler.internal import _pywrap_profiler

        if not self._recording.acquire(blocking=False):
            raise ServingError("another profile is being recorded", Code.ALREADY_EXISTS)
        try:
            session = _pywrap_profiler.ProfilerSession()
            session.start("", levels)
            stopped.wait(duration_s)
            recorded: bytes = session.stop()
            return recorded
        except Exception as error:
            raise serving_error(error) from error
        finally:
            self._recording.release()

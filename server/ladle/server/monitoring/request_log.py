"""Samples requests and their answers into TFRecord files of PredictionLog, as logging_config says.

Requests never wait for a disk: what a bounded queue has no room for is dropped, and counted.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ladle.protos import wire
from ladle.protos.ladle_pb import PredictStreamRequest
from ladle.protos.serving_pb import LogMetadata
from ladle.server.core.errors import Code
from ladle.server.core.machine import malloc
from ladle.server.core.models.config import ModelConfig, RequestLogging
from ladle.server.core.observation import Observation, Unobserved
from ladle.server.monitoring.as_predict import predict_request, predict_response
from ladle.server.monitoring.log_files import RotatingFiles, Rotation
from ladle.server.warmup.records import frame

logger = logging.getLogger(__name__)

# PredictionLog's field for each method, over REST in lower case.
_FIELDS = {
    "classify": 2,
    "regress": 3,
    "multiinference": 4,
    "predict": 6,
    "predictstream": 6,
    "modelinfer": 6,
    "modelstreaminfer": 6,
    "infer": 6,
}
_OPEN_INFERENCE = ("modelinfer", "modelstreaminfer", "infer")
_MAX_RECORDS = 1024
_MAX_BYTES = 64 << 20
_COMPLAIN_EVERY_S = 60.0


class Counting(Protocol):
    """Who counts what is logged."""

    def request_logged(self, model: str, code: Code) -> None:
        """A request was to be logged: OK if it was."""

    def log_dropped(self, log: str, reason: str) -> None:
        """A record of the log of this name was given up."""


class _Record(NamedTuple):
    logging: RequestLogging
    api: str
    request: bytes
    response: bytes
    outputs: Mapping[str, NDArray[Any]]
    """Those that the response holds something else of."""
    metadata: LogMetadata

    @property
    def nbytes(self) -> int:
        outputs = sum(array.nbytes for array in self.outputs.values())
        return len(self.request) + len(self.response) + outputs


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """How much is kept."""

    rotation: Rotation = field(default_factory=Rotation)
    max_records: int = _MAX_RECORDS
    """That wait to be written."""
    max_bytes: int = _MAX_BYTES
    """Of the messages in them."""
    suffix: str = ""
    """Comes after each prefix of files: one process alone may write with a prefix."""


class RequestLogs(Unobserved):
    """An Observer that logs requests. Thread-safe; a thread of its own writes.

    What is to be logged is looked up for each request, so a change has effect at once.
    """

    def __init__(
        self,
        models: Callable[[], Mapping[str, ModelConfig]],
        counting: Counting,
        options: LogOptions | None = None,
        sample: Callable[[], float] = random.random,
    ) -> None:
        """Take what is configured, and where drops are counted; `sample` is from 0 up to 1."""
        self._models = models
        self._counting = counting
        self._options = options or LogOptions()
        self._sample = sample
        self._changed = threading.Condition(threading.Lock())
        # Guarded by _changed.
        self._pending: deque[_Record] = deque()
        self._nbytes = 0
        self._writing = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        # The writer's own.
        self._files: dict[str, RotatingFiles] = {}
        self._complained = -_COMPLAIN_EVERY_S

    def request_ended(self, request: Observation) -> None:
        """Log it, if it was answered, its model is logged, and the lot falls on it."""
        config = self._models().get(request.model)
        if config is None or config.logging is None or self._sample() >= config.logging.rate:
            return
        api = request.api.lower()
        if api not in _FIELDS or request.error is not None or request.response is None:
            return
        # A large one's message has been let go of by now, or nearly always.
        if not request.request or len(request.request) >= malloc.LARGE_BYTES:
            self._drop("too_large", request)
        else:
            self._put(config.logging, api, request.request, request.response, request)

    def flush(self, timeout_s: float) -> bool:
        """Wait until all is written that waits now; False if the time passed first."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._pending and not self._writing, timeout_s
            )

    def stop(self, timeout_s: float) -> None:
        """Write what waits, within `timeout_s`, and close the files."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _put(
        self,
        options: RequestLogging,
        api: str,
        request: bytes,
        response: bytes,
        observation: Observation,
    ) -> None:
        metadata = LogMetadata(timestamp_secs=int(time.time()))
        metadata.sampling_config.sampling_rate = options.rate
        metadata.model_spec.name = observation.model
        metadata.model_spec.signature_name = "".join(observation.signatures[:1])
        if observation.version is not None:
            metadata.model_spec.version.value = observation.version
        record = _Record(options, api, request, response, observation.outputs or {}, metadata)
        with self._changed:
            reason = self._reason_to_drop(record)
            if not reason:
                self._pending.append(record)
                self._nbytes += record.nbytes
                self._changed.notify_all()
                return
        self._drop(reason, observation)

    def _drop(self, reason: str, observation: Observation) -> None:
        self._counting.log_dropped("request", reason)
        self._counting.request_logged(observation.model, Code.RESOURCE_EXHAUSTED)

    def _reason_to_drop(self, record: _Record) -> str:
        if self._stopped:
            return "stopping"
        if len(self._pending) >= self._options.max_records:
            return "queue_full"
        if self._nbytes + record.nbytes > self._options.max_bytes:
            return "queue_full"
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="request log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for another; there may be for the next
                return "no_thread"
            self._thread = thread
        return ""

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._pending and not self._stopped:
                    self._changed.wait()
                records = list(self._pending)
                self._pending.clear()
                self._writing = True
            if not records:
                break
            self._write(records)
            with self._changed:
                self._nbytes -= sum(record.nbytes for record in records)
        for files in self._files.values():
            files.close()

    def _write(self, records: list[_Record]) -> None:
        by_prefix: dict[str, list[_Record]] = {}
        for record in records:
            by_prefix.setdefault(record.logging.filename_prefix, []).append(record)
        self._close_others()
        for prefix, part in by_prefix.items():
            files = self._files.get(prefix)
            if files is None:
                start = prefix + self._options.suffix
                files = self._files[prefix] = RotatingFiles(start, self._options.rotation)
            for record in part:
                code = Code.OK
                try:
                    files.write(frame(_encoded(record)))
                except Exception as error:
                    code = Code.INTERNAL
                    self._counting.log_dropped("request", "write_failed")
                    self._complain(prefix, error)
                self._counting.request_logged(record.metadata.model_spec.name, code)

    def _close_others(self) -> None:
        wanted = {c.logging.filename_prefix for c in self._models().values() if c.logging}
        for prefix in self._files.keys() - wanted:
            self._files.pop(prefix).close()

    def _complain(self, prefix: str, error: Exception) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_S:
            self._complained = now
            logger.error("requests can't be logged filename_prefix=%s error=%s", prefix, error)


def _encoded(record: _Record) -> bytes:
    """Return the PredictionLog. Messages that are of its own kinds stay as they came, unparsed."""
    request, response = record.request, record.response
    if record.api == "predictstream":
        request = PredictStreamRequest.FromString(request).request.SerializeToString()
    elif record.api in _OPEN_INFERENCE:
        spec = record.metadata.model_spec
        request = predict_request(request, spec).SerializeToString()
        response = predict_response(response, spec, record.outputs).SerializeToString()
    messages = [*wire.bytes_field(1, [request]), *wire.bytes_field(2, [response])]
    return wire.join(
        [
            *wire.bytes_field(1, [record.metadata.SerializeToString()]),
            *wire.bytes_field(_FIELDS[record.api], messages),
        ]
    )

"""ladle.v1.StreamingPrediction/PredictInChunks: one answer in as many messages as it takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from ladle.protos import wire
from ladle.server.call import Stream, Streaming
from ladle.server.core.entry import Handle
from ladle.server.core.errors import Cancelled, InvalidArgument, NotFound
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Pending, ServableId
from ladle.server.rpc.predict import (
    Predict,
    RawOutcome,
    Request,
    read_request,
)
from ladle.server.rpc.predict_response import encode_response
from ladle.server.rpc.request import acquire, acquire_at_once
from ladle.server.rpc.status import as_status
from ladle.server.rpc.streaming import MAX_INLINE_BYTES

_PATH = "/ladle.v1.StreamingPrediction/PredictInChunks"
# What clients take unless told otherwise is 4 MiB; the rest is for names and headers.
_CHUNK_BYTES = 4_000_000


def predict_in_chunks(predict: Predict, observer: Observer | None = None) -> Streaming:
    """Return the handler of the method; `observer` hears of each request."""
    observer = observer or Unobserved()
    return Streaming(lambda stream: _Chunks(stream, predict, observer).begin())


def chunks(
    outputs: dict[str, NDArray[Any]], servable_id: ServableId, signature: str, *, typed: bool
) -> Iterator[bytes]:
    """Yield the PredictChunks that the outputs come in."""
    counts = {array.shape[0] if array.ndim else None for array in outputs.values()}
    total = counts.pop() if len(counts) == 1 else None

    def chunk(start: int, stop: int) -> bytes:
        part = outputs
        if total:
            part = {alias: array[start:stop] for alias, array in outputs.items()}
        response = encode_response(part, servable_id, signature, typed=typed)
        return wire.join(
            [
                *wire.bytes_field(1, [response]),
                wire.varint_field(2, start),
                wire.varint_field(3, total or 0),
            ]
        )

    if not total:
        yield chunk(0, 0)
        return
    row_bytes = sum(array.nbytes for array in outputs.values()) / total
    rows = max(1, int(_CHUNK_BYTES / max(1, row_bytes)))
    start = 0
    while start < total:
        encoded = chunk(start, start + rows)
        while len(encoded) > _CHUNK_BYTES and rows > 1:
            # Strings and typed integers take more on the wire than in memory.
            rows = max(1, rows // 2)
            encoded = chunk(start, start + rows)
        yield encoded
        start += rows


class _Chunks:
    def __init__(self, stream: Stream, predict: Predict, observer: Observer) -> None:
        self._stream = stream
        self._predict = predict
        self._observer = observer
        self._seen: Observation | None = None  # until the request is there
        self._typed = predict.is_typed(stream)
        self._chunks: Iterator[bytes] = iter(())

    def begin(self) -> None:
        """Read the request."""
        self._stream.receive(self._received)

    def _received(self, message: bytes | None) -> None:
        seen = Observation("PredictInChunks", "GRPC", message or b"", self._stream.metadata)
        self._seen = seen
        try:
            if message is None:
                raise InvalidArgument("expected one PredictRequest, got none")
            self._stream.reserve(len(message))
        except Exception as error:
            self._fail(error)
            return
        if len(message) <= MAX_INLINE_BYTES:
            self._read(message, seen)
        else:
            self._stream.in_thread(lambda: self._read(message, seen))

    def _read(self, message: bytes, seen: Observation) -> None:
        try:
            request = read_request(message)
            seen.model = request.message.model_spec.name
            handle = acquire_at_once(self._predict.manager, request.message.model_spec)
        except NotFound:
            # It may be on its way, and waiting for that takes a thread.
            self._stream.in_thread(lambda: self._wait_and_run(request, seen), waits=True)
        except Exception as error:
            self._fail(error)
        else:
            self._run(handle, request, seen)

    def _wait_and_run(self, request: Request, seen: Observation) -> None:
        spec = request.message.model_spec
        try:
            stream = self._stream
            handle = acquire(self._predict.manager, spec, stream.deadline, stream.on_end)
        except Exception as error:
            self._fail(error)
        else:
            self._run(handle, request, seen)

    def _run(self, handle: Handle, request: Request, seen: Observation) -> None:
        try:
            pending = self._predict.begin_raw(
                handle, request, self._stream.deadline, self._done, seen
            )
        except Exception as error:
            self._fail(error)
        else:
            self._stream.on_end(lambda: self._leave(pending))

    def _leave(self, pending: Pending) -> None:
        pending.leave()
        assert self._seen is not None
        self._seen.end(Cancelled("the caller went away"), self._observer)

    def _fail(self, error: Exception) -> None:
        assert self._seen is not None
        status = as_status(error, _PATH, self._seen)
        self._seen.end(status, self._observer)
        self._stream.end(status)

    def _done(self, outcome: RawOutcome, servable_id: ServableId, signature: str) -> None:
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        assert self._seen is not None
        self._seen.encoding = time.monotonic()
        self._chunks = chunks(outcome, servable_id, signature, typed=self._typed)
        self._send_next()

    def _send_next(self) -> None:
        """Encode one chunk more, now that the connection has taken the last one."""
        try:
            chunk = next(self._chunks, None)
        except Exception as error:
            self._fail(error)
            return
        assert self._seen is not None
        if chunk is None:
            self._seen.end(b"", self._observer)
            self._stream.end()
        else:
            self._seen.response_bytes += len(chunk)
            self._stream.send(chunk, self._send_next)

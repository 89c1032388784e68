"""ladle.v1.StreamingPrediction/PredictInChunks: one answer in as many messages as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import wire
from ladle.server.call import Stream, Streaming
from ladle.server.core import malloc
from ladle.server.core.errors import Cancelled, InvalidArgument, NotFound
from ladle.server.core.lifecycle.entry import Handle
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Pending
from ladle.server.core.servable_id import ServableId
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
# What tells of a string that it is there, and how long it is: nearly always less.
_STRING_HEAD_BYTES = 4


def predict_in_chunks(predict: Predict, observer: Observer | None = None) -> Streaming:
    """Return the handler of the method; `observer` hears of each request."""
    observer = observer or Unobserved()
    return Streaming(lambda stream: _Chunks(stream, predict, observer).begin())


class Chunk(NamedTuple):
    """A PredictChunk."""

    message: bytes
    is_last: bool


def chunks(
    outputs: dict[str, NDArray[Any]], servable_id: ServableId, signature: str, *, typed: bool
) -> Iterator[Chunk]:
    """Yield what the outputs come in."""
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
        yield Chunk(chunk(0, 0), is_last=True)
        return
    stop_of = _stops(outputs, total)
    room = float(_CHUNK_BYTES)
    start = 0
    while start < total:
        stop = stop_of(start, room)
        encoded = chunk(start, stop)
        while len(encoded) > _CHUNK_BYTES and stop > start + 1:
            # Typed integers take more on the wire than in memory.
            room /= 2
            stop = stop_of(start, room)
            encoded = chunk(start, stop)
        yield Chunk(encoded, is_last=stop == total)
        start = stop


def _stops(outputs: dict[str, NDArray[Any]], total: int) -> Callable[[int, float], int]:
    """Return what tells, of a first row and a number of bytes, where the rows in them end.

    Strings are measured one by one, so that none is encoded that then has no room.
    """
    arrays = outputs.values()
    fixed = max(1.0, sum(array.nbytes for array in arrays if not array.dtype.hasobject) / total)
    ends: NDArray[np.float64] | None = None  # of each row, in bytes from the first row on
    for array in arrays:
        if array.dtype.hasobject and array.size:
            lengths = np.fromiter(map(len, array.flat), np.float64, array.size)
            per_row = lengths.reshape(total, -1) + _STRING_HEAD_BYTES
            ends = (fixed if ends is None else ends) + per_row.sum(axis=1)
    if ends is not None:
        ends = ends.cumsum()

    def stop_of(start: int, room: float) -> int:
        if ends is None:
            stop = start + int(room / fixed)
        else:
            before = ends[start - 1] if start else 0.0
            stop = int(np.searchsorted(ends, before + room, side="right"))
        return min(max(start + 1, stop), total)

    return stop_of


class _Chunks:
    def __init__(self, stream: Stream, predict: Predict, observer: Observer) -> None:
        self._stream = stream
        self._predict = predict
        self._observer = observer
        self._seen: Observation | None = None  # until the request is there
        self._typed = predict.is_typed(stream)
        # Until each is made the next, or the caller goes: then none of them stays.
        self._message = b""
        self._request: Request | None = None
        self._pending: Pending | None = None
        self._over = False
        self._chunks: Iterator[Chunk] = iter(())

    def begin(self) -> None:
        """Read the request."""
        self._stream.on_end(self._leave)
        self._stream.receive(self._received)

    def _received(self, message: bytes | None) -> None:
        if message is None:  # no request to observe; perhaps the caller has only gone
            self._stream.end(InvalidArgument("expected one PredictRequest, got none"))
            return
        seen = Observation("PredictInChunks", "GRPC", message, self._stream.metadata)
        self._seen = seen
        try:
            self._stream.reserve(len(message))
        except Exception as error:
            self._fail(error)
            return
        self._message = message
        if len(message) <= MAX_INLINE_BYTES:
            self._read(seen)
        else:
            self._stream.in_thread(lambda: self._read(seen))

    def _read(self, seen: Observation) -> None:
        message, self._message = self._message, b""
        if self._over:
            return
        try:
            request = read_request(message)
            seen.model = request.message.model_spec.name
            handle = acquire_at_once(self._predict.manager, request.message.model_spec)
        except NotFound:
            # It may be on its way, and waiting for that takes a thread.
            self._request = request
            self._stream.in_thread(lambda: self._wait_and_run(seen), waits=True)
        except Exception as error:
            self._fail(error)
        else:
            self._run(handle, request, seen)

    def _wait_and_run(self, seen: Observation) -> None:
        request, self._request = self._request, None
        if request is None:
            return
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
            self._pending = self._predict.begin_raw(
                handle, request, self._stream.deadline, self._done, seen
            )
        except Exception as error:
            self._fail(error)
            return
        if request.nbytes >= malloc.LARGE_BYTES:
            seen.request = None
        if self._over:  # the caller went meanwhile, and nobody has told the queue
            self._pending.leave()

    def _leave(self) -> None:
        self._over = True
        self._message = b""
        self._request = None
        if self._pending is not None:
            self._pending.leave()
        if self._seen is not None:
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
            message, is_last = next(self._chunks)
        except Exception as error:
            self._fail(error)
            return
        assert self._seen is not None
        self._seen.response_bytes += len(message)
        if is_last:
            self._seen.end(b"", self._observer)
        self._stream.send(message, self._stream.end if is_last else self._sent)

    def _sent(self) -> None:
        # Encoding a chunk takes too long for the network's thread.
        self._stream.in_thread(self._send_next)

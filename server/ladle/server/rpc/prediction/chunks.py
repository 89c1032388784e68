"""ladle.v1.StreamingPrediction/PredictInChunks: one answer in as many messages as it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import wire
from ladle.server.call import Stream, Streaming
from ladle.server.core.errors import Cancelled, InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.observation import Observation, Observer, Unobserved
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.prediction.predict import ParsedPredict, Predict, encode_response
from ladle.server.rpc.queued import Outputs, QueuedRequest
from ladle.server.rpc.request import Invocation, Waiter, priority_of, with_version
from ladle.server.rpc.status import as_status
from ladle.server.rpc.streaming.queued_stream import MAX_INLINE_BYTES

# Clients take 4 MiB by default; the rest is for names and headers.
_CHUNK_BYTES = 4_000_000
# A string's tag and length on the wire; nearly always they take less.
_STRING_HEAD_BYTES = 4


def predict_in_chunks(
    manager: Manager, predict: Predict, observer: Observer | None = None
) -> Streaming:
    """Return the handler of the method.

    Args:
        manager: where the models are.
        predict: how requests are read.
        observer: hears of each request.
    """
    observer = observer or Unobserved()
    method = PredictInChunks(predict)
    return Streaming(lambda stream: _ChunkedAnswer(stream, manager, method, observer).begin())


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


class PredictInChunks:
    """The method as an InferMethod: Predict's parser, and an encoder of one chunk after another."""

    path = "/ladle.v1.StreamingPrediction/PredictInChunks"

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.parse = predict.parse
        self.model_spec = predict.model_spec

    def plan(
        self, model: Model, request: ParsedPredict
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], Iterator[Chunk]]]:
        """Return what to run, and what yields the chunks, each encoded when it is asked for.

        Raises:
            ServingError: The request does not fit the model.
        """
        invocation, _ = self._predict.plan(model, request)
        signature, typed = invocation.signature.name, request.typed

        def encode(outputs: Outputs, servable_id: ServableId) -> Iterator[Chunk]:
            return chunks(outputs, servable_id, signature, typed=typed)

        return invocation, encode


class _ChunkedAnswer:
    """One stream: its request is read, runs, and is answered chunk by chunk."""

    def __init__(
        self, stream: Stream, manager: Manager, method: PredictInChunks, observer: Observer
    ) -> None:
        self._stream = stream
        self._manager = manager
        self._method = method
        self._observer = observer
        self._observation: Observation | None = None  # until the request is there
        # Until each is made the next, or the caller goes: then none of them stays.
        self._message = b""
        self._request: QueuedRequest[ParsedPredict, Iterator[Chunk]] | None = None
        self._over = False
        self._chunks: Iterator[Chunk] = iter(())

    def begin(self) -> None:
        """Ask for the request."""
        self._stream.on_end(self._caller_left)
        self._stream.receive(self._received)

    def _received(self, message: bytes | None) -> None:
        if message is None:  # no request to observe; perhaps the caller has only gone
            self._stream.end(InvalidArgument("expected one PredictRequest, got none"))
            return
        observation = Observation("PredictInChunks", "GRPC", message, self._stream.metadata)
        self._observation = observation
        try:
            self._stream.reserve(len(message))
        except Exception as error:
            self._fail(error)
            return
        self._message = message
        if len(message) <= MAX_INLINE_BYTES:
            self._read(observation)
        else:
            self._stream.in_thread(lambda: self._read(observation))

    def _read(self, observation: Observation) -> None:
        message, self._message = self._message, b""
        if self._over:
            return
        method, stream = self._method, self._stream
        try:
            parsed = method.parse(message, stream.metadata)
            spec = method.model_spec(parsed)
            observation.model = spec.name
            observation.priority = priority_of(stream.metadata)
            request = QueuedRequest(
                method, parsed, len(message), stream.deadline, observation, self._deliver
            )
            self._request = request
            del message, parsed  # they may be large
            wait = with_version(self._manager, spec, self._submit, stream.metadata)
        except Exception as error:
            self._fail(error)
        else:
            if wait is not None:
                stream.in_thread(lambda: self._wait(wait), waits=True)

    def _wait(self, wait: Callable[[Waiter], None]) -> None:
        if self._over:
            return
        try:
            wait(self._stream)
        except Exception as error:
            self._fail(error)

    def _submit(self, handle: Handle) -> None:
        request = self._request
        if request is None:  # the caller has gone
            handle.release()
            return
        request.submit(handle)
        if request.is_large and self._observation is not None:
            self._observation.request = None

    def _caller_left(self) -> None:
        self._over = True
        self._message = b""
        request, self._request = self._request, None
        if request is not None:
            request.cancel()
        if self._observation is not None:
            self._observation.end(Cancelled("the caller went away"), self._observer)

    def _fail(self, error: Exception) -> None:
        assert self._observation is not None
        status = as_status(error, self._method.path, self._observation)
        self._observation.end(status, self._observer)
        self._stream.end(status)

    def _deliver(self, answer: Iterator[Chunk] | Exception) -> None:
        if isinstance(answer, Exception):
            self._fail(answer)
        else:
            self._chunks = answer
            self._send_next()

    def _send_next(self) -> None:
        """Encode one chunk more, now that the connection has taken the last one."""
        try:
            message, is_last = next(self._chunks)
        except Exception as error:
            self._fail(error)
            return
        assert self._observation is not None
        self._observation.response_bytes += len(message)
        if is_last:
            self._observation.end(b"", self._observer)
        self._stream.send(message, self._stream.end if is_last else self._sent)

    def _sent(self) -> None:
        # Encoding a chunk takes too long for the network's thread.
        self._stream.in_thread(self._send_next)

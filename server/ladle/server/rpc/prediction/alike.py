"""Predict requests that differ in nothing but the bytes of their tensors: handled as one.

The first is read and checked as any other. The rest have the same bytes around their tensors, and
as many bytes in them. So what holds for the first holds for all. Whatever is not of that kind is
handled one by one, and so is whatever is refused: each caller gets the reason on the usual path.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.server.call import Alike, Group
from ladle.server.core.access import PRIORITY_KEY
from ladle.server.core.batching.run import LATE
from ladle.server.core.errors import Cancelled, DeadlineExceeded, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Arrays, PendingAlike
from ladle.server.rpc.prediction.predict import (
    MAX_RESPONSE_BYTES,
    TENSOR_CONTENT_KEY,
    Predict,
    encode_response,
    entry_head,
    spec_field,
)
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import find_version, priority_of
from ladle.server.rpc.status import as_status

logger = logging.getLogger(__name__)

_INPUTS = 2
_TENSOR_CONTENT = 4
# Typed fields whose bytes on the wire are those of an array: of these dtypes, and no other.
_RAW_FIELDS = {5: np.dtype(np.float32), 6: np.dtype(np.float64)}


class _Source(NamedTuple):
    """Where an input's bytes are in each request."""

    content: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of the rows of one request."""


def predict_alike(
    manager: Manager, predict: Predict, observer: Observer, shadows: ShadowRuns | None = None
) -> Alike:
    """Return what handles Predict requests that are alike."""

    def handle(group: Group) -> bool:
        # Whoever wants each request by itself gets them so; roll-outs and shadows choose for each.
        if not observer.takes_many or manager.router.rollouts or (shadows and shadows.lanes):
            return False
        try:
            return _submit(manager, predict, observer, group)
        except ServingError:
            return False
        except Exception:
            logger.exception("requests that are alike could not be handled as one")
            return False

    return Alike(
        handle,
        map_field=_INPUTS,
        contents=(_TENSOR_CONTENT, *_RAW_FIELDS),
        metadata=(TENSOR_CONTENT_KEY, PRIORITY_KEY),
    )


def _submit(manager: Manager, predict: Predict, observer: Observer, group: Group) -> bool:
    """Put the requests into their queue; False: they are none that can go as one."""
    observation = Observation("Predict", "GRPC", b"")
    observation.request_bytes = group.nbytes
    observation.priority = priority_of(group.metadata)
    request = predict.parse(group.request, group.metadata)
    handle = find_version(manager, predict.model_spec(request))
    if not isinstance(handle, Handle):
        return False
    if not handle.retain(len(group) - 1):  # each of them counts as a request under way
        handle.release()
        return False
    taken = False
    try:
        observation.served_by(handle.id)
        (signature, inputs, outputs), _ = predict.plan(handle.servable, request)
        sources = _sources(inputs, group.contents)
        if sources is None:
            return False
        observation.signatures = signature.names
        requests = _Requests(
            group, observation, observer, handle, sources, signature.name, typed=request.typed
        )
        pending = handle.servable.submit_alike(signature, inputs, outputs, requests)
        taken = pending is not None
    finally:
        if not taken:
            handle.release(len(group))
    if pending is None:
        return False
    requests.expect(pending)
    return True


def _sources(
    inputs: Arrays, contents: Sequence[tuple[bytes, int, bytes]]
) -> dict[str, _Source] | None:
    """Return where each input comes from; None where one is not just the bytes of a content.

    Whether bytes are right for a bool or for strings depends on what they are.
    """
    numbers = {key.decode(): number for number, (key, _, _) in enumerate(contents)}
    if numbers.keys() != inputs.keys():
        return None
    sources = {}
    for alias, array in inputs.items():
        number = numbers[alias]
        _, field, data = contents[number]
        if array.dtype.kind in "bO" or _RAW_FIELDS.get(field, array.dtype) != array.dtype:
            return None
        if array.tobytes() != data:
            return None
        sources[alias] = _Source(number, array.dtype, array.shape)
    return sources


class _Requests:
    """Requests that are alike, on their way through the queue. Thread-safe."""

    def __init__(
        self,
        group: Group,
        observation: Observation,
        observer: Observer,
        handle: Handle,
        sources: Mapping[str, _Source],
        signature: str,
        *,
        typed: bool,
    ) -> None:
        self.observation = observation
        self._group = group
        self._observer = observer
        self._handle = handle
        self._sources = sources
        self._signature = signature
        self._typed = typed
        # Goes when all have ended: the task has these requests, and both would be a circle.
        self._pending: PendingAlike | None = None
        self._is_over = False

    def __len__(self) -> int:
        return len(self._group)

    def expect(self, pending: PendingAlike) -> None:
        """Take members out of the queue when their callers go."""
        self._pending = pending
        if self._is_over:  # a thread of the batch was quicker
            self._pending = None
        self._group.on_end(self._left)

    def inputs(self, members: Sequence[int]) -> Arrays:
        """Return the inputs of these members, with their rows one after the other."""
        return {alias: self._gathered(source, members) for alias, source in self._sources.items()}

    def waiting(self, members: Sequence[int]) -> list[int]:
        """Return those of the members whose callers still wait."""
        return self._group.waiting(members)

    def done(
        self, members: Sequence[int], outcome: Outputs | Exception, observation: Observation
    ) -> None:
        """Answer these members, or fail each."""
        if isinstance(outcome, Exception):
            for member in members:
                self._fail(member, outcome, observation)
            return
        observation.encoding = time.monotonic()
        try:
            fields = self._fields(outcome, len(members))
        except Exception:
            fields = None  # each caller reads why
        if fields is None:
            self._answer_each(members, outcome, observation)
            return
        end = spec_field(self._handle.id, self._signature)
        size = len(end) + sum([len(head) + len(data) // len(members) for head, data in fields])
        places = self._group.settle(members)
        if places:
            # Noted first, so that a caller who has the answer finds it counted.
            observation.end_alike(len(places), size, self._observer)
            self._group.answer(members, places, fields, end)
            self._handle.release(len(places))

    def over(self) -> None:
        """Forget the task."""
        self._is_over = True
        self._pending = None

    def _gathered(self, source: _Source, members: Sequence[int]) -> NDArray[Any]:
        data, start = self._group.gather(source.content, members)
        rows, *rest = source.shape
        shape = (rows * len(members), *rest)
        return np.ndarray(shape, source.dtype, data, start)

    def _fields(self, outputs: Outputs, count: int) -> list[tuple[bytes, bytes]] | None:
        """Return what comes before each output, and its bytes; None where they need encoding."""
        fields = []
        size = 0
        for alias, array in outputs.items():
            shape = array.shape
            if count > 1:
                shape = (shape[0] // count, *shape[1:])
            head = entry_head(alias, array.dtype, shape, self._typed)
            size += array.nbytes // count
            if head is None or size > MAX_RESPONSE_BYTES // 2:
                return None
            fields.append((head, array.tobytes()))
        return fields

    def _answer_each(
        self, members: Sequence[int], outputs: Outputs, observation: Observation
    ) -> None:
        count = len(members)
        for place, member in enumerate(members):
            own = outputs
            if count > 1:
                own = {alias: _share(array, place, count) for alias, array in outputs.items()}
            try:
                answer = encode_response(own, self._handle.id, self._signature, typed=self._typed)
            except Exception as error:
                self._fail(member, error, observation)
                continue
            if self._group.settle([member]):
                observation.part().end_alike(1, len(answer), self._observer)
                self._group.answer([member], [0], [], answer)
                self._handle.release()

    def _fail(self, member: int, error: Exception, observation: Observation) -> None:
        if not self._group.settle([member]):
            return
        one = observation.part()
        one.metadata = self._group.call(member).metadata
        status = as_status(error, Predict.path, one)
        one.end(status, self._observer)
        self._group.fail(member, status)
        self._handle.release()

    def _left(self, member: int) -> None:
        """Note that a caller has gone before the answer."""
        pending = self._pending
        if pending is not None:
            pending.leave(member)
        deadline = self._group.deadline(member)
        is_late = deadline is not None and deadline <= time.monotonic()
        error = DeadlineExceeded(LATE) if is_late else Cancelled("the caller went away")
        self.observation.part().end(error, self._observer)
        self._handle.release()


def _share(array: NDArray[Any], place: int, count: int) -> NDArray[Any]:
    rows = len(array) // count
    return array[place * rows : (place + 1) * rows]

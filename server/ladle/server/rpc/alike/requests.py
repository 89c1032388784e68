"""Requests that are alike, on their way through the queue: gathered, answered, failed, left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.server.call import Group
from ladle.server.core.batching.run import LATE
from ladle.server.core.errors import Cancelled, DeadlineExceeded
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.servable import Arrays, PendingAlike
from ladle.server.rpc.alike.plans import Part, Plan
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.status import as_status


class Requests:
    """Requests that are alike, on their way through the queue. Thread-safe."""

    def __init__(
        self,
        group: Group,
        observation: Observation,
        observer: Observer,
        handle: Handle,
        plan: Plan,
        path: str,
    ) -> None:
        """Take requests that were checked.

        Args:
            group: the calls.
            observation: where what becomes of all of them is noted.
            observer: hears of their ends.
            handle: on the version that they go to, held once for each; Requests releases it.
            plan: where each input's bytes are, and what makes the answers.
            path: the full method path, for logs.
        """
        self.observation = observation
        self._group = group
        self._observer = observer
        self._handle = handle
        self._parts = plan.parts
        self._path = path
        self._answers = plan.answers
        self._echoes = group.echoes
        self._has_echoes = any(self._echoes)
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
        return {alias: self._gathered(part, members) for alias, part in self._parts.items()}

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
            fields = self._answers.fields(outcome, len(members))
        except Exception:
            fields = None  # each caller reads why
        if fields is None:
            self._answer_each(members, outcome, observation)
            return
        start, end = self._answers.start, self._answers.end
        size = len(start) + len(end)
        size += sum([len(head) + len(data) // len(members) for head, data in fields])
        places = self._group.settle(members)
        if places:
            # Noted first, so that a caller who has the answer finds it counted.
            for nbytes, count in self._sizes_of_echoes(members, places).items():
                alike = observation.part()
                alike.request_bytes += nbytes
                alike.end_alike(count, size + nbytes, self._observer)
            self._group.answer(members, places, start, fields, end)
            self._handle.release(len(places))

    def over(self) -> None:
        """Forget the task."""
        self._is_over = True
        self._pending = None

    def _sizes_of_echoes(self, members: Sequence[int], places: Sequence[int]) -> dict[int, int]:
        """Return how many of the members at these places have an echo of each size."""
        if not self._has_echoes:
            return {0: len(places)}
        return Counter([len(self._echoes[members[place]]) for place in places])

    def _gathered(self, part: Part, members: Sequence[int]) -> NDArray[Any]:
        data, start = self._group.gather(part.content, members)
        rows, *rest = part.shape
        shape = (rows * len(members), *rest)
        return np.ndarray(shape, part.dtype, data, start)

    def _answer_each(
        self, members: Sequence[int], outputs: Outputs, observation: Observation
    ) -> None:
        count = len(members)
        for place, member in enumerate(members):
            own = outputs
            if count > 1:
                own = {alias: _share(array, place, count) for alias, array in outputs.items()}
            try:
                answer = self._answers.encode(own, self._echoes[member])
            except Exception as error:
                self._fail(member, error, observation)
                continue
            if self._group.settle([member]):
                self._part(member, observation).end_alike(1, len(answer), self._observer)
                self._group.respond(member, answer)
                self._handle.release()

    def _fail(self, member: int, error: Exception, observation: Observation) -> None:
        if not self._group.settle([member]):
            return
        one = self._part(member, observation)
        one.metadata = self._group.call(member).metadata
        if request_id := self._answers.request_id(self._echoes[member]):
            one.known_as(request_id)
        status = as_status(error, self._path, one)
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
        self._part(member, self.observation).end(error, self._observer)
        self._handle.release()

    def _part(self, member: int, observation: Observation) -> Observation:
        """Return a new observation of one member."""
        part = observation.part()
        part.request_bytes += len(self._echoes[member])
        return part


def _share(array: NDArray[Any], place: int, count: int) -> NDArray[Any]:
    rows = len(array) // count
    return array[place * rows : (place + 1) * rows]

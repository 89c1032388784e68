"""Coalescers: one for threads, one for tasks. The first caller of a group sends for all of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from threading import Lock

from ladle.client.calls.flows import PredictCall
from ladle.client.coalescing.groups import MAX_MEMBERS, Group, OpenGroups, merge, rows_of, split
from ladle.client.errors import DeadlineExceeded
from ladle.client.prediction import Prediction


class _Member:
    """A thread in a group."""

    def __init__(self, call: PredictCall, deadline: float) -> None:
        self.call, self.deadline = call, deadline
        self.outcome: Prediction | Exception | None = None
        # Held until the outcome is set. A Lock costs less than an Event.
        self.awake = Lock()
        self.awake.acquire()


class Coalescer:
    """Sends the predictions of several threads as one request.

    The first thread of a group waits `gather_s` seconds for others, then sends for all. `predict`
    makes a prediction with a timeout in seconds. Thread-safe.
    """

    def __init__(
        self, predict: Callable[[PredictCall, float], Prediction], gather_s: float
    ) -> None:
        self._predict = predict
        self._gather_s = gather_s
        self._groups: OpenGroups[_Member] = OpenGroups()
        self._lock = Lock()

    def predict(self, call: PredictCall, key: Hashable, timeout_s: float) -> Prediction:
        """Return the prediction, made together with others of the same coalescing key."""
        member = _Member(call, time.monotonic() + timeout_s)
        with self._lock:
            group = self._groups.join(key, member)
            place = len(group.members)
        if place == 1:
            self._lead(group, member)
        else:
            if place == MAX_MEMBERS:
                group.members[0].awake.release()
            if not member.awake.acquire(timeout=timeout_s):
                raise _too_late(call)
        if member.outcome is None:
            return self._predict(call, _left_s(call, member.deadline))
        if isinstance(member.outcome, Exception):
            raise member.outcome
        return member.outcome

    def _lead(self, group: Group[_Member], leader: _Member) -> None:
        """Wait for members, send one request, and give each its rows; all wake at the end."""
        try:
            left_s = leader.deadline - time.monotonic()
            leader.awake.acquire(timeout=max(0.0, min(self._gather_s, left_s)))
        finally:
            with self._lock:
                self._groups.close(group)
        members = group.members
        try:
            if len(members) == 1:
                return
            outcome: Prediction | Exception
            try:
                first = min(members, key=lambda member: member.deadline)
                left_s = _left_s(first.call, first.deadline)
                outcome = self._predict(merge([member.call for member in members]), left_s)
            except Exception as error:
                outcome = error
            rows = [rows_of(member.call) for member in members]
            for member, share in zip(members, split(outcome, rows), strict=True):
                member.outcome = share
        finally:
            for member in members[1:]:
                member.awake.release()


class _Task:
    """A task in a group."""

    def __init__(self, call: PredictCall, deadline: float) -> None:
        self.call, self.deadline = call, deadline
        self.outcome: asyncio.Future[Prediction | Exception | None] = asyncio.Future()
        self.is_full = asyncio.Event()
        """Set for the leader when its group is full."""


class AsyncCoalescer:
    """Sends the predictions of several tasks as one request.

    A group collects members for `gather_s` seconds. `predict` makes a prediction with a timeout
    in seconds. Belongs to one event loop.
    """

    def __init__(
        self, predict: Callable[[PredictCall, float], Awaitable[Prediction]], gather_s: float
    ) -> None:
        self._predict = predict
        self._gather_s = gather_s
        self._groups: OpenGroups[_Task] = OpenGroups()
        self._leading: set[asyncio.Task[None]] = set()

    async def predict(self, call: PredictCall, key: Hashable, timeout_s: float) -> Prediction:
        """Return the prediction, made together with others of the same coalescing key."""
        member = _Task(call, time.monotonic() + timeout_s)
        group = self._groups.join(key, member)
        if len(group.members) == 1:
            leading = asyncio.create_task(self._lead(group))
            self._leading.add(leading)  # the event loop holds only weak references
            leading.add_done_callback(self._leading.discard)
        if len(group.members) == MAX_MEMBERS:
            group.members[0].is_full.set()
        try:
            # Not wait_for: it can lose a cancellation that comes together with the result.
            await asyncio.wait({member.outcome}, timeout=timeout_s)
        finally:
            member.outcome.cancel()  # no effect on a future that is done
        if member.outcome.cancelled():
            raise _too_late(call)
        outcome = member.outcome.result()
        if outcome is None:
            return await self._predict(call, _left_s(call, member.deadline))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _lead(self, group: Group[_Task]) -> None:
        try:
            await asyncio.wait_for(group.members[0].is_full.wait(), self._gather_s)
        except asyncio.TimeoutError:
            pass
        finally:
            self._groups.close(group)
        # Members that were cancelled or timed out are left out.
        members = [member for member in group.members if not member.outcome.done()]
        shares: list[Prediction | Exception | None] = [None] * len(members)
        try:
            if len(members) > 1:
                outcome: Prediction | Exception
                try:
                    first = min(members, key=lambda member: member.deadline)
                    left_s = _left_s(first.call, first.deadline)
                    together = merge([member.call for member in members])
                    outcome = await self._predict(together, left_s)
                except Exception as error:
                    outcome = error
                shares = split(outcome, [rows_of(member.call) for member in members])
        finally:
            for member, share in zip(members, shares, strict=True):
                if not member.outcome.done():
                    member.outcome.set_result(share)


def _left_s(call: PredictCall, deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise _too_late(call)
    return left_s


def _too_late(call: PredictCall) -> DeadlineExceeded:
    return DeadlineExceeded(f"{call.target}: the timeout passed before the answer was there")

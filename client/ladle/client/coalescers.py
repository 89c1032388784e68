"""Gathers concurrent predictions into one request, among threads and among tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from threading import Lock

from ladle.client.coalescing import MAX_MEMBERS, Gathering, Group, merge, rows_of, settle
from ladle.client.errors import DeadlineExceeded
from ladle.client.flows import Wanted
from ladle.client.prediction import Prediction


class _Member:
    """A thread that waits for its rows."""

    def __init__(self, wanted: Wanted, deadline: float) -> None:
        self.wanted, self.deadline = wanted, deadline
        self.outcome: Prediction | Exception | None = None
        # Held until there is something to do: cheaper to make and to wake than an Event.
        self.awake = Lock()
        self.awake.acquire()


class Coalescer:
    """Lets the first thread of a group wait a little for others, and ask for all of them.

    `predict` makes a prediction with a timeout in seconds. Thread-safe.
    """

    def __init__(self, predict: Callable[[Wanted, float], Prediction], gather_s: float) -> None:
        self._predict = predict
        self._gather_s = gather_s
        self._gathering: Gathering[_Member] = Gathering()
        self._lock = Lock()

    def predict(self, wanted: Wanted, key: Hashable, timeout_s: float) -> Prediction:
        """Return the prediction, made together with others of the mould `key`."""
        member = _Member(wanted, time.monotonic() + timeout_s)
        with self._lock:
            group = self._gathering.join(key, member)
            place = len(group.members)
        if place == 1:
            self._lead(group, member)
        else:
            if place == MAX_MEMBERS:
                group.members[0].awake.release()
            if not member.awake.acquire(timeout=timeout_s):
                raise _too_late(wanted)
        if member.outcome is None:
            return self._predict(wanted, _left_s(wanted, member.deadline))
        if isinstance(member.outcome, Exception):
            raise member.outcome
        return member.outcome

    def _lead(self, group: Group[_Member], leader: _Member) -> None:
        """Gather, ask, and give everybody their part; whatever happens, nobody waits any more."""
        try:
            left_s = leader.deadline - time.monotonic()
            leader.awake.acquire(timeout=max(0.0, min(self._gather_s, left_s)))
        finally:
            with self._lock:
                self._gathering.close(group)
        members = group.members
        try:
            if len(members) == 1:
                return
            outcome: Prediction | Exception
            try:
                first = min(members, key=lambda member: member.deadline)
                left_s = _left_s(first.wanted, first.deadline)
                outcome = self._predict(merge([member.wanted for member in members]), left_s)
            except Exception as error:
                outcome = error
            rows = [rows_of(member.wanted) for member in members]
            for member, share in zip(members, settle(outcome, rows), strict=True):
                member.outcome = share
        finally:
            for member in members[1:]:
                member.awake.release()


class _Task:
    """A task that waits for its rows."""

    def __init__(self, wanted: Wanted, deadline: float) -> None:
        self.wanted, self.deadline = wanted, deadline
        self.outcome: asyncio.Future[Prediction | Exception | None] = asyncio.Future()
        self.is_full = asyncio.Event()
        """Set for the first of a group that takes nobody any more."""


class AsyncCoalescer:
    """Gathers the predictions of tasks for a little while, and asks for all of them.

    `predict` makes a prediction with a timeout in seconds. Belongs to one event loop.
    """

    def __init__(
        self, predict: Callable[[Wanted, float], Awaitable[Prediction]], gather_s: float
    ) -> None:
        self._predict = predict
        self._gather_s = gather_s
        self._gathering: Gathering[_Task] = Gathering()
        self._leading: set[asyncio.Task[None]] = set()

    async def predict(self, wanted: Wanted, key: Hashable, timeout_s: float) -> Prediction:
        """Return the prediction, made together with others of the mould `key`."""
        member = _Task(wanted, time.monotonic() + timeout_s)
        group = self._gathering.join(key, member)
        if len(group.members) == 1:
            leading = asyncio.create_task(self._lead(group))
            self._leading.add(leading)  # an event loop holds its tasks but weakly
            leading.add_done_callback(self._leading.discard)
        if len(group.members) == MAX_MEMBERS:
            group.members[0].is_full.set()
        try:
            # wait_for would take a cancellation for nothing where the outcome comes with it.
            await asyncio.wait({member.outcome}, timeout=timeout_s)
        finally:
            member.outcome.cancel()  # does nothing where it is there
        if member.outcome.cancelled():
            raise _too_late(wanted)
        outcome = member.outcome.result()
        if outcome is None:
            return await self._predict(wanted, _left_s(wanted, member.deadline))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _lead(self, group: Group[_Task]) -> None:
        try:
            await asyncio.wait_for(group.members[0].is_full.wait(), self._gather_s)
        except asyncio.TimeoutError:
            pass
        finally:
            self._gathering.close(group)
        # Who has been cancelled meanwhile, or came too late, is not asked for.
        members = [member for member in group.members if not member.outcome.done()]
        shares: list[Prediction | Exception | None] = [None] * len(members)
        try:
            if len(members) > 1:
                outcome: Prediction | Exception
                try:
                    first = min(members, key=lambda member: member.deadline)
                    left_s = _left_s(first.wanted, first.deadline)
                    together = merge([member.wanted for member in members])
                    outcome = await self._predict(together, left_s)
                except Exception as error:
                    outcome = error
                shares = settle(outcome, [rows_of(member.wanted) for member in members])
        finally:
            for member, share in zip(members, shares, strict=True):
                if not member.outcome.done():
                    member.outcome.set_result(share)


def _left_s(wanted: Wanted, deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise _too_late(wanted)
    return left_s


def _too_late(wanted: Wanted) -> DeadlineExceeded:
    return DeadlineExceeded(f"{wanted.asked}: the timeout passed before the answer was there")

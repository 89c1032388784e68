"""Requests that are alike: they wait as one task, and each ends as it would have ended alone.

Hold the batcher's lock to change a task or a slice, as for those of single requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ladle.server.core.batching.queue import Task, TaskSlice
from ladle.server.core.batching.rows import Outputs
from ladle.server.core.observation import Observation
from ladle.server.core.servable import Afterwards, Alike, Arrays


class GroupTask(Task):
    """Several requests that are alike. They are cut between requests only.

    It has no deadline: a member leaves when its own has passed.
    """

    __slots__ = ("_each_nbytes", "_leave", "_unfinished", "alike", "members", "rows_of_each")

    def __init__(
        self, alike: Alike, rows: int, nbytes: int, leave: Callable[[GroupTask, int], None]
    ) -> None:
        """Take the requests.

        Args:
            alike: the requests.
            rows: how many rows each has.
            nbytes: the bytes of the inputs of each.
            leave: is called when a member leaves.
        """
        count = len(alike)
        super().__init__({}, rows * count, None, _not_one, _not_cancelled, alike.observation, rows)
        self.alike = alike
        self.members = list(range(count))
        """Those that wait, in their order."""
        self.rows_of_each = rows
        self.nbytes = nbytes * count
        self._each_nbytes = nbytes
        self._unfinished = count
        self._leave = leave

    @property
    def requests(self) -> int:  # type: ignore[override]
        """How many requests wait in it."""
        return len(self.members)

    @property
    def is_cut(self) -> bool:
        """False: rows of a request that run leave none behind."""
        return False

    def take(self, rows: int) -> GroupSlice:
        """Return the first members that wait, which run from now on."""
        count = rows // self.rows_of_each
        part = GroupSlice(self, self.members[:count])
        self._keep(self.members[count:])
        return part

    def leave(self, member: int) -> None:
        """Say that nobody waits for a member any more; without effect once it runs.

        The lock must not be held.
        """
        self._leave(self, member)

    def member_left(self, member: int) -> bool:
        """Take a member out, if it waits; returns whether it was the last that waited or ran."""
        if member not in self.members:
            return False
        rest = [each for each in self.members if each != member]
        if rest:
            assert self.queue is not None  # or it would not wait
            self.queue.change(self, lambda: self._keep(rest))
        else:
            self.end()
            self.members = rest
        return self.finish(1)

    def finish(self, count: int) -> bool:
        """Count members out that have run or left; returns whether they were the last."""
        self._unfinished -= count
        return not self._unfinished

    def _keep(self, members: list[int]) -> None:
        self.members = members
        self.rows = len(members) * self.rows_of_each
        self.nbytes = len(members) * self._each_nbytes


class GroupSlice(TaskSlice):
    """Requests that are alike, and run in one batch."""

    __slots__ = ("_count", "members", "observation")

    task: GroupTask

    def __init__(self, task: GroupTask, members: list[int]) -> None:
        self.task = task
        self.start = 0
        self.observation: Observation = task.alike.observation.part()
        """Of these alone."""
        self._count = len(members)
        self._keep(members)

    def _keep(self, members: list[int]) -> None:
        self.members = members
        self.rows = len(members) * self.task.rows_of_each

    @property
    def requests(self) -> int:  # type: ignore[override]
        """How many requests the rows are of."""
        return len(self.members)

    @property
    def inputs(self) -> Arrays:  # type: ignore[override]
        """The rows of all of them, gathered anew each time."""
        return self.task.alike.inputs(self.members)

    @property
    def is_whole(self) -> bool:
        """True: no request in it was cut."""
        return True

    def whole(self) -> TaskSlice:
        """Return the slice itself."""
        return self

    @property
    def observations(self) -> list[Observation]:
        """The one observation, once for each request."""
        return [self.observation] * len(self.members)

    def in_parts(self, most: int) -> Sequence[TaskSlice]:
        """Return its requests in slices of so many at most."""
        members = self.members
        if len(members) <= most:
            return (self,)
        return [
            GroupSlice(self.task, members[first : first + most])
            for first in range(0, len(members), most)
        ]

    def samples(self, outputs: Outputs, most: int) -> Iterator[tuple[Arrays, Outputs, int, int]]:
        """Yield some requests that callers wait for, as TaskSlice does."""
        rows = self.task.rows_of_each
        for place, member in enumerate(self.members[:most]):
            inputs = self.task.alike.inputs([member])
            if not self.task.alike.waiting([member]):
                continue  # the inputs may have gone with the caller, before they were read
            own = {alias: a[place * rows : (place + 1) * rows] for alias, a in outputs.items()}
            yield inputs, own, rows, sum([array.nbytes for array in inputs.values()])

    def drop_who_left(self) -> bool:
        """Leave out whose callers have gone; returns whether any is left. Needs no lock."""
        self._keep(self.task.alike.waiting(self.members))
        return bool(self.members)

    @property
    def unwanted_rows(self) -> int:
        """How many rows have run for callers who have gone meanwhile."""
        gone = len(self.members) - len(self.task.alike.waiting(self.members))
        return gone * self.task.rows_of_each

    def ended(self) -> bool:
        """Count out all that it was taken with; returns whether nothing of the task is left."""
        return self.task.finish(self._count)

    def deliver(self, outcome: Outputs | Exception) -> None:
        """Give the members their outcome. The lock must not be held."""
        self.task.alike.done(self.members, outcome, self.observation)


def _not_one(_outcome: Outputs | Exception) -> Afterwards:
    raise AssertionError("a group has no outcome of its own: its slices have")


def _not_cancelled(_task: Task) -> None:
    raise AssertionError("a group is not cancelled: its members leave")

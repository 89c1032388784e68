"""Requests that wait for a batch, their queues, and how much may wait. One lock guards them.

Hold that lock to change a task or a queue, unless a docstring says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ladle.server.core.batching.plan import (
    BatchOptions,
    Priority,
    RunNow,
    WaitUntil,
    decide,
    in_turn,
    rank,
)
from ladle.server.core.batching.rows import Outputs
from ladle.server.core.errors import Unavailable
from ladle.server.core.observation import Observation
from ladle.server.core.servable import Arrays, Done, Signature

# For what can't be batched, and for a servable that is not to batch.
_ALONE = BatchOptions(max_batch_size=1, num_batch_threads=1 << 30)
_DEFAULTS = BatchOptions()
# A hint for a caller that was refused; what a batch takes is known only roughly.
_MAX_RETRY_AFTER_S = 10.0


class Task:
    """One request. It ends exactly once: with outputs, with an error, or by `cancel`."""

    __slots__ = (
        "_cancel",
        "arrived",
        "deadline",
        "done",
        "finished",
        "finished_rows",
        "inputs",
        "nbytes",
        "observation",
        "over",
        "priority",
        "queue",
        "rows",
        "size",
        "total",
        "uneven",
    )

    def __init__(
        self,
        inputs: Arrays,
        total: int,
        deadline: float | None,
        done: Done,
        cancel: Callable[[Task], None],
        observation: Observation | None = None,
        size: int | None = None,
    ) -> None:
        self.inputs = inputs
        self.total = total
        """How many rows it has; one, as the place that it takes, if it runs alone."""
        self.size = total if size is None else size
        """How many rows it has in any case."""
        self.rows = total
        """How many of them still wait: the last ones."""
        self.nbytes = sum([_nbytes(array) for array in inputs.values()])
        self.deadline = deadline
        self.done = done
        self.over = False
        self.arrived = 0.0
        self.queue: Queue | None = None
        self.finished_rows = 0
        self.finished: list[tuple[int, Outputs]] = []
        """What is there of a request that was cut: the first row, and the outputs from there."""
        self.observation = observation
        self.priority = Priority.NORMAL if observation is None else observation.priority
        self.uneven = ""
        """How the rows of its inputs differ; empty where they don't."""
        self._cancel = cancel

    rows_of_each = 0
    """How many rows each of several requests has that wait as one; 0 for a single request."""
    requests = 1
    """How many requests wait in it."""

    @property
    def is_cut(self) -> bool:
        """Whether some of its rows have run already, or run now."""
        return self.rows < self.total

    def take(self, rows: int) -> TaskSlice:
        """Return the first rows that wait, which run from now on; its queue counts them out."""
        part = TaskSlice(self, rows)
        if rows < self.rows:
            self.rows -= rows
        return part

    def end(self) -> Queue | None:
        """Take it out of its queue for good, and return that; None if it was over already."""
        if self.over or self.queue is None:
            return None
        self.over = True
        self.queue.remove(self)
        return self.queue

    def cancel(self) -> None:
        """Say that nobody waits for it any more; without effect once it is over.

        The lock must not be held.
        """
        self._cancel(self)


class TaskSlice:
    """The rows of a task that run in one batch: nearly always all of them."""

    __slots__ = ("inputs", "rows", "start", "task")

    def __init__(self, task: Task, rows: int, start: int | None = None) -> None:
        """`start`: the first of the rows; by default the first that waits."""
        self.task = task
        self.start = task.total - task.rows if start is None else start
        self.rows = rows
        whole = rows == task.total
        stop = self.start + rows
        self.inputs = (
            task.inputs
            if whole
            else {alias: array[self.start : stop] for alias, array in task.inputs.items()}
        )

    requests = 1
    """How many requests the rows are of."""

    @property
    def is_whole(self) -> bool:
        """Whether no request in it was cut."""
        return self.rows == self.task.total

    def whole(self) -> TaskSlice:
        """Return all rows of the request, whatever of them still waits."""
        return TaskSlice(self.task, self.task.total, 0)

    @property
    def observations(self) -> list[Observation]:
        """One for each request in it; none where nobody observes."""
        observation = self.task.observation
        return [] if observation is None else [observation]

    def in_parts(self, most: int) -> Sequence[TaskSlice]:
        """Return its requests in slices of so many at most."""
        return (self,)

    def samples(self, outputs: Outputs, most: int) -> Iterator[tuple[Arrays, Outputs, int, int]]:
        """Yield some requests with their inputs, outputs, rows, and bytes of inputs."""
        if self.is_whole:
            yield self.task.inputs, outputs, self.task.size, self.task.nbytes


@dataclass
class QueueDepth:
    """What waits and what runs of one servable."""

    requests: int = 0
    """Requests in its queues."""
    rows: int = 0
    """Their rows."""
    nbytes: int = 0
    """The bytes of their inputs."""
    running: int = 0
    """Batches that run."""
    ranked: int = 0
    """Requests in its queues whose priority is not the usual one."""


class QueueCapacity:
    """What is left of the places and bytes in a version's queues.

    Thread-safe: `check` reads the depth with or without the batcher's lock. Without it the figures
    may be a request old.
    """

    def __init__(self, depth: QueueDepth, max_bytes: int) -> None:
        """`depth` is what waits; `max_bytes` of inputs may."""
        self._depth = depth
        self._max_bytes = max_bytes
        self._batch_s = 0.0

    def batch_took(self, seconds: float) -> None:
        """Take note of how long a batch ran."""
        self._batch_s = 0.8 * self._batch_s + 0.2 * seconds

    def has_room(
        self, rows: int, nbytes: int, options: BatchOptions, priority: Priority = Priority.NORMAL
    ) -> bool:
        """Whether so much more can wait, whatever the requests are that it comes in."""
        depth = self._depth
        room, max_bytes = self._room(options, priority)
        return depth.rows + rows <= room and depth.nbytes + nbytes <= max_bytes

    def _room(self, options: BatchOptions, priority: Priority) -> tuple[int, int]:
        """Return how many rows and bytes may wait for a request to be let in."""
        room = options.max_batch_size * options.max_enqueued_batches
        if priority is Priority.LOW:
            return max(options.max_batch_size, room // 2), self._max_bytes // 2
        return room, self._max_bytes

    def check(
        self,
        rows: int,
        nbytes: int,
        options: BatchOptions | None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Refuse a request that would have to wait in a queue that is full.

        To one of low priority it is full when it is half full: the rest is kept for others.

        Raises:
            Unavailable: So many rows or bytes would be too many.
        """
        depth = self._depth
        if not depth.requests:
            return
        options = options or _DEFAULTS
        room, max_bytes = self._room(options, priority)
        if depth.rows + rows > room:
            excess = f"{depth.rows} rows wait of at most {room}, and the request brings {rows}"
        elif depth.nbytes + nbytes > max_bytes:
            excess = (
                f"{depth.nbytes} bytes wait of at most {max_bytes}, and the request brings {nbytes}"
            )
        else:
            return
        # These words are what scripts around upstream look for.
        error = Unavailable(
            "The batch scheduling queue to which this task was submitted is full: "
            f"{excess}; try again later"
        )
        error.reason = "queue_full"
        batches = 1 + depth.rows / options.max_batch_size
        error.retry_after_s = min(batches * self._batch_s, _MAX_RETRY_AFTER_S)
        raise error


class QueueKey(NamedTuple):
    """What requests have in common that share a queue."""

    signature: str
    """The name of what is run."""
    outputs: tuple[str, ...]
    """Which of its outputs are wanted."""
    alone: bool
    """Whether each request runs by itself."""
    on_trial: bool
    """Whether requests run once more in a batch, to compare the answers."""
    pads: bool
    """Whether requests of different shapes meet here."""
    shapes: Hashable
    """The inputs' shapes beyond the rows; of requests that are padded, only their ranks."""


class Queue:
    """What waits and runs for one signature, set of outputs, and shape."""

    def __init__(
        self, key: QueueKey, signature: Signature, depth: QueueDepth, aging_s: float = 5.0
    ) -> None:
        """Make an empty queue.

        Args:
            key: what shares the queue, and runs together.
            signature: what is run.
            depth: the servable's, which counts the queue in.
            aging_s: after so long a request counts as one priority higher.
        """
        self.key = key
        self.signature = signature
        self.running = 0
        # In order of arrival; a dict, so that any of them can be taken out at once.
        self.waiting: dict[Task, None] = {}
        self._earliest = math.inf  # no task that waits has an earlier deadline
        self._depth = depth
        self._aging_s = aging_s
        # The same by priority, while any has another than the usual one.
        self._ranked: tuple[dict[Task, None], ...] | None = None

    def options(self, options: BatchOptions | None) -> BatchOptions:
        """Return how its batches form, given how the servable's do."""
        return _ALONE if self.key.alone or options is None else options

    def enqueue(self, task: Task, now: float) -> None:
        """Put a task at the end."""
        task.arrived = now
        task.queue = self
        self.waiting[task] = None
        if task.deadline is not None and task.deadline < self._earliest:
            self._earliest = task.deadline
        self._count_in(task)
        if self._ranked is not None or task.priority is not Priority.NORMAL:
            self._rank(task)

    def _rank(self, task: Task) -> None:
        """Sort a task that has joined the queue; if it is the first to be sorted, all of them."""
        if self._ranked is None:
            self._ranked = ({}, {}, {})
            for other in self.waiting:
                self._ranked[other.priority][other] = None
        self._ranked[task.priority][task] = None
        self._depth.ranked += task.priority is not Priority.NORMAL

    def best_rank(self, now: float) -> int:
        """Return the highest priority that a task here counts as."""
        heads = [next(iter(tasks), None) for tasks in self._ranked or (self.waiting,)]
        return min(
            (rank(t.priority, t.arrived, now, self._aging_s) for t in heads if t is not None),
            default=Priority.LOW,
        )

    def remove(self, task: Task) -> None:
        """Take a task out, if it waits here."""
        if task in self.waiting:
            del self.waiting[task]
            self._count_out(task)
            if self._ranked is not None:
                del self._ranked[task.priority][task]
                self._depth.ranked -= task.priority is not Priority.NORMAL
                if not self._ranked[Priority.HIGH] and not self._ranked[Priority.LOW]:
                    self._ranked = None

    def change(self, task: Task, change: Callable[[], None]) -> None:
        """Have `change` change what waits of a task that waits here."""
        self._count_out(task)
        change()
        self._count_in(task)

    def _count_in(self, task: Task) -> None:
        depth = self._depth
        depth.requests += task.requests
        depth.rows += task.rows
        depth.nbytes += task.nbytes

    def _count_out(self, task: Task) -> None:
        depth = self._depth
        depth.requests -= task.requests
        depth.rows -= task.rows
        depth.nbytes -= task.nbytes

    def expired(self, now: float) -> list[Task]:
        """Return the tasks whose deadline has passed."""
        if now < self._earliest:
            return []  # there may be thousands, and each batch asks
        late = []
        self._earliest = math.inf
        for task in self.waiting:
            if task.deadline is not None:
                if task.deadline <= now:
                    late.append(task)
                else:
                    self._earliest = min(self._earliest, task.deadline)
        return late

    def next_batch(
        self, now: float, options: BatchOptions, most_rows: int | None = None
    ) -> list[TaskSlice] | WaitUntil | None:
        """Take out what `decide` says is to run now, or return its answer."""
        waiting: Iterable[Task] = self.waiting
        if self._ranked is not None:
            waiting = in_turn(self._ranked, now, self._aging_s)
        decision = decide(waiting, self.running, now, options, most_rows)
        if not isinstance(decision, RunNow):
            return decision
        parts = []
        for task in decision.batch[:-1]:
            self.remove(task)
            parts.append(task.take(task.rows))
        last, rows = decision.batch[-1], decision.last_rows
        if rows == last.rows:
            self.remove(last)
            parts.append(last.take(rows))
        else:
            self._count_out(last)
            parts.append(last.take(rows))
            self._count_in(last)
        self.running += 1
        self._depth.running += 1
        return parts

    def batch_ended(self) -> None:
        """Count out a batch that `next_batch` returned."""
        self.running -= 1
        self._depth.running -= 1


def _nbytes(array: NDArray[Any]) -> int:
    """Return what an array takes; of strings the array itself only points to them."""
    if not array.dtype.hasobject:
        return array.nbytes
    return array.nbytes + sum(map(len, array.ravel().tolist()))

"""How batches form: what may be asked for, and the decision, a pure function of a snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from heapq import merge
from typing import Generic, Protocol, TypeVar


class Priority(IntEnum):
    """How urgent a request is; the smaller the number the sooner it runs."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """The parameters of upstream's BatchingParameters, in rows. Rows are counted, not requests.

    Raises:
        ValueError: A value is out of its range, or two contradict each other.
    """

    max_batch_size: int = 1000
    """Rows in a batch at most."""
    batch_timeout_s: float = 0.0
    """How long the first request of a batch waits for company while nothing runs."""
    max_enqueued_batches: int = 10
    """How many full batches may wait, in all queues of a version together; past that requests get
    UNAVAILABLE."""
    num_batch_threads: int = 1
    """How many batches of one queue may run at the same time."""
    allowed_batch_sizes: tuple[int, ...] = ()
    """The only sizes that run, ascending: a smaller batch is padded up to one. Empty = any."""
    pad_variable_length_inputs: bool = False
    """Run different shapes together, padded to the largest."""
    enable_large_batch_splitting: bool = False
    """Cut requests into pieces that fill batches."""
    max_execution_batch_size: int | None = None
    """Rows in a batch at most when requests are cut; None = max_batch_size."""
    refuse_larger: bool = False
    """Refuse a request of more than max_batch_size rows, as upstream does, instead of running
    it alone."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if not self.batch_timeout_s >= 0:
            raise ValueError(f"batch_timeout_s: expected 0 or more, got {self.batch_timeout_s}")
        most = self.max_execution_batch_size
        if most is not None and not 1 <= most <= self.max_batch_size:
            raise ValueError(
                f"max_execution_batch_size: expected 1 to max_batch_size, which is "
                f"{self.max_batch_size}, got {most}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and (
            list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != self.max_batch_size
        ):
            raise ValueError(
                "allowed_batch_sizes: expected ascending sizes, the last of them max_batch_size, "
                f"which is {self.max_batch_size}, got {list(sizes)}"
            )

    @property
    def rows_in_a_batch(self) -> int:
        """Rows in a batch at most; only a request that may run uncut has more."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded(self, rows: int) -> int:
        """Return how many rows are run for a batch of so many."""
        for size in self.allowed_batch_sizes:
            if size >= rows:
                return size
        return rows


class Waiting(Protocol):
    """What the decision needs to know of a request in a queue, or of several that are alike."""

    @property
    def rows(self) -> int:
        """How many of its rows wait."""

    @property
    def arrived(self) -> float:
        """When it joined the queue."""

    @property
    def is_cut(self) -> bool:
        """Whether some of its rows have run already."""

    @property
    def rows_of_each(self) -> int:
        """How many rows each of several requests has that wait as one; 0 for a single request."""


class Ranked(Waiting, Protocol):
    """What the order of priorities needs to know beside that."""

    @property
    def priority(self) -> Priority:
        """How urgent its caller calls it."""


T = TypeVar("T", bound=Waiting)
R = TypeVar("R", bound=Ranked)


@dataclass(frozen=True)
class RunNow(Generic[T]):
    """Run these together, `last_rows` of the last one's rows and all of the others'."""

    batch: list[T]
    last_rows: int


@dataclass(frozen=True)
class WaitUntil:
    """Nothing is to be done before this time, unless more comes."""

    time: float


def rank(priority: Priority, arrived: float, now: float, aging_s: float) -> int:
    """Return the priority that a request counts as: one step higher after each `aging_s` seconds.

    So none waits for ever, however many others are more urgent.
    """
    return max(Priority.HIGH, priority - int((now - arrived) / aging_s))


def in_turn(waiting: Sequence[Collection[R]], now: float, aging_s: float) -> Iterable[R]:
    """Return the requests of a queue in the order in which they should run.

    They are sorted only as far as they are read.

    Args:
        waiting: the requests of each priority, in the order in which they came.
        now: the time on the clock of `arrived`.
        aging_s: after so long a request counts as one priority higher.
    """
    return merge(
        *waiting, key=lambda one: (rank(one.priority, one.arrived, now, aging_s), one.arrived)
    )


def decide(
    waiting: Iterable[T],
    running: int,
    now: float,
    options: BatchOptions,
    most_rows: int | None = None,
) -> RunNow[T] | WaitUntil | None:
    """Return what a queue should do next; None: nothing, until something comes or ends.

    Args:
        waiting: the requests in the queue, in the order in which they should run; all are still
            wanted.
        running: how many of the queue's batches run.
        now: the time on the clock of `arrived`.
        options: how batches form.
        most_rows: rows in a batch at most, whatever the options allow; None adds no bound. A
            request of more rows still runs by itself.
    """
    if running >= options.num_batch_threads:
        return None
    most = options.rows_in_a_batch
    if most_rows is not None:
        most = min(most, most_rows)
    batch: list[T] = []
    total = 0
    for task in waiting:
        rows = task.rows
        if total + rows > most:
            if each := task.rows_of_each:
                # As many requests as there is room for; the first of all runs in any case.
                if fitting := (most - total) // each * each or (0 if batch else each):
                    return RunNow([*batch, task], fitting)
            # What has begun in pieces ends in pieces, whatever the options have become since.
            elif (options.enable_large_batch_splitting or task.is_cut) and total < most:
                return RunNow([*batch, task], most - total)
            return RunNow(batch or [task], batch[-1].rows if batch else rows)
        batch.append(task)
        total += rows
    if not batch:
        return None
    if total < most and options.batch_timeout_s:
        due = min([task.arrived for task in batch]) + options.batch_timeout_s
        if now < due:
            return WaitUntil(due)
    return RunNow(batch, batch[-1].rows)

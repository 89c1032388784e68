"""Batches: rows of many callers, run together, each caller getting exactly its own back.

Greedy: a caller that finds its queue idle runs at once, and whoever comes meanwhile waits and
makes the next batch, so nobody waits for a timer. There are no batching threads: the first of
the waiting callers leads, that is, it runs the batch for all of them in its own thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import Code, DeadlineExceeded, ServingError, Unavailable
from ladle.server.core.servable import Arrays, Servable, Signature

Outputs: TypeAlias = "dict[str, NDArray[Any]]"
_Key: TypeAlias = "tuple[str, tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]"


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How batches form. Rows are counted, not requests."""

    max_batch_size: int = 1000
    """Rows in a batch at most; a single request with more of them runs alone."""
    max_enqueued_batches: int = 10
    """How many full batches may wait in one queue; past that requests get UNAVAILABLE."""
    num_batch_threads: int = 1
    """How many batches of one queue may run at the same time."""

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, got {getattr(self, name)}")


class Waiting(Protocol):
    """What the plan needs to know of a request in the queue."""

    rows: int
    deadline: float | None


T = TypeVar("T", bound=Waiting)


def plan(waiting: Iterable[T], now: float, max_batch_size: int) -> tuple[list[T], list[T]]:
    """Return the requests that run together next, and those before them that expired waiting.

    Both leave the queue, from its head and in its order; a single request always fits.
    """
    batch: list[T] = []
    expired: list[T] = []
    total = 0
    for task in waiting:
        if task.deadline is not None and task.deadline <= now:
            expired.append(task)
            continue
        if batch and total + task.rows > max_batch_size:
            break
        batch.append(task)
        total += task.rows
    return batch, expired


class BatchingServable:
    """A servable whose requests run together where that is possible. Thread-safe.

    There is a queue for each signature, set of outputs, and shape beyond the rows; it lives only
    while something runs or waits in it, so that hostile shapes leave nothing behind.
    """

    def __init__(
        self, servable: Servable, options: BatchOptions, clock: Clock | None = None
    ) -> None:
        self._servable = servable
        self._options = options
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._queues: dict[_Key, _Queue] = {}
        self.signatures = servable.signatures
        self.signature_defs = servable.signature_defs
        self.card_json = servable.card_json
        self.close = servable.close

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> Outputs:
        """Return the named outputs for these inputs; blocks until they are there.

        Args:
            signature: what to run.
            inputs: an array for each of the signature's inputs, of the dtype declared.
            outputs: aliases of the outputs wanted.
            deadline: the clock's reading at which the caller stops waiting; None = never.

        Raises:
            DeadlineExceeded: The deadline passed; if it did so in the queue, nothing was run.
            Unavailable: The queue is full.
            ServingError: The model refused these inputs.
        """
        rows = _batchable_rows(signature, inputs)
        if rows is None or rows >= self._options.max_batch_size:
            return self._servable.run(signature, inputs, outputs)
        task = _Task(inputs, rows, deadline)
        key = (signature.name, outputs, tuple((a, x.shape[1:]) for a, x in inputs.items()))
        with self._lock:
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = _Queue(signature, outputs)
            batch = self._join(queue, task)
        if batch is None:
            batch = self._wait(queue, task)
        if batch is not None:
            self._lead(key, queue, batch)
        if task.error is not None:
            raise task.error
        assert task.outputs is not None
        return task.outputs

    def _join(self, queue: _Queue, task: _Task) -> list[_Task] | None:
        """Return the batch that the task leads at once, or enqueue it and return None."""
        if queue.running < self._options.num_batch_threads:
            queue.running += 1
            return [task]
        room = self._options.max_batch_size * self._options.max_enqueued_batches
        if queue.waiting_rows + task.rows > room:
            raise Unavailable(
                f"The batch scheduling queue of signature {queue.signature.name!r} is full: "
                f"{queue.waiting_rows} rows wait of at most {room}, and the request brings "
                f"{task.rows}; try again later"
            )
        queue.waiting.append(task)
        queue.waiting_rows += task.rows
        return None

    def _wait(self, queue: _Queue, task: _Task) -> list[_Task] | None:
        """Wait for the task's result, or for the batch that it is to lead."""
        timeout_s = -1.0  # a lock's way to say for ever
        if task.deadline is not None:
            timeout_s = min(max(0.0, task.deadline - self._clock.now()), threading.TIMEOUT_MAX)
        if task.gate.acquire(timeout=timeout_s):
            return task.leads
        with self._lock:
            if task in queue.waiting:
                queue.waiting.remove(task)
                queue.waiting_rows -= task.rows
            elif task.leads is not None:
                # Chosen a moment ago: the others in that batch count on it.
                return task.leads
        raise DeadlineExceeded("the deadline passed while the request waited for its batch")

    def _lead(self, key: _Key, queue: _Queue, batch: list[_Task]) -> None:
        try:
            self._execute(queue, batch)
        finally:
            # The next batch starts before this one's callers are woken: the model never idles.
            self._hand_over(key, queue)
            for follower in batch[1:]:
                follower.gate.release()

    def _hand_over(self, key: _Key, queue: _Queue) -> None:
        with self._lock:
            batch, expired = plan(queue.waiting, self._clock.now(), self._options.max_batch_size)
            for _ in range(len(batch) + len(expired)):
                queue.waiting_rows -= queue.waiting.popleft().rows
            if batch:
                batch[0].leads = batch
            else:
                queue.running -= 1
                if not queue.running:
                    del self._queues[key]
        if batch:
            batch[0].gate.release()
        for task in expired:
            task.error = DeadlineExceeded("the deadline passed while the request waited")
            task.gate.release()

    def _execute(self, queue: _Queue, batch: list[_Task]) -> None:
        """Give every task of the batch its outputs or its error; never raises."""
        if len(batch) == 1:
            self._execute_alone(queue, batch[0])
            return
        try:
            results = self._servable.run(
                queue.signature,
                {
                    alias: np.concatenate([task.inputs[alias] for task in batch])
                    for alias in batch[0].inputs
                },
                queue.outputs,
            )
            _hand_out(batch, results)
        except Exception:
            # One of them may be to blame: alone, each gets what it would have got alone.
            for task in batch:
                self._execute_alone(queue, task)

    def _execute_alone(self, queue: _Queue, task: _Task) -> None:
        try:
            task.outputs = self._servable.run(queue.signature, task.inputs, queue.outputs)
        except Exception as error:
            task.error = error


class _Task:
    """One request on its way through a queue.

    `gate` opens once: when the result is there, or when the task is to lead its batch.
    """

    __slots__ = ("deadline", "error", "gate", "inputs", "leads", "outputs", "rows")

    def __init__(self, inputs: Arrays, rows: int, deadline: float | None) -> None:
        self.inputs = inputs
        self.rows = rows
        self.deadline = deadline
        self.leads: list[_Task] | None = None
        self.outputs: Outputs | None = None
        self.error: Exception | None = None
        # A bare lock is the cheapest thing in Python that a thread can wait for.
        self.gate = threading.Lock()
        self.gate.acquire()


class _Queue:
    """What runs and what waits for one key; changed under the batcher's lock."""

    __slots__ = ("outputs", "running", "signature", "waiting", "waiting_rows")

    def __init__(self, signature: Signature, outputs: tuple[str, ...]) -> None:
        self.signature = signature
        self.outputs = outputs
        self.running = 0
        self.waiting: deque[_Task] = deque()
        self.waiting_rows = 0


def _batchable_rows(signature: Signature, inputs: Arrays) -> int | None:
    """Return how many rows the inputs share; None where they can't be batched with others'."""
    if not signature.batchable:
        return None
    rows: int | None = None
    for alias, array in inputs.items():
        # What contradicts the signature runs alone: the model may take it, as upstream lets it.
        if not signature.inputs[alias].admits(array.shape):
            return None
        if rows is not None and array.shape[0] != rows:
            return None
        rows = array.shape[0]
    return rows or None


def _hand_out(batch: list[_Task], results: Outputs) -> None:
    total = sum(task.rows for task in batch)
    for alias, array in results.items():
        if not array.ndim or array.shape[0] != total:
            raise ServingError(
                f"output {alias!r}: expected {total} rows for a batch of as many, "
                f"got shape {list(array.shape)}",
                Code.FAILED_PRECONDITION,
            )
    start = 0
    for task in batch:
        stop = start + task.rows
        task.outputs = {alias: array[start:stop] for alias, array in results.items()}
        start = stop

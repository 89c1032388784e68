"""Batches: rows of many callers, run together, each caller getting exactly its own back.

Greedy by default: an idle model runs what has come at once, and whatever comes meanwhile makes the
next batch, so nobody waits for a timer. A request waits without a thread; each version has a few
threads of its own that run its batches, so no model waits for another's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

from ladle.server.core.batching.capacity import QueueCapacity
from ladle.server.core.batching.outcomes import (
    complete,
    deliver,
    reassemble,
    run_callbacks,
)
from ladle.server.core.batching.plan import BatchOptions, WaitUntil
from ladle.server.core.batching.queue import Queue, QueueDepth, Task, TaskSlice
from ladle.server.core.batching.rows import Outputs, Padding, lone_rows, shared_rows, uneven_rows
from ladle.server.core.batching.run import LATE, BatchRun, Ended
from ladle.server.core.batching.trial import Sample, Trials
from ladle.server.core.batching.trust import Standing, Status, Trust
from ladle.server.core.batching.workers import Workers
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import Cancelled, DeadlineExceeded, InvalidArgument, Unavailable
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.servable import Arrays, Done, Model, Signature
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """What a thread finds to do."""

    callbacks: list[Callable[[], object]]
    expired: list[Task]
    queue: Queue | None
    parts: list[TaskSlice]
    """What runs as the next batch of `queue`."""


class BatchingServable:
    """A servable whose requests run together where that is possible. Thread-safe.

    There is a queue for each signature, set of outputs, and shape beyond the rows; it lives only
    while something runs or waits in it, so that hostile shapes leave nothing behind.
    """

    def __init__(
        self,
        model: Model,
        options: BatchOptions | None,
        clock: Clock | None = None,
        *,
        max_enqueued_bytes: int = 1 << 62,
        max_threads: int | None = None,
        observer: Observer | None = None,
        servable_id: ServableId | None = None,
        said_by: str = "the options of the batcher",
        vouched_signatures: Collection[str] = (),
    ) -> None:
        """Take over `model`.

        Args:
            model: what runs.
            options: how batches form; None = every request runs alone.
            clock: what tells the time.
            max_enqueued_bytes: bytes of inputs that may wait.
            max_threads: threads that run batches and single requests, at most; by default one
                for each CPU. Where more batches may run at a time there are as many.
            observer: hears of each run of the model.
            servable_id: what it hears that the model is.
            said_by: who vouches that rows of different callers may run together; where `options`
                is None, who says that they may not. Empty = nobody: each signature earns it.
            vouched_signatures: those for which the model card vouches.
        """
        self.signatures: Mapping[str, Signature] = model.signatures
        self.signature_defs = model.signature_defs
        self.card_json = model.card_json
        self.unwanted_rows = 0
        """Rows that were run for callers who had gone by then. Written with the lock held."""
        self._model = model
        # Replaced as a whole, with the lock held; read with or without it.
        self._options = options
        self._clock = clock or MonotonicClock()
        self._said_by = said_by
        self._trust = Trust(
            model.signatures, vouched_by=said_by if options else "", card=vouched_signatures
        )
        servable_id = servable_id or ServableId("", 0)
        self._run_batch = BatchRun(model, self._trust, self._clock.now, observer, servable_id)
        self._trials = Trials(model, self._trust, self._clock.now, servable_id)
        self._max_threads = max_threads or cpus()
        # The lock of both conditions guards all that follows, and what is in the queues.
        lock = threading.Lock()
        self._changed = threading.Condition(lock)
        """Notified when there is work, and when options change."""
        self._idle = threading.Condition(lock)
        """Notified when no queue is left."""
        self._queues: dict[Hashable, Queue] = {}
        self._callbacks: list[Callable[[], object]] = []
        self._depth = QueueDepth()
        self._capacity = QueueCapacity(self._depth, max_enqueued_bytes)
        self._padding = Padding()
        self._closing = False
        self._workers: Workers[Work] = Workers(self._changed, self._clock)

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
            InvalidArgument: More rows than a batch may have, where that is to be refused.
            Unavailable: The queue is full.
            ServingError: The model refused these inputs.
        """
        gate = threading.Lock()
        gate.acquire()
        outcomes: list[Outputs | Exception] = []

        def done(outcome: Outputs | Exception) -> None:
            outcomes.append(outcome)
            gate.release()

        task = self.submit(signature, inputs, outputs, done, deadline)
        timeout_s = -1.0  # a lock's way to say for ever
        if deadline is not None:
            timeout_s = min(max(0.0, deadline - self._clock.now()), threading.TIMEOUT_MAX)
        if not gate.acquire(timeout=timeout_s):
            task.cancel()
            raise DeadlineExceeded("the deadline passed before the request had run")
        outcome = outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        done: Done,
        deadline: float | None = None,
        seen: Observation | None = None,
    ) -> Task:
        """As `run`, but never blocks: `done` gets the outputs or the exception.

        It is called exactly once, from another thread or from `cancel`, and must not block. What
        becomes of the request on its way is noted in `seen`.

        Raises:
            InvalidArgument: More rows than a batch may have, where that is to be refused.
            Unavailable: The queue is full.
        """
        options = self._options
        rows = None
        standing = Standing.ALONE
        if options is not None:
            standing = self._trust.standing(signature, outputs)
        if options is not None and standing is not Standing.ALONE:
            rows = shared_rows(signature, inputs)
            if rows is not None and rows > options.max_batch_size and options.refuse_larger:
                raise InvalidArgument(
                    f"Task size {rows} is larger than maximum input batch size "
                    f"{options.max_batch_size}"
                )
        size = lone_rows(signature, inputs) if rows is None else rows
        alone = rows is None or standing is Standing.ON_TRIAL
        task = Task(inputs, 1 if alone else size, deadline, done, self._cancel, seen, size)
        if rows is None and standing in (Standing.ON_TRIAL, Standing.BATCHED):
            task.uneven = uneven_rows(signature, inputs)
        with self._changed:
            self._capacity.check(task.rows, task.nbytes, self._options)
            queue = self._queue(
                signature, inputs, outputs, alone=alone, on_trial=alone and rows is not None
            )
            queue.enqueue(task, self._clock.now())
            if seen is not None:
                seen.rows, seen.queued = size, task.arrived
            if queue.running < queue.options(self._options).num_batch_threads:
                try:
                    self._wake_a_thread()
                except RuntimeError as error:
                    task.end()
                    self._drop_if_idle(queue)
                    raise Unavailable(f"nothing can run the request: {error}; try again") from None
        return task

    def admit(self, nbytes: int) -> None:
        """Refuse at once what would find the queue full; cheap, for before it is decoded.

        Raises:
            Unavailable: There is no room for a request of so many bytes.
        """
        self._capacity.check(1, nbytes, self._options)

    def configure(
        self, options: BatchOptions | None, said_by: str = "the options of the batcher"
    ) -> None:
        """Form batches by other options from now on; what waits already is not refused.

        `said_by` is as for the constructor.
        """
        with self._changed:
            self._options = options
            self._said_by = said_by
            self._trust.vouched_by = said_by if options else ""
            self._changed.notify_all()

    @property
    def options(self) -> BatchOptions | None:
        """How batches form; None = every request runs alone."""
        return self._options

    @property
    def said_by(self) -> str:
        """Who vouches for batches, or forbids them; empty if nobody does."""
        return self._said_by

    @property
    def comparisons(self) -> int:
        """How many batches were compared with lone runs."""
        return self._trials.compared

    def standings(self) -> dict[str, Status]:
        """Return whether each signature runs in batches, and why, by name."""
        if self._options is None:
            off = Status(Standing.ALONE, self._said_by)
            return dict.fromkeys(self.signatures, off)
        return self._trust.status()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits, runs or is compared; False if the time is over before that.

        The time is real, whatever the clock.
        """
        with self._idle:
            if not self._idle.wait_for(lambda: not self._queues, timeout_s):
                return False
        return self._trials.wait(timeout_s)

    @property
    def queue_count(self) -> int:
        """How many queues something waits or runs in."""
        return len(self._queues)

    @property
    def depth(self) -> QueueDepth:
        """What waits and runs at this moment."""
        with self._changed:
            return dataclasses.replace(self._depth)

    def close(self) -> None:
        """Run what still waits, end the threads, and close the model; blocks."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._workers.join()
        self._trials.close()
        self._model.close()

    def next_work(self, now: float) -> tuple[Work | None, float | None]:
        """For the workers: return what is to be done now, or when that changes; as WorkSource."""
        callbacks, self._callbacks = self._callbacks, []
        expired: list[Task] = []
        until: float | None = None
        for queue in list(self._queues.values()):
            for task in queue.expired(now):
                task.end()
                expired.append(task)
            taken = queue.next_batch(now, queue.options(self._options))
            if isinstance(taken, list):
                # To the end: the other queues come first next time.
                self._queues[queue.key] = self._queues.pop(queue.key)
                if len(self._queues) > 1 or queue.waiting:
                    self._wake_a_thread()
                return Work(callbacks, expired, queue, taken), None
            self._drop_if_idle(queue)
            if isinstance(taken, WaitUntil):
                until = taken.time if until is None else min(until, taken.time)
        is_work = callbacks or expired
        return (Work(callbacks, expired, None, []) if is_work else None), until

    def do(self, work: Work) -> None:
        """For the workers: do what `next_work` returned; as WorkSource."""
        late = [(task, DeadlineExceeded(LATE)) for task in work.expired]
        run_callbacks(deliver(late))
        if work.queue is not None:
            self._execute(work.queue, work.parts)
        run_callbacks(work.callbacks)

    def is_over(self) -> bool:
        """For the workers: whether no work will come any more; as WorkSource."""
        return self._closing and not self._depth.requests

    def _queue(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        *,
        alone: bool,
        on_trial: bool,
    ) -> Queue:
        """Return the queue for a request, a new one if there is none. The lock must be held."""
        pads = False
        shapes: Hashable = None
        if (on_trial or not alone) and not signature.has_fixed_rows:
            if self._options is not None and self._options.pad_variable_length_inputs:
                pads = self._padding.fits(signature, inputs)
            shapes = tuple([x.ndim if pads else x.shape[1:] for x in inputs.values()])
        key = (signature.name, outputs, alone, on_trial, pads, shapes)
        queue = self._queues.get(key)
        if queue is None:
            queue = Queue(
                key, signature, outputs, self._depth, alone=alone, on_trial=on_trial, pads=pads
            )
            self._queues[key] = queue
        return queue

    def _cancel(self, task: Task) -> None:
        """End a task whose caller has gone. The lock must not be held."""
        if task.over:  # as nearly always: the call ended because it was answered
            return
        with self._changed:
            queue = task.end()
            if queue is None:
                return
            self._drop_if_idle(queue)
        late = task.deadline is not None and task.deadline <= self._clock.now()
        error = DeadlineExceeded(LATE) if late else Cancelled("the caller went away")
        if callbacks := deliver([(task, error)]):
            # Not here: this may be the thread that reads from the network.
            with self._changed, contextlib.suppress(RuntimeError):
                self._callbacks += callbacks
                self._wake_a_thread()

    def _drop_if_idle(self, queue: Queue) -> None:
        """Forget a queue in which nothing waits or runs. The lock must be held."""
        if queue.idle:
            self._queues.pop(queue.key, None)
            if not self._queues:
                self._idle.notify_all()

    def _wake_a_thread(self) -> None:
        """Have a thread look for work; raises RuntimeError. The lock must be held."""
        allowed = self._options.num_batch_threads if self._options else 1
        self._workers.wake(self, max(self._max_threads, allowed))

    def _execute(self, queue: Queue, parts: list[TaskSlice]) -> None:
        """Run a batch and hand out its outcomes. The lock must not be held."""
        started = self._clock.now()
        try:
            ended = self._run_batch(queue, parts, queue.options(self._options))
        except Exception as error:  # a fault of ours, which must not take the queue with it
            logger.exception("a batch could not be run")
            ended = [(part, error) for part in parts]
        self._capacity.batch_took(self._clock.now() - started)
        samples = self._samples(queue, ended)
        with self._changed:
            done, unwanted = complete(ended)
            self.unwanted_rows += unwanted
            queue.batch_ended()
            self._drop_if_idle(queue)
            if queue.waiting and self._workers.idle:
                # The next batch runs while this one's callers get their answers.
                self._changed.notify()
        run_callbacks(deliver([(task, reassemble(task, outcome)) for task, outcome in done]))
        self._compare(queue, samples)

    def _samples(self, queue: Queue, ended: Sequence[Ended]) -> list[Sample]:
        """Return the answered requests that are to be compared, before their inputs are let go."""
        if self._options is None or self._trust.vouched_by:
            return []
        samples: list[Sample] = []
        for part, outcome in ended:
            if part.task.uneven and not isinstance(outcome, Exception):
                self._trials.unfit(queue.signature, part.task.uneven)
        if queue.on_trial or (
            not queue.alone
            and len(ended) > 1
            and self._trust.standing(queue.signature, queue.outputs) is Standing.BATCHED
            and self._trials.wants_batch()
        ):
            for part, outcome in ended:
                if part.is_whole and not isinstance(outcome, Exception):
                    task = part.task
                    samples.append(Sample(task.inputs, outcome, task.size, task.nbytes))
        return samples

    def _compare(self, queue: Queue, samples: Sequence[Sample]) -> None:
        options = self._options
        if not samples or options is None:
            return
        if not queue.on_trial:
            self._trials.ran_together(queue, samples)
        elif self._trust.standing(queue.signature, queue.outputs) is Standing.ON_TRIAL:
            self._trials.ran_alone(queue, options, samples[0])

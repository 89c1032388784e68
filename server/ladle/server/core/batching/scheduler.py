"""The queues of one version, and the threads that run their batches.

A request waits without a thread. There is one thread from `start`, or from the first request; then
there are as many as there is work for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from ladle.server.core.batching.group import GroupSlice, GroupTask
from ladle.server.core.batching.plan import BatchOptions, WaitUntil
from ladle.server.core.batching.queue import (
    Queue,
    QueueCapacity,
    QueueDepth,
    QueueKey,
    Task,
    TaskSlice,
)
from ladle.server.core.batching.run import (
    LATE,
    BatchRunner,
    complete,
    deliver,
    run_callbacks,
)
from ladle.server.core.batching.trial import Trials
from ladle.server.core.clock import Clock
from ladle.server.core.errors import Cancelled, DeadlineExceeded, Unavailable
from ladle.server.core.machine.scheduling import yield_when_woken
from ladle.server.core.servable import Signature

logger = logging.getLogger(__name__)


class Work(NamedTuple):
    """What a thread finds to do."""

    callbacks: list[Callable[[], object]]
    expired: list[Task]
    queue: Queue | None
    parts: list[TaskSlice]
    """What runs as the next batch of `queue`."""


class BatchScheduler:
    """Runs what waits, in batches. Thread-safe.

    A queue lives only while something runs or waits in it, so that hostile shapes leave nothing
    behind. Only its threads and its maker hold a scheduler. Once `close` has ended the threads, it
    is freed with its last reference, without the garbage collector.
    """

    def __init__(
        self,
        run: BatchRunner,
        clock: Clock,
        *,
        max_enqueued_bytes: int,
        max_threads: int,
        aging_s: float = 5.0,
    ) -> None:
        """Start no thread yet.

        Args:
            run: runs a batch.
            clock: the time, and how to wait.
            max_enqueued_bytes: bytes of inputs that may wait.
            max_threads: how many threads there are at most. Where more batches may run at a time
                there are as many.
            aging_s: after so long a request counts as one priority higher.
        """
        self._aging_s = aging_s
        self._run = run
        self._clock = clock
        self._max_threads = max_threads
        # Replaced as a whole, with the lock held; read with or without it.
        self.options: BatchOptions | None = None
        """How batches form; None = every request runs alone."""
        self._trials: Trials | None = None
        self._lock = threading.Lock()
        """Guards all that follows, and what is in the queues."""
        self._changed = threading.Condition(self._lock)
        """Notified when there is work, and when options change."""
        self._moved = threading.Condition(self._lock)
        """Notified when `_depth` changes, while somebody waits for that."""
        self._watchers = 0
        self._queues: dict[QueueKey, Queue] = {}
        self._callbacks: list[Callable[[], object]] = []
        self._depth = QueueDepth()
        self._capacity = QueueCapacity(self._depth, max_enqueued_bytes)
        self._threads: list[threading.Thread] = []
        self._idle_threads = 0
        self._closing = False
        self.unwanted_rows = 0
        """Rows that were run for callers who had gone by then."""

    def start(self) -> None:
        """Start the first thread, so that no request needs one that can't be had.

        Raises:
            Unavailable: None can be had now.
        """
        with self._lock:
            if not self._threads:
                try:
                    self._wake_a_thread()
                except RuntimeError as error:
                    raise Unavailable(f"no thread can be had to run requests: {error}") from None

    def check_room(self, rows: int, nbytes: int) -> None:
        """Refuse a request that would have to wait in a queue that is full; takes no lock.

        Raises:
            Unavailable: So many rows or bytes would be too many.
        """
        self._capacity.check(rows, nbytes, self.options)

    def enqueue(self, task: Task, key: QueueKey, signature: Signature) -> None:
        """Put a task into its queue; never blocks.

        Raises:
            Unavailable: The queue is full, or no thread can be had.
        """
        with self._lock:
            self._capacity.check(task.rows, task.nbytes, self.options, task.priority)
            self._enqueue(task, key, signature)

    def enqueue_alike(self, task: GroupTask, key: QueueKey, signature: Signature) -> bool:
        """Put requests that are alike into their queue, if there is room for all; never blocks.

        Raises:
            Unavailable: No thread can be had.
        """
        with self._lock:
            options = self.options
            if options is None or not self._capacity.has_room(
                task.rows, task.nbytes, options, task.priority
            ):
                return False
            self._enqueue(task, key, signature)
            return True

    def leave(self, task: GroupTask, member: int) -> None:
        """Take a member out whose caller has gone, if it still waits. Never blocks."""
        with self._lock:
            is_over = task.member_left(member)
            if is_over and task.queue is not None:
                self._drop_if_idle(task.queue)
            if self._watchers:
                self._moved.notify_all()
        if is_over:
            task.alike.over()

    def _enqueue(self, task: Task, key: QueueKey, signature: Signature) -> None:
        """Put a task into its queue, and wake a thread. The lock must be held.

        Raises:
            Unavailable: No thread can be had.
        """
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = Queue(key, signature, self._depth, self._aging_s)
        queue.enqueue(task, self._clock.now())
        if task.observation is not None:
            task.observation.rows, task.observation.queued = task.size, task.arrived
        if queue.running < queue.options(self.options).num_batch_threads:
            try:
                self._wake_a_thread()
            except RuntimeError as error:
                task.end()
                self._drop_if_idle(queue)
                raise Unavailable(f"nothing can run the request: {error}; try again") from None
        if self._watchers:
            self._moved.notify_all()

    def cancel(self, task: Task) -> None:
        """End a task whose caller has gone; without effect once it is over. Never blocks."""
        if task.over:  # as nearly always: the call ended because it was answered
            return
        with self._lock:
            queue = task.end()
            if queue is None:
                return
            self._drop_if_idle(queue)
            if self._watchers:
                self._moved.notify_all()
        late = task.deadline is not None and task.deadline <= self._clock.now()
        error = DeadlineExceeded(LATE) if late else Cancelled("the caller went away")
        if callbacks := deliver([(task, error)]):
            # Not here: this may be the thread that reads from the network.
            with self._lock, contextlib.suppress(RuntimeError):
                self._callbacks += callbacks
                self._wake_a_thread()

    def configure(self, options: BatchOptions | None, trials: Trials | None) -> None:
        """Form batches by these options from now on; what waits already is not refused.

        Args:
            options: how batches form; None, as before the first call: every request runs alone.
            trials: compares batches with lone runs; None if nothing is compared.
        """
        with self._lock:
            self.options, self._trials = options, trials
            self._changed.notify_all()

    def wait_until(self, predicate: Callable[[QueueDepth], bool], timeout_s: float) -> bool:
        """Block until `predicate` holds; False if so many real seconds are over before that.

        `predicate` is called at once, and after each change. The lock is held meanwhile.
        """
        with self._lock:
            self._watchers += 1
            try:
                return self._moved.wait_for(lambda: predicate(self._depth), timeout_s)
            finally:
                self._watchers -= 1

    @property
    def queue_count(self) -> int:
        """How many queues something waits or runs in."""
        return len(self._queues)

    @property
    def depth(self) -> QueueDepth:
        """What waits and runs at this moment."""
        with self._lock:
            return dataclasses.replace(self._depth)

    def close(self) -> None:
        """Run what still waits, and end the threads; blocks."""
        with self._lock:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:  # and those that are started meanwhile
            thread.join()

    def _wake_a_thread(self) -> None:
        """Have an idle thread look for work or, if there is none, start one. The lock must be held.

        Raises:
            RuntimeError: There is no thread, and none can be started.
        """
        if self._idle_threads:
            self._changed.notify()
            return
        allowed = self.options.num_batch_threads if self.options else 1
        if len(self._threads) < max(self._max_threads, allowed):
            thread = threading.Thread(target=self._work, name="batch", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no room for more
                if not self._threads:
                    raise
                return  # the next thread that is done takes the work
            self._threads.append(thread)

    def _drop_if_idle(self, queue: Queue) -> None:
        """Forget a queue in which nothing waits or runs. The lock must be held."""
        if not queue.running and not queue.waiting:
            self._queues.pop(queue.key, None)

    def _work(self) -> None:
        """Do what there is to do until the scheduler is closed; each thread calls it."""
        yield_when_woken()
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do one thing; a call of its own, so that nothing of it is held on to while waiting."""
        with self._lock:
            work = self._wait_for_work()
        if work is None:
            return False
        if work.expired:
            run_callbacks(deliver([(task, DeadlineExceeded(LATE)) for task in work.expired]))
        if work.queue is not None:
            self._execute(work.queue, work.parts)
        if work.callbacks:
            run_callbacks(work.callbacks)
        return True

    def _wait_for_work(self) -> Work | None:
        """Return the next work, or None if there never will be any. The lock must be held."""
        while True:
            now = self._clock.now()
            work, until = self._next_work(now)
            if self._watchers:
                self._moved.notify_all()
            if work is not None:
                return work
            if self._closing and not self._depth.requests:
                self._changed.notify_all()
                return None
            self._idle_threads += 1
            self._clock.wait(self._changed, None if until is None else until - now)
            self._idle_threads -= 1

    def _next_work(self, now: float) -> tuple[Work | None, float | None]:
        """Return what is to be done now. If nothing is, return the time when that changes.

        The lock must be held.
        """
        callbacks, self._callbacks = self._callbacks, []
        expired: list[Task] = []
        until: float | None = None
        queues = list(self._queues.values())
        if self._depth.ranked:
            queues.sort(key=lambda queue: queue.best_rank(now))
        for queue in queues:
            for task in queue.expired(now):
                task.end()
                expired.append(task)
            most_rows = None if self._trials is None else self._trials.most_rows(queue)
            taken = queue.next_batch(now, queue.options(self.options), most_rows)
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

    def _execute(self, queue: Queue, parts: list[TaskSlice]) -> None:
        """Run a batch and deliver its outcomes. The lock must not be held."""
        started = self._clock.now()
        options, trials = self.options, self._trials
        try:
            ended = self._run(queue, parts, queue.options(options))
        except Exception as error:  # a fault of ours, which must not take the queue with it
            logger.exception("a batch could not be run")
            ended = [(part, error) for part in parts]
        self._capacity.batch_took(self._clock.now() - started)
        # Now: the requests' inputs go when they are over.
        wanted = None if trials is None else trials.wanted(queue, ended, options)
        with self._lock:
            done, unwanted = complete(ended)
            over = [part.task for part in parts if isinstance(part, GroupSlice) and part.ended()]
            self.unwanted_rows += unwanted
            queue.batch_ended()
            self._drop_if_idle(queue)
            if self._watchers:
                self._moved.notify_all()
            if queue.waiting and self._idle_threads:
                # The next batch runs while this one's callers get their answers.
                self._changed.notify()
        run_callbacks([*deliver(done), *[task.alike.over for task in over]])
        if wanted is not None and trials is not None and options is not None:
            trials.compare(wanted, options)

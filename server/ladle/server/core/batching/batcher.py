"""The servable that requests are put into: rows of many callers run together.

Each caller gets exactly its own rows back. Greedy by default: an idle model runs what has come at
once, and whatever comes meanwhile makes the next batch, so nobody waits for a timer. Each version
has a few threads of its own that run its batches, so no model waits for another's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable, Mapping

from ladle.server.core.batching.group import GroupTask
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth, QueueKey, Task
from ladle.server.core.batching.rows import Outputs, Padding
from ladle.server.core.batching.run import BatchRunner
from ladle.server.core.batching.scheduler import BatchScheduler
from ladle.server.core.batching.trial import Trials
from ladle.server.core.batching.trust import Standing, Status, Trust
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import DeadlineExceeded, InvalidArgument
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.observation import Observation, Observer
from ladle.server.core.servable import Alike, Arrays, Done, Model, Signature
from ladle.server.core.servable_id import ServableId


class BatchingServable:
    """A servable whose requests run together where that is possible. Thread-safe.

    There is a queue for each signature, set of outputs, and shape beyond the rows.
    """

    def __init__(
        self,
        model: Model,
        options: BatchOptions | None,
        clock: Clock | None = None,
        *,
        max_enqueued_bytes: int = 1 << 62,
        max_threads: int | None = None,
        aging_s: float = 5.0,
        observer: Observer | None = None,
        servable_id: ServableId | None = None,
        said_by: str = "the options of the batcher",
        vouched_signatures: Collection[str] = (),
    ) -> None:
        """Take over `model`.

        Args:
            model: what runs.
            options: how batches form; None = every request runs alone.
            clock: the time.
            max_enqueued_bytes: bytes of inputs that may wait.
            max_threads: threads that run batches and single requests, at most; by default one
                for each CPU. Where more batches may run at a time there are as many.
            aging_s: after so long in the queue a request counts as one priority higher.
            observer: is called after each run of the model.
            servable_id: which version `model` is, for the observer and the log.
            said_by: who vouches that rows of different callers may run together; where `options`
                is None, who says that they may not. Empty = nobody: each signature earns it.
            vouched_signatures: those for which the model card vouches.
        """
        self.signatures: Mapping[str, Signature] = model.signatures
        self.signature_defs = model.signature_defs
        self.default_signature = model.default_signature
        self.card_json = model.card_json
        self._model = model
        self._clock = clock or MonotonicClock()
        self._trust = Trust(model.signatures, card=vouched_signatures)
        self._padding = Padding()
        servable_id = servable_id or ServableId("", 0)
        self._trials = Trials(model, self._trust, self._clock.now, servable_id)
        self._scheduler = BatchScheduler(
            BatchRunner(model, self._trust, self._clock.now, observer, servable_id),
            self._clock,
            max_enqueued_bytes=max_enqueued_bytes,
            max_threads=max_threads or cpus(),
            aging_s=aging_s,
        )
        self._said_by = ""
        self.configure(options, said_by)

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
        observation: Observation | None = None,
    ) -> Task:
        """As `run`, but never blocks: `done` gets the outputs or the exception.

        It is called exactly once, from another thread or from `cancel`, and must not block. What
        becomes of the request on its way is noted in `observation`.

        Raises:
            InvalidArgument: More rows than a batch may have, where that is to be refused.
            Unavailable: The queue is full.
        """
        scheduler = self._scheduler
        options = scheduler.options
        standing = Standing.ALONE
        rows: int | None = None
        if options is not None:
            standing = self._trust.standing(signature, outputs)
            if standing is not Standing.ALONE:
                rows = shared_rows(signature, inputs)
        if rows is None or options is None:
            size = lone_rows(signature, inputs)
            task = Task(inputs, 1, deadline, done, scheduler.cancel, observation, size)
            if standing in (Standing.ON_TRIAL, Standing.BATCHED):
                task.uneven = uneven_rows(signature, inputs)
            key = QueueKey(signature.name, outputs, True, False, False, None)
        else:
            if rows > options.max_batch_size and options.refuse_larger:
                raise InvalidArgument(
                    f"Task size {rows} is larger than maximum input batch size "
                    f"{options.max_batch_size}"
                )
            on_trial = standing is Standing.ON_TRIAL
            places = 1 if on_trial else rows
            task = Task(inputs, places, deadline, done, scheduler.cancel, observation, rows)
            pads = False
            shapes: Hashable = None
            if not signature.has_fixed_rows:
                if options.pad_variable_length_inputs:
                    pads = self._padding.fits(signature, inputs)
                shapes = tuple([x.ndim if pads else x.shape[1:] for x in inputs.values()])
            key = QueueKey(signature.name, outputs, on_trial, on_trial, pads, shapes)
        scheduler.enqueue(task, key, signature)
        return task

    def run_aside(self, signature: Signature, inputs: Arrays, outputs: tuple[str, ...]) -> Outputs:
        """Return the named outputs for a request that nobody waits for; blocks.

        It runs by itself and past the queue, in this thread, and no observer hears of it.

        Raises:
            ServingError: The model refused these inputs.
        """
        return self._model.run(signature, inputs, outputs)

    def takes_alike(self, signature: Signature, outputs: tuple[str, ...]) -> bool:
        """Whether requests for these outputs run together now; `submit_alike` needs that."""
        if self._scheduler.options is None:
            return False
        standing = self._trust.standing(signature, outputs)
        return standing is Standing.VOUCHED or standing is Standing.BATCHED

    def submit_alike(
        self, signature: Signature, inputs: Arrays, outputs: tuple[str, ...], alike: Alike
    ) -> GroupTask | None:
        """Put requests that are alike into their queue as one task; never blocks.

        `inputs` are those of one of them. None: each has to be submitted by itself, because it
        would run alone, on trial, cut or padded, or because there is not room for all.

        Raises:
            Unavailable: No thread can be had.
        """
        scheduler = self._scheduler
        options = scheduler.options
        if options is None or not self.takes_alike(signature, outputs):
            return None
        rows = shared_rows(signature, inputs)
        if rows is None or rows > options.rows_in_a_batch:
            return None
        shapes: Hashable = None
        if not signature.has_fixed_rows:
            if options.pad_variable_length_inputs:
                return None
            shapes = tuple([x.shape[1:] for x in inputs.values()])
        nbytes = sum([array.nbytes for array in inputs.values()])
        task = GroupTask(alike, rows, nbytes, scheduler.leave)
        key = QueueKey(signature.name, outputs, False, False, False, shapes)
        return task if scheduler.enqueue_alike(task, key, signature) else None

    def admit(self, nbytes: int) -> None:
        """Refuse at once what would find the queue full; cheap, for before it is decoded.

        Raises:
            Unavailable: There is no room for a request of so many bytes.
        """
        self._scheduler.check_room(1, nbytes)

    def configure(
        self, options: BatchOptions | None, said_by: str = "the options of the batcher"
    ) -> None:
        """Form batches by other options from now on; what waits already is not refused.

        `said_by` is as for the constructor.
        """
        self._said_by = said_by
        self._trust.vouched_by = said_by if options else ""
        compares = options is not None and not said_by
        self._scheduler.configure(options, self._trials if compares else None)

    @property
    def options(self) -> BatchOptions | None:
        """How batches form; None = every request runs alone."""
        return self._scheduler.options

    @property
    def said_by(self) -> str:
        """Who vouches for batches, or forbids them; empty if nobody does."""
        return self._said_by

    @property
    def comparisons(self) -> int:
        """How many batches were compared with lone runs."""
        return self._trials.compared

    @property
    def unwanted_rows(self) -> int:
        """Rows that were run for callers who had gone by then."""
        return self._scheduler.unwanted_rows

    @property
    def queue_count(self) -> int:
        """How many queues something waits or runs in."""
        return self._scheduler.queue_count

    @property
    def depth(self) -> QueueDepth:
        """What waits and runs at this moment."""
        return self._scheduler.depth

    def standings(self) -> dict[str, Status]:
        """Return whether each signature runs in batches, and why, by name."""
        if self._scheduler.options is None:
            off = Status(Standing.ALONE, self._said_by)
            return dict.fromkeys(self.signatures, off)
        return self._trust.status()

    def wait_until(self, predicate: Callable[[QueueDepth], bool], timeout_s: float) -> bool:
        """Block until what waits and runs makes `predicate` true; False if the time is over first.

        `predicate` is called at once, and after each change. A lock is held meanwhile: it must
        neither block nor call the servable. The time is real, whatever the clock.
        """
        return self._scheduler.wait_until(predicate, timeout_s)

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until nothing waits, runs or is compared; False if the time is over before that.

        The time is real, whatever the clock.
        """
        return self.wait_until(_is_idle, timeout_s) and self._trials.wait(timeout_s)

    def start(self) -> None:
        """Start the first of its threads, which starts by itself with the first request otherwise.

        Raises:
            Unavailable: No thread can be had now.
        """
        self._scheduler.start()

    def close(self) -> None:
        """Run what still waits, end the threads, and close the model; blocks."""
        self._scheduler.close()
        self._trials.close()
        self._model.close()


def _is_idle(depth: QueueDepth) -> bool:
    return not depth.requests and not depth.running


def shared_rows(signature: Signature, inputs: Arrays) -> int | None:
    """Return how many rows the inputs share; None where they can't be batched with others'."""
    if not signature.batchable:
        return None
    rows: int | None = None
    for alias, spec in signature.inputs.items():
        shape = inputs[alias].shape
        # What contradicts the signature runs alone: the model may take it, as upstream lets it.
        # Nearly always the shapes are equal beyond the rows, and that is known without a call.
        is_alike = shape and spec.shape and shape[1:] == spec.shape[1:]
        if not is_alike and not spec.admits(shape):
            return None
        if rows is not None and shape[0] != rows:
            return None
        rows = shape[0]
    return rows or None


def uneven_rows(signature: Signature, inputs: Arrays) -> str:
    """Return how the rows of a request's inputs differ; empty where they don't."""
    rows = {}
    for alias, spec in signature.inputs.items():
        shape = inputs[alias].shape
        if not spec.admits(shape):
            return ""
        rows[alias] = shape[0]
    if len(set(rows.values())) < 2:
        return ""
    return f"inputs of one request had unequal rows: {rows}"


def lone_rows(signature: Signature, inputs: Arrays) -> int:
    """Return how many rows a request has that runs alone, by the first input that may have any."""
    for alias, spec in signature.inputs.items():
        if inputs[alias].ndim and (spec.shape is None or spec.shape[:1] == (-1,)):
            return len(inputs[alias])
    return 1

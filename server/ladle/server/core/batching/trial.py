"""Runs requests once more, in a batch or alone, to see whether batches change their answers.

It happens after the callers have their answers, in a thread of its own, one comparison at a time,
and for a bounded part of the time. What comes meanwhile is not compared.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from ladle.server.core.batching.comparison import all_vary, difference
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import Queue, QueueKey
from ladle.server.core.batching.rows import Outputs, RowsLost, merge_inputs, split_outputs
from ladle.server.core.batching.run import Ended
from ladle.server.core.batching.trust import Standing, Trust
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

SHARE = 64
"""Of the batches of a signature that has proved itself, one in so many is compared."""

# How many requests make a batch on trial, in turns.
_SIZES = (2, 3, 5, 8)
# For each second of comparing, so many seconds without: what callers may notice of it.
_REST_ON_TRIAL = 19.0
_REST_AFTERWARDS = 49.0
# What may be held of requests that were answered. Larger ones are not compared.
_MAX_HELD_BYTES = 8 << 20
_MAX_KINDS = 16

# These say that there was no room or no time, and nothing of the rows.
_PASSING = frozenset(
    (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
)


class Sample(NamedTuple):
    """A request that was answered."""

    inputs: Arrays
    outputs: Outputs
    rows: int
    nbytes: int


class _Comparison(NamedTuple):
    """What a thread is to run once more."""

    signature: Signature
    key: QueueKey
    samples: list[Sample]
    padded: int
    """Rows of the batch to run; 0 where the samples come from a batch, and are run alone."""


class Trials:
    """Compares batches with lone runs. Thread-safe; no method but `wait` and `close` blocks."""

    def __init__(
        self,
        model: Model,
        trust: Trust,
        now: Callable[[], float],
        servable_id: ServableId,
    ) -> None:
        """`trust` learns what comparisons of `model` show; `now` returns seconds."""
        self.compared = 0
        """How many comparisons have ended."""
        self._model = model
        self._trust = trust
        self._now = now
        self._id = servable_id
        # Guards everything below; never held while the model runs.
        self._changed = threading.Condition(threading.Lock())
        self._held: dict[Hashable, list[Sample]] = {}
        self._held_bytes = 0
        self._turn = 0
        self._batches = 0
        self._rest_until = float("-inf")
        self._thread: threading.Thread | None = None
        self._closing = False

    def _unfit(self, signature: Signature, why: str) -> None:
        """Have a signature run alone from now on, and say so once."""
        if self._trust.differed(signature, why):
            logger.warning(
                "batches change the answers, so each request runs alone from now on; to "
                "overrule, put a batching_params.pbtxt into the version's folder, or serve "
                "with --enable_batching model=%s version=%d signature=%s reason=%s",
                *self._id,
                "+".join(signature.names),
                why,
            )

    def samples(self, queue: Queue, ended: Sequence[Ended]) -> list[Sample]:
        """Return the answered requests of a batch that are to be compared."""
        for part, outcome in ended:
            if part.task.uneven and not isinstance(outcome, Exception):
                self._unfit(queue.signature, part.task.uneven)
        key = queue.key
        if not key.on_trial and (
            key.alone
            or sum([part.requests for part, _ in ended]) < 2
            or self._trust.standing(queue.signature, key.outputs) is not Standing.BATCHED
            or not self._wants_batch()
        ):
            return []
        return [
            Sample(*sample)
            for part, outcome in ended
            if not isinstance(outcome, Exception)
            for sample in part.samples(outcome, _SIZES[-1])
        ]

    def compare(self, queue: Queue, samples: Sequence[Sample], options: BatchOptions) -> None:
        """Have `samples` run once more, if there is time for it; returns at once."""
        if not queue.key.on_trial:
            self._ran_together(queue, samples)
        elif self._trust.standing(queue.signature, queue.key.outputs) is Standing.ON_TRIAL:
            self._ran_alone(queue, options, samples[0])

    def _wants_batch(self) -> bool:
        """Count a batch that callers have answers of; whether this one is to be compared."""
        with self._changed:
            self._batches += 1
            return self._batches % SHARE == 1 and self._is_free()

    def _ran_alone(self, queue: Queue, options: BatchOptions, sample: Sample) -> None:
        """Take a request that ran by itself; as soon as there are enough, they run together."""
        if self._thread is not None or self._now() < self._rest_until:
            return  # without the lock: nearly always so
        most = min(options.rows_in_a_batch // 2, 1 << 20)
        if sample.rows > most or sample.nbytes > _MAX_HELD_BYTES // 2:
            return
        with self._changed:
            if not self._is_free():
                return
            samples = self._hold(queue.key, sample)
            rows = sum(each.rows for each in samples)
            size = _SIZES[self._turn % len(_SIZES)]
            is_full = len(samples) >= 2 and (
                rows + sample.rows > options.rows_in_a_batch
                or self._held_bytes + sample.nbytes > _MAX_HELD_BYTES
            )
            if len(samples) < size and not is_full:
                return
            self._turn += 1
            del self._held[queue.key]
            self._held_bytes -= sum(each.nbytes for each in samples)
            while rows > options.rows_in_a_batch and len(samples) > 2:
                rows -= samples.pop().rows
            padded = options.padded(rows)
            self._start(_Comparison(queue.signature, queue.key, samples, padded))

    def _ran_together(self, queue: Queue, samples: Sequence[Sample]) -> None:
        """Take requests that ran in a batch: some of them run alone."""
        chosen: list[Sample] = []
        nbytes = 0
        for sample in samples[: _SIZES[-1]]:
            nbytes += sample.nbytes
            if nbytes <= _MAX_HELD_BYTES:
                chosen.append(sample)
        with self._changed:
            if chosen and self._is_free():
                self._start(_Comparison(queue.signature, queue.key, chosen, 0))

    def wait(self, timeout_s: float) -> bool:
        """Block until no comparison is under way; False if the time is over before that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._thread is None, timeout_s)

    def close(self) -> None:
        """Compare no more, and block until the model is not run by a comparison."""
        with self._changed:
            self._closing = True
            self._held.clear()
            self._held_bytes = 0
            thread = self._thread
        if thread is not None:
            thread.join()

    def _is_free(self) -> bool:
        """Whether a comparison may begin; the caller holds the lock."""
        return self._thread is None and not self._closing and self._now() >= self._rest_until

    def _hold(self, key: Hashable, sample: Sample) -> list[Sample]:
        """Keep a sample, and give up the oldest of other kinds for it; the lock is held."""
        samples = self._held.pop(key, [])
        samples.append(sample)
        self._held[key] = samples
        self._held_bytes += sample.nbytes
        while len(self._held) > 1 and (
            self._held_bytes > _MAX_HELD_BYTES or len(self._held) > _MAX_KINDS
        ):
            oldest = self._held.pop(next(iter(self._held)))
            self._held_bytes -= sum(each.nbytes for each in oldest)
        return samples

    def _start(self, comparison: _Comparison) -> None:
        """Have a thread compare; the caller holds the lock."""
        thread = threading.Thread(
            target=self._compare, args=(comparison,), name="batch-trial", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # the system has no room for more
            thread.start()
            self._thread = thread

    def _compare(self, comparison: _Comparison) -> None:
        started = self._now()
        try:
            found = self._difference(comparison)
        except Exception:  # a fault of ours, or no room: it proves nothing
            logger.exception("a comparison of batches failed")
        else:
            if found is not None:
                self._note(comparison, found)
        ended = self._now()
        on_trial = comparison.padded > 0
        rest = (ended - started) * (_REST_ON_TRIAL if on_trial else _REST_AFTERWARDS)
        with self._changed:
            self.compared += 1
            self._rest_until = ended + rest
            self._thread = None
            self._changed.notify_all()

    def _note(self, comparison: _Comparison, found: str) -> None:
        signature = comparison.signature
        if found:
            self._unfit(signature, found)
        elif all_vary([sample.inputs for sample in comparison.samples]) and self._trust.agreed(
            signature, comparison.key.outputs
        ):
            logger.info(
                "batches have the answers of lone runs, and are used from now on "
                "model=%s version=%d signature=%s",
                *self._id,
                "+".join(signature.names),
            )

    def _difference(self, comparison: _Comparison) -> str | None:
        """Return what differs, nothing if the answers are alike, None if that could not be seen."""
        signature, key, samples, padded = comparison
        given = [sample.outputs for sample in samples]
        try:
            if not padded:
                again = []
                for sample in samples:
                    if self._closing:
                        return None
                    again.append(self._model.run(signature, sample.inputs, key.outputs))
                return difference(again, given) or ""
            inputs = merge_inputs([sample.inputs for sample in samples], padded, pads=key.pads)
            results = self._model.run(signature, inputs, key.outputs)
            counts = [sample.rows for sample in samples]
            return difference(given, split_outputs(results, counts, padded)) or ""
        except RowsLost as error:
            return str(error)
        except MemoryError:
            return None
        except Exception as error:
            if isinstance(error, ServingError) and error.code in _PASSING:
                return None
            ran, failed = ("alone", "in a batch") if padded else ("in a batch", "alone")
            return f"what ran {ran} failed {failed}: {error}"

"""Runs requests once more, in a batch or alone, to see whether batches change their answers.

It happens after the callers have their answers, in a thread of its own, one comparison at a time,
and for a bounded part of the time. What comes meanwhile is not compared.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from ladle.server.core.batching.comparison import all_vary
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import Queue, TaskSlice
from ladle.server.core.batching.rerun import Comparison, Inconclusive, Sample, repeated, run_again
from ladle.server.core.batching.rows import Outputs, why_rows_lost
from ladle.server.core.batching.run import Ended
from ladle.server.core.batching.trust import Standing, Trust
from ladle.server.core.servable import Model, Signature
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

SHARE = 64
"""Of the batches of a signature that has proved itself, one in so many is compared. Before that so
many are compared as soon as there is time: what a trial did not meet may come soon after it."""

# How many requests make a batch on trial, in turns.
_SIZES = (2, 3, 5, 8)
# For each second of comparing, so many seconds without: what callers may notice of it.
_REST_ON_TRIAL = 19.0
_REST_AFTERWARDS = 49.0
# What may be held of requests that were answered. Larger ones are not compared.
_MAX_HELD_BYTES = 8 << 20
_MAX_KINDS = 16


@dataclass
class _Earned:
    """What has become of a signature's batches that callers have the answers of."""

    ran: int = 0
    compared: int = 0
    larger_failed: bool = False

    @property
    def in_share(self) -> bool:
        """Whether the last batch is the one in `SHARE` that is always compared."""
        return self.ran % SHARE == 1


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
        self._earned: dict[str, _Earned] = {}  # for each signature; trust bounds how many
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

    def most_rows(self, queue: Queue) -> int | None:
        """Return how many rows a batch may have at most; None if any number may run together."""
        if queue.key.alone:
            return None
        return self._trust.most_rows(queue.signature, queue.key.outputs)

    def wanted(
        self, queue: Queue, ended: Sequence[Ended], options: BatchOptions | None
    ) -> Comparison | None:
        """Return which answered requests of a batch are to be compared, and how; None for none.

        They are read now: their inputs go with them.
        """
        if len(ended) == 1 and (why := self._unfit_alone(queue, *ended[0])):
            self._unfit(queue.signature, why)
            return None
        if options is None:
            return None
        larger = self._plan(queue, ended, options)
        if larger is None:
            return None
        samples = [
            Sample(*sample)
            for part, outcome in ended
            if not isinstance(outcome, Exception)
            for sample in part.samples(outcome, _SIZES[-1])
        ]
        return Comparison(queue.signature, queue.key, samples, larger) if samples else None

    def compare(self, wanted: Comparison, options: BatchOptions) -> None:
        """Have requests run once more, if there is time for it; returns at once."""
        if wanted.key.on_trial:
            self._ran_alone(wanted, options)
        else:
            self._ran_together(wanted)

    def _plan(self, queue: Queue, ended: Sequence[Ended], options: BatchOptions) -> int | None:
        """Return how many rows a batch is to have that requests are compared with.

        0 stands for lone runs, or for a batch on trial, which has yet to gather. None: nothing is
        to be compared.
        """
        if self._thread is not None or self._now() < self._rest_until:
            return None  # without the lock: nearly always so
        key = queue.key
        if not key.on_trial and self.most_rows(queue) is None:
            return None
        standing = self._trust.standing(queue.signature, key.outputs)
        if standing is not (Standing.ON_TRIAL if key.on_trial else Standing.BATCHED):
            return None
        if key.on_trial:
            return 0
        if sum([part.requests for part, _ in ended]) < 2:
            return None
        rows = sum([part.rows for part, _ in ended])
        with self._changed:
            earned = self._earned.setdefault(key.signature, _Earned())
            earned.ran += 1
            if self._is_free():
                larger = 0 if earned.larger_failed else self._larger(queue, rows, options)
                if larger and not earned.in_share:
                    return larger
                if earned.in_share or earned.compared < SHARE:
                    return 0
        return None

    def _unfit_alone(self, queue: Queue, part: TaskSlice, outcome: Outputs | Exception) -> str:
        """Return what a request that ran by itself shows: its rows are not those of a batch."""
        if isinstance(outcome, Exception):
            return ""
        if part.task.uneven:
            return part.task.uneven
        if part.requests > 1 or not part.is_whole:
            return ""
        if not queue.key.on_trial and self.most_rows(queue) is None:
            return ""  # it is vouched for, or none of a batch's
        return why_rows_lost(outcome, part.task.size)

    def _larger(self, queue: Queue, rows: int, options: BatchOptions) -> int:
        """Return how many rows a batch is to be tried with, so that callers may have such.

        It is twice the most that they may have, where they had a batch of more than half of that;
        otherwise 0.
        """
        most, limit = self.most_rows(queue), options.rows_in_a_batch
        if most is None or most >= limit or 2 * rows <= most:
            return 0
        return options.padded(min(2 * most, limit))

    def _ran_alone(self, wanted: Comparison, options: BatchOptions) -> None:
        """Take a request that ran by itself; as soon as there are enough, they run together."""
        sample = wanted.samples[0]
        most = min(options.rows_in_a_batch // 2, 1 << 20)
        if sample.rows > most or sample.nbytes > _MAX_HELD_BYTES // 2:
            return
        with self._changed:
            if not self._is_free():
                return
            samples = self._hold(wanted.key, sample)
            rows = sum(each.rows for each in samples)
            size = _SIZES[self._turn % len(_SIZES)]
            is_full = len(samples) >= 2 and (
                rows + sample.rows > options.rows_in_a_batch
                or self._held_bytes + sample.nbytes > _MAX_HELD_BYTES
            )
            if len(samples) < size and not is_full:
                return
            self._turn += 1
            del self._held[wanted.key]
            self._held_bytes -= sum(each.nbytes for each in samples)
            while rows > options.rows_in_a_batch and len(samples) > 2:
                rows -= samples.pop().rows
            self._start(wanted._replace(samples=samples, padded=options.padded(rows)))

    def _ran_together(self, wanted: Comparison) -> None:
        """Take requests that ran in a batch: some run alone, or in a larger one."""
        chosen: list[Sample] = []
        nbytes = 0
        for sample in wanted.samples[: _SIZES[-1]]:
            nbytes += sample.nbytes
            if nbytes <= _MAX_HELD_BYTES:
                chosen.append(sample)
        if chosen and wanted.padded:
            if not all_vary([sample.inputs for sample in chosen]):
                return  # it would show nothing
            chosen = repeated(chosen, wanted.padded)
        with self._changed:
            if chosen and self._is_free():
                self._start(wanted._replace(samples=chosen))

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

    def _start(self, comparison: Comparison) -> None:
        """Have a thread compare; the caller holds the lock."""
        thread = threading.Thread(
            target=self._compare, args=(comparison,), name="batch-trial", daemon=True
        )
        with contextlib.suppress(RuntimeError):  # the system has no room for more
            thread.start()
            self._thread = thread

    def _compare(self, comparison: Comparison) -> None:
        started = self._now()
        try:
            found = run_again(self._model, comparison, lambda: self._closing)
        except Inconclusive as reason:
            self._note_failure(comparison, reason)
        except Exception:  # a fault of ours: it proves nothing
            logger.exception("a comparison of batches failed")
        else:
            self._note(comparison, found)
        ended = self._now()
        on_trial = comparison.padded > 0
        rest = (ended - started) * (_REST_ON_TRIAL if on_trial else _REST_AFTERWARDS)
        with self._changed:
            self.compared += 1
            if not comparison.key.on_trial:
                self._earned[comparison.signature.name].compared += 1
            self._rest_until = ended + rest
            self._thread = None
            self._changed.notify_all()

    def _note_failure(self, comparison: Comparison, reason: Inconclusive) -> None:
        signature = comparison.signature
        if comparison.grows and not self._closing:
            self._earned[signature.name].larger_failed = True
            logger.info(
                "batches stay as large as they are, since a larger one failed "
                "model=%s version=%d signature=%s rows=%d reason=%s",
                *self._id,
                "+".join(signature.names),
                comparison.padded,
                reason,
            )

    def _note(self, comparison: Comparison, found: str) -> None:
        signature = comparison.signature
        if found:
            self._unfit(signature, found)
        elif all_vary([sample.inputs for sample in comparison.samples]) and self._trust.agreed(
            signature, comparison.key.outputs, comparison.padded
        ):
            logger.info(
                "batches have the answers of lone runs, and are used from now on "
                "model=%s version=%d signature=%s",
                *self._id,
                "+".join(signature.names),
            )

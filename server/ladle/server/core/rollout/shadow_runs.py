"""Runs requests on a shadow once their callers have the answers, and compares the two.

Nobody waits for it. Each model with a shadow has one thread, which runs one request at a time, and
only while the server has processors to spare. What comes meanwhile is held, if there is room, or
dropped and counted. Whatever a shadow does, hang or fail, is counted and reaches nobody.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, TypeAlias

from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.errors import Code, NotFound, ServingError
from ladle.server.core.lifecycle.serving_map import Handle, ServingMap
from ladle.server.core.observation import Observation
from ladle.server.core.rollout.agreement import Agreement, Comparison
from ladle.server.core.rollout.comparing import compare
from ladle.server.core.rollout.router import Router
from ladle.server.core.rollout.shadow import Shadow
from ladle.server.core.rollout.shadow_log import ShadowLog, example
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

Outputs: TypeAlias = "Mapping[str, NDArray[Any]]"
Planned: TypeAlias = "tuple[Signature, Arrays, tuple[str, ...]]"
Plan: TypeAlias = "Callable[[Model], Planned]"
"""Returns what a request comes down to for a version, or raises ServingError."""

HELD_BYTES = 64 << 20
"""What requests and answers may take that wait for a comparison, of all models together."""

# How long a request waits for a processor before it is dropped, and how long between two looks.
_PATIENCE_S = 1.0
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.1

BUSY = "busy"
"""Why a request is not compared: the shadow or the server is busy,"""
TOO_LARGE = "bytes"
"""there is no room for its bytes,"""
STATEFUL = "stateful"
"""running it twice could be seen, or has another answer anyway,"""
NOT_LOADED = "not_loaded"
"""or the shadow went out of service meanwhile."""


class ShadowObserver(Protocol):
    """Hears of comparisons. Any thread calls; nothing may block."""

    def shadow_compared(self, comparison: Comparison) -> None:
        """A request has run on a shadow."""

    def shadow_dropped(self, model: str, reason: str) -> None:
        """A request that was to be compared is not."""


class Standing(NamedTuple):
    """How the shadow of a model does."""

    share: float
    """Of the requests that stable answers, from 0 to 1."""
    agreement: Agreement
    dropped: Mapping[str, int]
    """How many requests were not compared, by reason, since the roll-out was read."""


class Sample:
    """A request that is to run on the shadow too.

    Order of calls: `answered` or `abandon`, once, in any thread. Neither blocks or raises.
    """

    __slots__ = ("_lane", "_runs", "nbytes", "outputs", "plan", "request_id", "version")

    def __init__(
        self, runs: ShadowRuns, lane: _Lane, version: int, plan: Plan, nbytes: int, request_id: str
    ) -> None:
        self._runs = runs
        self._lane = lane
        self.version = version
        """Which version answers."""
        self.plan = plan
        self.request_id = request_id
        self.nbytes = nbytes
        """What is held of the request and, later, of its answer."""
        self.outputs: Outputs = {}

    def answered(self, outputs: Outputs) -> None:
        """Take what the caller got, and have the request run on the shadow later."""
        self._runs.enqueue(self._lane, self, outputs)

    def abandon(self) -> None:
        """Give the place back: there is no answer to compare with."""
        self._runs.give_back(self._lane, self)


class _Lane:
    """What one model's shadow has to do. The lock of ShadowRuns guards it."""

    def __init__(self, model: str, shadow: Shadow, lock: threading.Lock) -> None:
        self.model = model
        self.shadow = shadow
        self.changed = threading.Condition(lock)
        self.waiting: deque[Sample] = deque()
        self.in_flight = 0
        """Requests that have a place: being answered, waiting, or running."""
        self.closed = False
        self.thread: threading.Thread | None = None
        self.agreement: Agreement | None = None
        self.dropped: Counter[str] = Counter()
        self.log = ShadowLog(shadow.log) if shadow.log else None


class ShadowRuns:
    """The shadows of all models. Thread-safe; no method blocks."""

    def __init__(
        self,
        serving: ServingMap,
        router: Router,
        observer: ShadowObserver,
        *,
        is_busy: Callable[[], bool] = lambda: False,
        draw: Callable[[], float] = random.random,
        clock: Clock | None = None,
    ) -> None:
        """Start no thread yet.

        Args:
            serving: where the versions are.
            router: says which version is stable.
            observer: hears of each comparison.
            is_busy: whether requests of callers need the processors; must not block.
            draw: returns a number from 0 to 1 for each request.
            clock: the time.
        """
        self._serving = serving
        self._router = router
        self._observer = observer
        self._is_busy = is_busy
        self._draw = draw
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._held_bytes = 0  # guarded by _lock, as what is in the lanes
        self.lanes: Mapping[str, _Lane] = {}
        """By model, what its shadow has to do; replaced as a whole. Empty without any shadow."""
        self._stopped = False

    def replace(self, shadows: Mapping[str, Shadow]) -> None:
        """Have these models run on these shadows, and no others; comparisons begin anew."""
        with self._lock:
            if self._stopped:
                return
            old = self.lanes
            self.lanes = {
                model: _Lane(model, shadow, self._lock) for model, shadow in shadows.items()
            }
            self._close(old.values())

    def stop(self) -> None:
        """Begin no further comparison; returns at once. One that runs ends by itself."""
        with self._lock:
            self._stopped = True
            old, self.lanes = self.lanes, {}
            self._close(old.values())

    def sample(
        self,
        served: ServableId,
        stateful: str,
        plan: Plan,
        nbytes: int,
        observation: Observation | None = None,
    ) -> Sample | None:
        """Return a place for a request, if it is one of those that run on a shadow too.

        Args:
            served: the version that answers it.
            stateful: why a run of it can't be repeated; empty if it can.
            plan: what the request comes down to for a version. It holds the request.
            nbytes: how large that is.
            observation: knows the request's id, for the log.
        """
        lane = self.lanes.get(served.name)
        if lane is None or self._draw() >= lane.shadow.share:
            return None
        shadow = self._shadow_version(lane)
        if shadow is None or shadow == served.version:
            return None
        if served.version != self._router.choose(served.name):  # of stable's answers only
            return None
        if stateful:
            self._drop(lane, STATEFUL)
            return None
        with self._lock:
            if lane.closed:
                return None
            reason = self._why_not(lane, nbytes)
            if not reason:
                lane.in_flight += 1
                self._held_bytes += nbytes
                request_id = observation.request_id if observation and lane.shadow.log else ""
                return Sample(self, lane, served.version, plan, nbytes, request_id)
        self._drop(lane, reason)
        return None

    def enqueue(self, lane: _Lane, sample: Sample, outputs: Outputs) -> None:
        """Put an answered request before the lane's thread, or drop it."""
        nbytes = sum(array.nbytes for array in outputs.values())
        with self._lock:
            has_room = self._held_bytes + nbytes <= HELD_BYTES
            if has_room:
                self._held_bytes += nbytes
                sample.nbytes += nbytes
        if not has_room:
            self.give_back(lane, sample)
            self._drop(lane, TOO_LARGE)
            return
        # Copies: rows of a batch would hold the answers of all its callers.
        sample.outputs = {
            alias: array if array.base is None else array.copy() for alias, array in outputs.items()
        }
        with self._lock:
            if not lane.closed and self._has_thread(lane):
                lane.waiting.append(sample)
                lane.changed.notify_all()
                return
        self.give_back(lane, sample)

    def give_back(self, lane: _Lane, sample: Sample) -> None:
        """Free what a request holds, and its place."""
        with self._lock:
            lane.in_flight -= 1
            self._held_bytes -= sample.nbytes
            lane.changed.notify_all()

    def standing(self, model: str) -> Standing | None:
        """Return how a model's shadow does, as a copy; None without one or before it has run."""
        lane = self.lanes.get(model)
        if lane is None:
            return None
        with self._lock:
            version = self._shadow_version(lane)
            agreement = lane.agreement
            if agreement is None or agreement.version != version:
                if version is None:
                    return None
                agreement = Agreement(self._router.choose(model) or 0, version)
            return Standing(lane.shadow.share, deepcopy(agreement), dict(lane.dropped))

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Block until no request has a place; False if so many real seconds are over before."""
        for lane in list(self.lanes.values()):
            with self._lock:
                if not lane.changed.wait_for(lambda lane=lane: not lane.in_flight, timeout_s):  # type: ignore[misc]
                    return False
        return True

    def _shadow_version(self, lane: _Lane) -> int | None:
        version = self._serving.labels(lane.model).get(lane.shadow.label)
        return version if version in self._serving.versions(lane.model) else None

    def _why_not(self, lane: _Lane, nbytes: int) -> str:
        """Return why there is no place; the lock is held."""
        if lane.in_flight >= lane.shadow.max_in_flight:
            return BUSY
        return TOO_LARGE if self._held_bytes + nbytes > HELD_BYTES else ""

    def _drop(self, lane: _Lane, reason: str) -> None:
        with self._lock:
            lane.dropped[reason] += 1
        self._observer.shadow_dropped(lane.model, reason)

    def _has_thread(self, lane: _Lane) -> bool:
        """See that the lane has a thread; False if none can be had. The lock is held."""
        if lane.thread is None:
            thread = threading.Thread(
                target=self._work, args=(lane,), name=f"shadow of {lane.model}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:  # the system has no room for more
                return False
            lane.thread = thread
        return True

    def _close(self, lanes: Iterable[_Lane]) -> None:
        """Let go of all that waits; the lock is held."""
        for lane in lanes:
            lane.closed = True
            while lane.waiting:
                lane.in_flight -= 1
                self._held_bytes -= lane.waiting.popleft().nbytes
            lane.changed.notify_all()

    def _work(self, lane: _Lane) -> None:
        while self._work_once(lane):
            pass

    def _work_once(self, lane: _Lane) -> bool:
        """Do one thing; a call of its own, so that nothing of it is held on to while waiting."""
        with self._lock:
            while not lane.waiting and not lane.closed:
                self._clock.wait(lane.changed, None)
            if lane.closed:
                return False
            sample = lane.waiting.popleft()
        try:
            if self._has_patience(lane):
                self._run(lane, sample)
            else:
                self._drop(lane, BUSY)
        except Exception:  # a fault of ours: nobody else may notice
            logger.exception("a comparison with a shadow failed")
        finally:
            self.give_back(lane, sample)
        return True

    def _has_patience(self, lane: _Lane) -> bool:
        """Wait for processors to spare; False if that takes too long."""
        until = self._clock.now() + _PATIENCE_S
        pause_s = _FIRST_PAUSE_S
        while self._is_busy():
            if self._clock.now() >= until:
                return False
            with self._lock:
                if lane.closed:
                    return False
                self._clock.wait(lane.changed, pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return True

    def _run(self, lane: _Lane, sample: Sample) -> None:
        version = self._shadow_version(lane)
        try:
            handle = None if version is None else self._serving.acquire(lane.model, version)
        except NotFound:
            handle = None
        if handle is None or handle.id.version == sample.version:
            if handle is not None:
                handle.release()
            self._drop(lane, NOT_LOADED)
            return
        try:
            comparison = self._compared(lane, sample, handle)
        finally:
            handle.release()
        if comparison is None:
            self._drop(lane, STATEFUL)
            return
        with self._lock:
            agreement = lane.agreement
            pair = comparison.stable, comparison.version
            if agreement is None or (agreement.stable, agreement.version) != pair:
                agreement = lane.agreement = Agreement(*pair)
            agreement.add(comparison)
        self._observer.shadow_compared(comparison)
        if lane.log is not None:
            lane.log.write(comparison)

    def _compared(self, lane: _Lane, sample: Sample, handle: Handle) -> Comparison | None:
        """Run a request on the shadow; None if it must not run twice."""
        servable, version = handle.servable, handle.id.version
        # Past the queue: rows of callers never share a run with these, or wait for it there.
        run = servable.run_aside if isinstance(servable, BatchingServable) else servable.run
        started = self._clock.now()
        try:
            signature, inputs, wanted = sample.plan(servable)
            if signature.stateful:
                return None
            started = self._clock.now()
            outputs = run(signature, inputs, wanted)
        except Exception as error:
            is_known = isinstance(error, ServingError)
            return Comparison(
                model=lane.model,
                stable=sample.version,
                version=version,
                code=error.code if isinstance(error, ServingError) else Code.INTERNAL,
                took_s=self._clock.now() - started,
                error=error.message if is_known else repr(error),  # type: ignore[attr-defined]
                request_id=sample.request_id,
            )
        took_s = self._clock.now() - started
        found = compare(sample.outputs, outputs, lane.shadow.rules)
        row = found.first_off if lane.shadow.log else None
        return Comparison(
            model=lane.model,
            stable=sample.version,
            version=version,
            code=Code.OK,
            took_s=took_s,
            rows=found.rows,
            off_rows=found.off_rows,
            outputs=found.outputs,
            request_id=sample.request_id,
            row=row,
            answers={} if row is None else example(sample.outputs, outputs, row),
        )

"""Stand-ins with behaviour, for the tests of the server's core."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import Cancelled, ServingError
from ladle.server.core.observation import Observation
from ladle.server.core.servable import Alike, Arrays, Done, PendingAlike, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId

TIMEOUT_S = 30.0
"""How long a test waits for an event that must come: longer than any machine is slow."""

FLOAT = dtypes.from_numpy(np.dtype(np.float32))


def until(condition: Callable[[], object]) -> None:
    """Wait for what only other threads can bring about, and fail if it does not come."""
    nothing = threading.Event()  # never set: it only passes the time
    for _ in range(int(TIMEOUT_S / 0.002)):
        if condition():
            return
        nothing.wait(0.002)
    assert condition()


def refusal(error: grpc.RpcError) -> tuple[str, str]:
    """Return the name of the status code and the message with which a call was refused."""
    return error.code().name, error.details() or ""


class FakeClock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._changed = threading.Condition()
        self._sleeping: dict[threading.Thread, tuple[threading.Condition, float]] = {}

    def now(self) -> float:
        return self._now

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        if timeout_s is None:
            return condition.wait(TIMEOUT_S)
        with self._changed:
            wake_at = self._now + timeout_s
            self._sleeping[threading.current_thread()] = condition, wake_at
            self._changed.notify_all()
        condition.wait(TIMEOUT_S)
        with self._changed:
            self._sleeping.pop(threading.current_thread(), None)
        return self._now < wake_at

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake who has slept long enough."""
        with self._changed:
            self._now += seconds
            due = [condition for condition, at in self._sleeping.values() if at <= self._now]
        for condition in due:
            with condition:
                condition.notify_all()

    def wait_until_sleeping(self, count: int) -> None:
        """Block until so many threads wait for time to pass."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._sleeping) >= count, TIMEOUT_S)


def spec(*shape: int, data_type: int = FLOAT) -> TensorSpec:
    """A TensorSpec of float32 unless told otherwise."""
    return TensorSpec(data_type=data_type, shape=shape)


DOUBLE = Signature(name="serving_default", inputs={"x": spec(-1, 2)}, outputs={"y": spec(-1, 2)})


def double(inputs: Arrays) -> dict[str, NDArray[Any]]:
    """y = 2 x, refusing rows that hold a NaN."""
    if np.isnan(inputs["x"]).any():
        raise ServingError("x: expected numbers, got NaN")
    return {"y": inputs["x"] * 2}


class FakeAlike:
    """Requests that are alike, whose transport is the test. Thread-safe."""

    def __init__(
        self, inputs: Sequence[Arrays], ended: Sequence[Callable[[Any], None]] | None = None
    ) -> None:
        """`inputs` of each; `ended` are called with their outcomes, of which each has one."""
        self.observation = Observation("Predict", "GRPC", b"")
        self.outcomes: list[list[Any]] = [[] for _ in inputs]
        self.overs = threading.Semaphore(0)
        self._inputs = inputs
        self._ended = ended or [outcomes.append for outcomes in self.outcomes]
        self._lock = threading.Lock()
        self._open = set(range(len(inputs)))

    def __len__(self) -> int:
        return len(self._inputs)

    def inputs(self, members: Sequence[int]) -> Arrays:
        each = [self._inputs[member] for member in members]
        return {alias: np.concatenate([inputs[alias] for inputs in each]) for alias in each[0]}

    def waiting(self, members: Sequence[int]) -> list[int]:
        return [member for member in members if member in self._open]

    def done(
        self,
        members: Sequence[int],
        outcome: dict[str, NDArray[Any]] | Exception,
        observation: Observation,
    ) -> None:
        for place, member in enumerate(members):
            own: Any = outcome
            if isinstance(outcome, dict):
                own = {a: np.split(array, len(members))[place] for a, array in outcome.items()}
            self._end(member, own)

    def leave(self, member: int, pending: PendingAlike) -> None:
        """Let the caller of a member go, as a transport tells it."""
        self._end(member, Cancelled("the caller went away"))
        pending.leave(member)

    def over(self) -> None:
        self.overs.release()

    def _end(self, member: int, outcome: Any) -> None:
        with self._lock:
            if member not in self._open:
                return
            self._open.discard(member)
        self._ended[member](outcome)


class FakePending:
    """A request that can't be hurried."""

    def cancel(self) -> None:
        pass


class FakeServable:
    """Runs a Python function, remembers its batches, and can be held up in the middle of one."""

    def __init__(
        self,
        function: Callable[[Arrays], Mapping[str, NDArray[Any]]] = double,
        signatures: tuple[Signature, ...] = (DOUBLE,),
        card_json: str | None = None,
    ) -> None:
        self.signatures = {signature.name: signature for signature in signatures}
        self.signature_defs = {signature.name: b"" for signature in signatures}
        self.card_json = card_json
        self.default_signature = ""
        self.batches: list[int] = []
        self.closed = threading.Event()
        self.entered = threading.Semaphore(0)
        self._gate = threading.Event()
        self._gate.set()
        self.function = function

    def hold(self) -> None:
        """Let runs begin and not end."""
        self._gate.clear()

    def release(self) -> None:
        """Let the runs that are held end, and all later ones."""
        self._gate.set()

    def wait_until_running(self) -> None:
        """Block until one more run has begun."""
        assert self.entered.acquire(timeout=TIMEOUT_S)

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        assert not self.closed.is_set(), "run after close"
        self.batches.append(next((len(x) for x in inputs.values() if x.ndim), 0))
        self.entered.release()
        assert self._gate.wait(TIMEOUT_S)
        results = self.function(inputs)
        return {alias: results[alias] for alias in outputs}

    def admit(self, nbytes: int) -> None:
        pass

    def submit(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        done: Done,
        deadline: float | None = None,
        observation: Observation | None = None,
    ) -> FakePending:
        """Run in a thread of its own."""

        def run() -> None:
            try:
                afterwards = done(self.run(signature, inputs, outputs, deadline))
            except Exception as error:
                afterwards = done(error)
            for then in afterwards or ():
                then()

        threading.Thread(target=run, daemon=True).start()
        return FakePending()

    def takes_alike(self, signature: Signature, outputs: tuple[str, ...]) -> bool:
        """None: each is submitted by itself."""
        return False

    def submit_alike(
        self, signature: Signature, inputs: Arrays, outputs: tuple[str, ...], alike: Alike
    ) -> None:
        """Take none: each is submitted by itself."""

    def close(self) -> None:
        assert not self.closed.is_set(), "closed twice"
        self.closed.set()


class FakeLoader:
    """Makes a FakeServable of each version, unless told to fail or to wait."""

    def __init__(self) -> None:
        self.loaded: dict[ServableId, FakeServable] = {}
        self.failures: dict[ServableId, Exception] = {}
        self.attempts: list[ServableId] = []
        self.began = threading.Event()
        """Set by the first load."""
        self._held: dict[ServableId, threading.Event] = {}

    def hold(self, name: str, version: int) -> threading.Event:
        """Make the load of a version wait for the event that is returned."""
        event = self._held[ServableId(name, version)] = threading.Event()
        return event

    def __call__(self, servable_id: ServableId, path: Path) -> FakeServable:
        self.attempts.append(servable_id)
        self.began.set()
        if servable_id in self._held:
            assert self._held[servable_id].wait(TIMEOUT_S)
        if servable_id in self.failures:
            raise self.failures[servable_id]
        servable = self.loaded[servable_id] = FakeServable()
        return servable

"""Whatever comes in whatever order: each caller gets its own rows or its own error, once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from fakes import TIMEOUT_S, FakeAlike, FakeClock, FakeServable, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth, Task
from ladle.server.core.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    ServingError,
    Unavailable,
)
from ladle.server.core.servable import Signature

# Any width, so that shapes differ; the sum's shape is the same for all, so that they may be padded.
SUMS = Signature(name="sums", inputs={"x": spec(-1, -1)}, outputs={"y": spec(-1, 2)})


def sums(inputs: Any) -> dict[str, NDArray[Any]]:
    """The first value of each row, and the largest; NaN is refused, and so is what holds 13."""
    x = inputs["x"]
    if np.isnan(x).any():
        raise ServingError("got NaN")
    if (x == 13).any():
        raise ValueError("got 13")
    return {"y": np.stack([x[:, 0], x.max(axis=1)], axis=1)}


@dataclass
class Sent:
    """A request of the test, and what came of it."""

    x: NDArray[np.float32]
    deadline: float | None
    left: bool = False
    task: Task | None = None
    leave_group: Callable[[], None] | None = None
    outcomes: list[Any] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def take(self, outcome: Any) -> None:
        self.outcomes.append(outcome)
        self.done.set()


def options() -> st.SearchStrategy[BatchOptions]:
    def build(most: int, **rest: Any) -> BatchOptions:
        allowed = (max(1, most // 2), most) if rest.pop("allowed") and most > 1 else ()
        return BatchOptions(max_batch_size=most, allowed_batch_sizes=allowed, **rest)

    return st.builds(
        build,
        st.integers(1, 9),
        allowed=st.booleans(),
        batch_timeout_s=st.sampled_from([0.0, 1.0]),
        max_enqueued_batches=st.integers(1, 6),
        num_batch_threads=st.integers(1, 3),
        pad_variable_length_inputs=st.booleans(),
        enable_large_batch_splitting=st.booleans(),
        refuse_larger=st.booleans(),
    )


@dataclass(frozen=True)
class Send:
    rows: int
    width: int
    value: float
    deadline_s: float | None


@dataclass(frozen=True)
class SendAlike:
    """Requests that come as one, where they can."""

    rows: int
    width: int
    values: list[float]


@dataclass(frozen=True)
class Leave:
    index: int


@dataclass(frozen=True)
class Pass:
    seconds: float


@dataclass(frozen=True)
class Hold:
    held: bool


STEPS = st.lists(
    st.one_of(
        st.builds(
            Send,
            st.integers(1, 12),
            st.integers(1, 3),
            st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 13.0, float("nan")]),
            st.none() | st.sampled_from([0.0, 0.5, 2.0, 100.0]),
        ),
        st.builds(
            SendAlike,
            st.integers(1, 3),
            st.integers(1, 3),
            st.lists(st.sampled_from([1.0, 2.0, 13.0, float("nan")]), min_size=2, max_size=7),
        ),
        st.builds(Leave, st.integers(0, 30)),
        st.builds(Pass, st.sampled_from([0.4, 1.5])),
        st.builds(Hold, st.booleans()),
        options(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=options(), steps=STEPS, threads=st.sampled_from([1, 2, 4]))
def test_each_caller_gets_its_own_rows_or_its_own_error_exactly_once(
    first: BatchOptions, steps: list[Any], threads: int
) -> None:
    clock = FakeClock()
    model = FakeServable(sums, (SUMS,))
    batching = BatchingServable(model, first, clock, max_threads=threads)
    sent: list[Sent] = []
    groups: list[FakeAlike] = []
    every = [first]
    for step in steps:
        match step:
            case Send():
                sent.append(send(batching, clock, step, len(sent)))
            case SendAlike():
                send_alike(batching, clock, step, sent, groups)
            case Leave(index) if index < len(sent):
                sent[index].left = True
                if (task := sent[index].task) is not None:
                    task.cancel()
                elif (leave := sent[index].leave_group) is not None:
                    leave()
            case Pass(seconds):
                clock.advance(seconds)
            case Hold(held):
                if held:
                    model.hold()
                else:
                    model.release()
            case BatchOptions():
                every.append(step)
                batching.configure(step)
    model.release()
    finish(batching, clock, sent)

    for one in sent:
        check(one, clock)
    for group in groups:
        assert group.overs.acquire(timeout=TIMEOUT_S)
        assert not group.overs.acquire(blocking=False)
    largest = max(every, key=lambda options: options.max_batch_size).max_batch_size
    alone = Counter(len(one.x) for one in sent)
    for size in model.batches:
        assert size <= largest or alone[size], "only a request that may run uncut is larger"
    assert batching.depth == QueueDepth()
    assert batching.queue_count == 0
    batching.close()


def send_alike(
    batching: BatchingServable,
    clock: FakeClock,
    step: SendAlike,
    sent: list[Sent],
    groups: list[FakeAlike],
) -> None:
    """Send requests as one, or each by itself if the servable wants them so."""
    all_of_them: list[Sent] = []
    for value in step.values:
        single = Send(step.rows, step.width, value, None)
        all_of_them.append(Sent(rows_of(single, len(sent) + len(all_of_them)), None))
    group = FakeAlike([{"x": one.x} for one in all_of_them], [one.take for one in all_of_them])
    pending = batching.submit_alike(SUMS, {"x": all_of_them[0].x}, ("y",), group)
    if pending is None:
        for value in step.values:
            single = Send(step.rows, step.width, value, None)
            sent.append(send(batching, clock, single, len(sent)))
        return
    for member, one in enumerate(all_of_them):
        one.leave_group = partial(group.leave, member, pending)
    sent += all_of_them
    groups.append(group)


def rows_of(step: Send, number: int) -> NDArray[np.float32]:
    x = np.full((step.rows, step.width), step.value, np.float32)
    x[:, 0] = 1000 * (number + 1) + np.arange(step.rows)  # whose row it is
    if step.width == 1 and step.value in (13.0,):
        x[:, 0] = 13
    return x


def send(batching: BatchingServable, clock: FakeClock, step: Send, number: int) -> Sent:
    x = rows_of(step, number)
    deadline = None if step.deadline_s is None else clock.now() + step.deadline_s
    one = Sent(x, deadline)
    try:
        one.task = batching.submit(SUMS, {"x": x}, ("y",), one.take, deadline)
    except (InvalidArgument, Unavailable) as error:
        one.take(error)
    return one


def finish(batching: BatchingServable, clock: FakeClock, sent: list[Sent]) -> None:
    """Let time pass until nothing waits: a batch may be waiting for its timeout."""
    for one in sent:
        for _ in range(1000):
            if one.done.wait(0.01):
                break
            clock.advance(1.0)
        assert one.done.wait(TIMEOUT_S)
    assert batching.wait_until(lambda depth: depth == QueueDepth(), TIMEOUT_S)


def check(one: Sent, clock: FakeClock) -> None:
    assert len(one.outcomes) == 1
    outcome = one.outcomes[0]
    match outcome:
        case dict():
            expected = np.stack([one.x[:, 0], one.x.max(axis=1)], axis=1)
            np.testing.assert_array_equal(outcome["y"], expected)
        case Cancelled():
            assert one.left
        case DeadlineExceeded():
            assert one.deadline is not None
            assert one.deadline <= clock.now()
        case InvalidArgument():
            assert "is larger than maximum input batch size" in outcome.message
        case Unavailable():
            assert one.task is None
        case ServingError():
            assert np.isnan(one.x).any()
        case ValueError():
            assert (one.x == 13).any()
        case _:
            raise AssertionError(outcome)
